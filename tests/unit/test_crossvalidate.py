"""Every slide is scored once, by a model that knew neither its label nor its patient."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from milscope.configs import CrossvalidateConfig, EvaluateConfig
from milscope.crossvalidate import crossvalidate
from milscope.evaluate import evaluate
from milscope.models import load_model
from milscope.store import read_features, read_manifest
from milscope.types import InputError

module = importlib.import_module("milscope.crossvalidate")
QUICK = CrossvalidateConfig(aggregators=("mean",), epochs=5, batch=8, learning_rate=1e-2, folds=3, precision="float32")


def test_every_slide_is_scored_by_the_model_that_did_not_know_its_patient(simulate, tmp_path):
    data = simulate(slides=36)
    table = data.table.assign(patient=[f"p{row // 2 * 2 % 30 + row % 2}" for row in range(36)])
    found = crossvalidate(data.directory, table.drop(columns="split"), tmp_path / "cv", QUICK)
    assert (found.folds, found.slides) == (3, 36)
    scores = pd.read_csv(found.directory / "slides.csv", dtype={"patient": str})
    assert sorted(scores["slide"]) == sorted(table["slide"])
    assert (scores["split"] == "test").all()
    division = pd.read_csv(found.directory / "splits.csv")
    assert ((division.filter(like="fold_") == "test").sum(axis=1) == 1).all()
    for number in range(3):
        seen = read_manifest(found.directory / "models" / str(number), "model").patients
        own = scores[scores["fold"] == number]
        assert not set(own["patient"]) & set(seen)
        model, questions, *_ = load_model(found.directory / "models" / str(number))
        with torch.no_grad():
            logits = model(read_features(data.directory, own["slide"].tolist())).logits
        np.testing.assert_allclose(own["logit"], questions.tasks[0].suspicion(logits), atol=1e-4)
    cells = pd.read_parquet(found.directory / "cells.parquet")
    assert set(cells["slide"]) == set(scores["slide"])


def test_its_scores_are_evaluated_as_any_others_and_the_encoders_patients_are_refused(simulate, tmp_path):
    data = simulate(slides=36)
    found = crossvalidate(data.directory, data.table, tmp_path / "cv", QUICK)
    with pytest.raises(InputError, match="neither encoder nor model was trained on"):
        evaluate(found.directory, tmp_path / "metrics")
    stranger = data.table.replace({"patient": {"p000": "p999"}})
    config = replace(QUICK, aggregators=("abmil",), epochs=20)
    found = crossvalidate(data.directory, stranger, tmp_path / "cv2", config)
    assert evaluate(found.directory, tmp_path / "metrics", EvaluateConfig(draws=50)).auc > 0.9


def test_a_poisoned_label_changes_no_score_of_its_own_fold(simulate, tmp_path):
    data = simulate(slides=36)
    crossvalidate(data.directory, data.table, tmp_path / "clean", QUICK)
    clean = pd.read_csv(tmp_path / "clean" / "slides.csv")
    poisoned = data.table.copy()
    test = poisoned["slide"].isin(clean.loc[clean["fold"] == 1, "slide"])
    folders = pd.read_csv(tmp_path / "clean" / "splits.csv")
    (tmp_path / "splits").mkdir()
    for fold in range(3):
        named = {name: folders.loc[folders[f"fold_{fold}"] == split, "slide"].tolist()
                 for name, split in (("train", "train"), ("val", "validation"), ("test", "test"))}
        pd.DataFrame({name: pd.Series(slides, dtype=str) for name, slides in named.items()}).to_csv(
            tmp_path / "splits" / f"splits_{fold}.csv")
    poisoned.loc[test, "abnormal"] = 1 - poisoned.loc[test, "abnormal"]
    crossvalidate(data.directory, poisoned, tmp_path / "poisoned", QUICK, splits=tmp_path / "splits")
    found = pd.read_csv(tmp_path / "poisoned" / "slides.csv").set_index("slide")["logit"]
    own = clean[clean["fold"] == 1]
    np.testing.assert_array_equal(found[own["slide"]], own["logit"])


def test_finished_folds_are_not_trained_again(simulate, tmp_path, monkeypatch):
    data, trained = simulate(slides=36), []
    train = module.train

    def interrupted(*arguments):
        trained.append(arguments[2])
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        crossvalidate(data.directory, data.table, tmp_path / "cv", QUICK)
    before = (tmp_path / ".cv.partial" / "models" / "0" / "manifest.json").stat().st_mtime_ns
    crossvalidate(data.directory, data.table, tmp_path / "cv", QUICK)
    assert (tmp_path / "cv" / "models" / "0" / "manifest.json").stat().st_mtime_ns == before


def test_no_site_is_trained_on_and_tested(simulate, tmp_path):
    data = simulate(slides=36)
    table = data.table.assign(site=[f"hospital {row // 2 % 6}" for row in range(36)])
    found = crossvalidate(data.directory, table, tmp_path / "cv", replace(QUICK, site="site"))
    division = pd.read_csv(found.directory / "splits.csv").merge(table[["slide", "site"]], on="slide")
    for fold in range(3):
        tested = set(division.loc[division[f"fold_{fold}"] == "test", "site"])
        assert not tested & set(division.loc[division[f"fold_{fold}"] != "test", "site"])


def test_tasks_of_time_have_one_horizon_in_all_folds_so_that_their_scores_can_be_judged_together(simulate, tmp_path):
    data, random = simulate(slides=48), np.random.default_rng(0)
    months = np.where(data.table["abnormal"] == 1, 1.0, 10.0) + random.random(48)
    table = data.table.replace({"patient": {"p000": "p999"}}).assign(months=months, died=(random.random(48) < 0.8).astype(int))
    config = replace(QUICK, task="death:cox(months,died),late:hazards(months,died,3)", epochs=20, batch=16)
    found = crossvalidate(data.directory, table, tmp_path / "cv", config)
    told = pd.read_csv(found.directory / "tasks" / "death.csv")
    assert [float(name[2:]) for name in told if name.startswith("S:")] == pytest.approx([sorted(
        months[table["died"] == 1])[(table["died"].sum() - 1) // 2]], rel=1e-4)
    assert told.filter(like="S:").notna().all().all()
    late = pd.read_csv(found.directory / "tasks" / "late.csv").filter(like="S:")
    assert late.shape == (48, 2)
    assert late.notna().all().all()
    evaluate(found.directory, tmp_path / "metrics", EvaluateConfig(draws=50))
    tasks = json.loads((tmp_path / "metrics" / "metrics.json").read_text())["tasks"]
    assert tasks["death"]["figures"]["c_index"]["value"] > 0.6
    assert tasks["late"]["figures"]["integrated_brier"]["value"] < 0.25


def written(tmp_path, frame, tests):
    """CLAM's splits: of what is not tested a third validates."""
    folder = tmp_path / "splits"
    folder.mkdir(exist_ok=True)
    for number, test in enumerate(tests):
        rest = [slide for slide in frame["slide"] if slide not in test]
        held = [slide for place, slide in enumerate(rest) if place // 2 % 3 == 0]
        named = {"train": [slide for slide in rest if slide not in held], "val": held, "test": test}
        columns = {name: pd.Series(slides, dtype=str) for name, slides in named.items()}
        pd.DataFrame(columns).to_csv(folder / f"splits_{number}.csv")
    return folder


def test_splits_may_name_slides_that_cannot_be_learned_from(simulate, tmp_path):
    data = simulate(slides=36)
    table = data.table.astype({"abnormal": float})
    table.loc[[3, 7], "abnormal"] = np.nan
    (data.directory / "features_fake" / "s012.h5").unlink()
    names = table["slide"].tolist()
    splits = written(tmp_path, table, [names[:12], names[12:24], names[24:]])
    found = crossvalidate(data.directory, table, tmp_path / "cv", QUICK, splits=splits)
    assert found.slides == 33
    assert found.warnings[0] == "3 slides without features or without a label were left out: s003, s007, s012"
    scores = pd.read_csv(found.directory / "slides.csv")
    assert set(scores["slide"]) == set(names) - {"s003", "s007", "s012"}
    splits = written(tmp_path, table, [names[:12], ["s003", "s007"]])
    with pytest.raises(InputError, match=r"test some slides with features and a label\. Found none in fold 1"):
        crossvalidate(data.directory, table, tmp_path / "cv2", QUICK, splits=splits)


def test_splits_that_test_a_slide_twice_are_refused_and_can_be_given_one_at_a_time(simulate, tmp_path):
    data = simulate(slides=36)
    names = data.table["slide"].tolist()
    splits = written(tmp_path, data.table, [names[:12], names[10:24]])
    with pytest.raises(InputError, match=r"`s010` tested in fold 0 and fold 1. .* one split at a time"):
        crossvalidate(data.directory, data.table, tmp_path / "cv", QUICK, splits=splits)
    assert not (tmp_path / "cv").exists()
    assert crossvalidate(data.directory, data.table, tmp_path / "cv", QUICK, splits=splits / "splits_1.csv").slides == 14


def test_nothing_to_learn_from_is_refused(simulate, tmp_path):
    data = simulate(slides=12)
    with pytest.raises(InputError, match="slides that have features and a label"):
        crossvalidate(data.directory, data.table.assign(slide=[f"x{row}" for row in range(12)]), tmp_path / "cv", QUICK)


def test_scores_of_cells_that_only_some_folds_have_are_left_out(tmp_path):
    """Folds may choose models of other kinds; one sends cells to experts, another does not."""
    for number, columns in enumerate((["evidence", "routing"], ["evidence"])):
        part = tmp_path / str(number)
        (part / "tasks").mkdir(parents=True)
        for name in ("slides.csv", "patients.csv"):
            pd.DataFrame({"patient": [f"p{number}"]}).to_csv(part / name, index=False)
        pd.DataFrame({"slide": [f"s{number}"], **{name: [0.5 + number] for name in columns}}).to_parquet(part / "cells.parquet")
    module._join([tmp_path / "0", tmp_path / "1"], tmp_path)
    cells = pd.read_parquet(tmp_path / "cells.parquet")
    assert cells.to_dict("list") == {"slide": ["s0", "s1"], "evidence": [0.5, 1.5]}
