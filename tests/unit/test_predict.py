"""Prediction scores every slide and cell as the model does, in bounded memory, and refuses another encoder's features."""

import math
import shutil
import sys

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from milscope.configs import EncodeConfig, PredictConfig, TrainConfig
from milscope.models import load_model
from milscope.pool import Lost
from milscope.predict import predict
from milscope.ranking import rank_scores
from milscope.store import Bags, Stage, read_cells, read_features, write_features
from milscope.store._manifest import read_manifest
from milscope.tasks import Binary
from milscope.train import train
from milscope.types import InputError

QUICK = TrainConfig(aggregators=("abmil-gated",), epochs=20, batch=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained_once(simulate_in, tmp_path_factory):
    data = simulate_in(tmp_path_factory.mktemp("trained"))
    train(data.directory, data.table, data.directory.parent / "model", QUICK)
    return data


@pytest.fixture
def trained(trained_once, tmp_path):
    """Features and the model of them, in the test's own directory."""
    shutil.copytree(trained_once.directory.parent, tmp_path, dirs_exist_ok=True)
    return trained_once._replace(directory=tmp_path / trained_once.directory.name, table=trained_once.table.copy())


def test_scores_are_those_of_the_model(trained, tmp_path):
    found = predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table)
    slides, cells = read(found.directory)
    model, *_ = load_model(tmp_path / "model")
    assert list(slides) == ["slide", "patient", "split", "label", "probability", "logit", "called"]
    assert slides[["slide", "patient", "split"]].equals(trained.table[["slide", "patient", "split"]].astype(str))
    assert slides["label"].tolist() == trained.table["abnormal"].tolist()
    for row in slides.itertuples():
        with torch.no_grad():
            expected = model(read_features(trained.directory, [row.slide]))
        assert row.logit == pytest.approx((expected.logits[0, 1] - expected.logits[0, 0]).item(), abs=1e-5)
        assert row.probability == pytest.approx(1 / (1 + math.exp(-row.logit)))
        assert row.called == (row.probability >= 0.5)
        of_slide = cells[cells["slide"] == row.slide]
        assert of_slide["attention"].tolist() == pytest.approx(expected.attention[:, 1].tolist())
    assert found.slides == 24
    assert found.positives == slides["called"].sum() == 12


def test_attention_is_that_of_the_positive_class_where_classes_have_their_own(simulate, tmp_path):
    data = simulate()
    train(data.directory, data.table, tmp_path / "model", TrainConfig(aggregators=("pamil",), epochs=5, learning_rate=1e-2))
    _, cells = read(predict(data.directory, tmp_path / "model", tmp_path / "scores").directory)
    model, *_ = load_model(tmp_path / "model")
    with torch.no_grad():
        attention = model(read_features(data.directory, ["s001"])).attention
    found = cells.loc[cells["slide"] == "s001", "attention"].tolist()
    assert found == pytest.approx(attention[:, 1].tolist())
    assert found != pytest.approx(attention[:, 0].tolist())


def test_cells_keep_name_place_and_the_order_of_the_store(trained, tmp_path):
    _, cells = read(predict(trained.directory, tmp_path / "model", tmp_path / "scores").directory)
    assert list(cells) == ["slide", "cell", "x", "y", "width", "height", "attention", "evidence"]
    assert cells["slide"].drop_duplicates().tolist() == trained.table["slide"].tolist()
    for slide, of_slide in cells.groupby("slide"):
        assert of_slide["cell"].tolist() == [f"{slide}:{number}" for number in range(len(of_slide))]
        assert of_slide["y"].tolist() == [number + 0.5 for number in range(len(of_slide))]
        assert of_slide["attention"].sum() == pytest.approx(1, abs=1e-5)


def test_witnesses_come_first_by_attention_and_by_evidence(trained, tmp_path):
    _, cells = read(predict(trained.directory, tmp_path / "model", tmp_path / "scores").directory)
    for slide, witnesses in trained.witnesses.items():
        of_slide = cells[cells["slide"] == slide]
        if witnesses.any():
            for score in ("attention", "evidence"):
                assert of_slide.loc[witnesses, score].min() > of_slide.loc[~witnesses, score].median()


def test_evidence_is_the_logit_of_the_cell_alone(trained, tmp_path):
    model, *_ = load_model(tmp_path / "model")
    features = read_features(trained.directory, ["s001"]).features
    _, cells = read(predict(trained.directory, tmp_path / "model", tmp_path / "scores").directory)
    found = cells.loc[cells["slide"] == "s001", "evidence"]
    for cell, evidence in zip(features, found, strict=True):
        with torch.no_grad():
            logits = model(Bags(cell[None], torch.tensor([0, 1]))).logits[0]
        assert evidence == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)


def test_a_cell_of_several_windows_counts_once(trained, tmp_path):
    """Its attention is the sum, its evidence and gradient the highest of its windows', its place that of the largest."""
    several, rows = seen_through_windows(trained, ["s001", "s002"], tmp_path / "several")
    scores = predict(several, tmp_path / "model", tmp_path / "scores", config=PredictConfig(gradient=True)).directory
    slides, found = read(scores)
    plain, *_ = load_model(tmp_path / "model")
    for slide, own in found.groupby("slide"):
        bags = read_features(several, [slide])
        bags = Bags(bags.features.requires_grad_(), bags.offsets)
        logits = plain(bags).logits[0]
        (logits[1] - logits[0]).backward()
        with torch.no_grad():
            alone = plain(Bags(bags.features, torch.arange(len(bags.features) + 1))).logits
            by_row = {"attention": plain(bags).attention[:, 1], "evidence": alone[:, 1] - alone[:, 0],
                      "gradient": (bags.features.grad * (bags.features - plain.mean)).sum(1)}
        expected = rows[slide].assign(**{name: score.numpy() for name, score in by_row.items()})
        assert slides.set_index("slide").loc[slide, "logit"] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-5)
        cells = expected.groupby("cell", sort=False).agg({"attention": "sum", "evidence": "max", "gradient": "max"})
        assert own["cell"].tolist() == cells.index.tolist()
        for score in cells:
            np.testing.assert_allclose(own[score], cells[score], atol=1e-5)
        assert own["attention"].sum() == pytest.approx(1, abs=1e-5)
        largest = expected.sort_values("width", ascending=False, kind="stable").drop_duplicates("cell").set_index("cell")
        for name in ("x", "y", "width", "height"):
            assert own[name].tolist() == largest.loc[own["cell"], name].tolist()


def test_cells_that_share_a_name_by_chance_stay_apart(trained, tmp_path):
    several, rows = seen_through_windows(trained, ["s001"], tmp_path / "several",
                                         names=lambda count: ["a", *(str(row) for row in range(count - 3)), "a", "a"])
    _, found = read(predict(several, tmp_path / "model", tmp_path / "scores").directory)
    assert found["cell"].tolist() == rows["s001"]["cell"].tolist()


def seen_through_windows(data, slides, out, names=None):
    """The features of some slides as if each cell had been encoded a second and a third time, the second time larger."""
    rows, random = {}, np.random.default_rng(3)
    with Stage(out, "features", EncodeConfig(), {"cells": "c", "encoder": "e1"}, ["p000"]) as stage:
        folder = stage.work / "features_fake"
        folder.mkdir()
        for slide in slides:
            features = read_features(data.directory, [slide]).features.numpy()
            frame = read_cells(data.directory, slide)
            parts = [frame, frame.assign(x=frame["x"] + 3, width=50.0, height=50.0), frame.assign(y=frame["y"] - 4, width=10.0)]
            rows[slide] = pd.concat(parts, ignore_index=True)
            if names:
                rows[slide]["cell"] = names(len(rows[slide]))
            features = np.concatenate([features + random.normal(size=features.shape) for _ in parts]).astype(np.float32)
            table = pa.Table.from_pandas(rows[slide].assign(mpp=np.nan), preserve_index=False)
            write_features(folder / f"{slide}.h5", features, table, encoder="fake")
    return out, rows


def test_the_gradient_is_what_a_small_step_to_the_mean_cell_takes_away(trained, tmp_path):
    scores = predict(trained.directory, tmp_path / "model", tmp_path / "scores", config=PredictConfig(gradient=True)).directory
    _, cells = read(scores)
    model, *_ = load_model(tmp_path / "model")
    bags = read_features(trained.directory, ["s001"])
    model, features = model.double(), bags.features.double()
    found = cells.loc[cells["slide"] == "s001", "gradient"].to_numpy()
    for cell in range(0, len(features), 7):
        moved, step = [], 1e-6
        for side in (-step, step):
            stepped = features.clone()
            stepped[cell] += side * (features[cell] - model.mean)
            with torch.no_grad():
                logits = model(Bags(stepped, bags.offsets)).logits[0]
            moved.append((logits[1] - logits[0]).item())
        assert found[cell] == pytest.approx((moved[1] - moved[0]) / (2 * step), rel=1e-3, abs=1e-4)
    assert rank_scores(scores, "gradient")["score"].notna().all()
    plain = predict(trained.directory, tmp_path / "model", tmp_path / "plain").directory
    with pytest.raises(InputError, match="predict` with `--gradient`"):
        rank_scores(plain, "gradient")


def test_several_tasks_are_told_apart(simulate, tmp_path):
    data = simulate(slides=36)
    table = data.table.assign(grade=np.where(data.table["abnormal"] == 1, "high", "low"), months=np.arange(36) + 1.0,
                              died=(np.arange(36) % 5 > 0).astype(int))
    task = "abnormal,grade:multiclass(low,high),death:cox(months,died),late:hazards(months,died,2)"
    train(data.directory, table, tmp_path / "model", TrainConfig(task=task, aggregators=("abmil",), epochs=10))
    found = predict(data.directory, tmp_path / "model", tmp_path / "scores", table)
    told = {path.stem: pd.read_csv(path, keep_default_na=False) for path in (found.directory / "tasks").glob("*.csv")}
    assert told.keys() == {"abnormal", "grade", "death", "late"}
    assert told["grade"]["label"].tolist() == table["grade"].tolist()
    np.testing.assert_allclose(told["grade"][["p:low", "p:high"]].sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(told["grade"]["p:high"], told["grade"]["probability"], atol=1e-6)
    assert {"time", "event", "risk", "probability"} <= set(told["death"])
    horizon = [name for name in told["late"] if name.startswith("S:")]
    np.testing.assert_allclose(1 - told["late"][horizon[0]].astype(float), told["late"]["probability"], atol=1e-5)
    slides, cells = read(found.directory)
    np.testing.assert_allclose(slides["probability"], told["abnormal"]["probability"])
    assert [name for name in cells if ":" in name] == [f"{score}:{name}" for name in ("grade", "death", "late")
                                                        for score in ("attention", "evidence")]
    assert (cells.groupby("slide")[[name for name in cells if "attention" in name]].sum() - 1).abs().max().max() < 1e-4


def test_what_a_model_sends_to_experts_is_told_cell_by_cell(simulate, tmp_path):
    """Weights sum to 1 over a slide, over windows too; cells that are not sent have none; models without experts no column."""
    data = simulate(slides=12)
    table = data.table.assign(clue=[1, 0, 0, 1, np.nan, 0] * 2)
    small = {"mecds": {"width": 8, "heads": 2, "blocks": 1}}
    train(data.directory, table, tmp_path / "model", TrainConfig(task="abnormal,clue", aggregators=("mecds",), options=small,
                                                                 epochs=3, learning_rate=1e-2))
    _, cells = read(predict(data.directory, tmp_path / "model", tmp_path / "scores", table).directory)
    assert list(cells)[6:] == ["attention", "evidence", "routing", "attention:clue", "evidence:clue", "routing:clue"]
    with torch.no_grad():
        found = load_model(tmp_path / "model").aggregator(read_features(data.directory, ["s001"])).routing
    own = cells[cells["slide"] == "s001"]
    np.testing.assert_allclose(own["routing"], found[:, 1], atol=1e-6)
    np.testing.assert_allclose(own["routing:clue"], found[:, 3], atol=1e-6)
    several, _ = seen_through_windows(data, ["s001"], tmp_path / "several")
    _, merged = read(predict(several, tmp_path / "model", tmp_path / "merged").directory)
    for rows in (cells, merged):
        np.testing.assert_allclose(rows.groupby("slide")[["routing", "routing:clue"]].sum(), 1, atol=1e-5)
        assert (rows[["routing", "routing:clue"]] >= 0).all(axis=None)
    assert (own[["routing", "routing:clue"]] == 0).any(axis=None)


def test_the_highest_slide_speaks_for_the_patient(trained, tmp_path):
    table = trained.table.assign(patient=[f"p{row // 4}" for row in range(24)], split="test")
    found = predict(trained.directory, tmp_path / "model", tmp_path / "scores", table)
    slides, patients = read(found.directory)[0], pd.read_csv(found.directory / "patients.csv")
    assert patients["slides"].tolist() == [4] * 6
    np.testing.assert_allclose(patients["probability"], slides.groupby("patient")["probability"].max())
    assert patients["label"].tolist() == slides.groupby("patient")["label"].max().tolist()
    assert (patients["called"] == slides.groupby("patient")["called"].max().to_numpy()).all()


def test_the_frozen_operating_point_decides_and_leaves_a_band_for_review(simulate, tmp_path):
    data = simulate(slides=120, shift=1.2)
    config = TrainConfig(aggregators=("abmil",), epochs=6, sensitivity=0.8, specificity=0.8, guarantee="expected")
    train(data.directory, data.table, tmp_path / "model", config)
    band = load_model(tmp_path / "model").operating["abnormal"].band
    scores = predict(data.directory, tmp_path / "model", tmp_path / "a", data.table).directory
    slides = pd.read_csv(scores / "tasks" / "abnormal.csv")
    assert (slides["called"] == (slides["logit"] >= band.lower)).all()
    assert (slides["decision"] == band.decide(slides["logit"].to_numpy())).all()
    assert set(slides["decision"]) == {"negative", "review", "positive"}
    other = predict(data.directory, tmp_path / "model", tmp_path / "b", data.table, PredictConfig(threshold=0.9))
    slides = read(other.directory)[0]
    assert (slides["called"] == (slides["probability"] >= 0.9)).all()


def test_half_precision_says_nearly_the_same(trained, tmp_path):
    exact, half = (read(predict(trained.directory, tmp_path / "model", tmp_path / name,
                                config=PredictConfig(precision=name)).directory) for name in ("float32", "bfloat16"))
    np.testing.assert_allclose(half[0]["logit"], exact[0]["logit"], rtol=0.02, atol=0.05)
    np.testing.assert_allclose(half[1]["evidence"], exact[1]["evidence"], rtol=0.02, atol=0.1)


def test_without_a_table_labels_and_splits_are_empty(trained, tmp_path):
    slides, _ = read(predict(trained.directory, tmp_path / "model", tmp_path / "scores").directory)
    assert slides["patient"].equals(slides["slide"])
    assert slides["split"].eq("").all()
    assert slides["label"].isna().all()


def test_a_table_without_labels_or_with_some_is_enough(trained, tmp_path):
    table = trained.table[["slide"]].iloc[:3]
    slides, _ = read(predict(trained.directory, tmp_path / "model", tmp_path / "a", table).directory)
    assert slides["label"].isna().all()
    table = table.assign(abnormal=[1, None, 0])
    path = predict(trained.directory, tmp_path / "model", tmp_path / "b", table).directory
    assert pd.read_csv(path / "slides.csv", dtype=str, keep_default_na=False)["label"].tolist() == ["1", "", "0"]


def test_the_threshold_calls_slides_from_it_upwards(trained, tmp_path):
    slides, _ = read(predict(trained.directory, tmp_path / "model", tmp_path / "a").directory)
    threshold = float(slides["probability"].sort_values().iloc[20])
    found = predict(trained.directory, tmp_path / "model", tmp_path / "b", config=PredictConfig(threshold=threshold))
    assert found.positives == read(found.directory)[0]["called"].sum() == 4
    assert read_manifest(found.directory, "scores").summary["threshold"] == threshold


def test_the_record_says_what_was_done_and_who_was_seen(trained, tmp_path):
    out = predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table).directory
    manifest = read_manifest(out, "scores")
    assert manifest.patients == read_manifest(tmp_path / "model", "model").patients
    assert manifest.summary == {"task": "abnormal", "threshold": 0.5, "aggregator": "abmil-gated", "slides": 24, "review": 0,
                                "positives": 12, "skipped": [], "warnings": [],
                                "tasks": [{**Binary("abnormal").describe(), "classes": ["negative", "positive"]}]}
    created = manifest.created, (out / "cells.parquet").stat().st_mtime_ns
    predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table)
    assert created == (read_manifest(out, "scores").created, (out / "cells.parquet").stat().st_mtime_ns)


def test_slides_that_cannot_be_scored_are_left_out_and_named(simulate, tmp_path):
    changes = {"s004": lambda features: features[:0], "s005": lambda features: features * np.inf}
    data = simulate(change=changes)
    (data.directory / "features_fake" / "s006.h5").unlink()
    train(data.directory, data.table[~data.table["slide"].isin(changes)], tmp_path / "model", QUICK)
    found = predict(data.directory, tmp_path / "model", tmp_path / "scores", data.table)
    slides, cells = read(found.directory)
    assert found.slides == len(slides) == cells["slide"].nunique() == 21
    summary = read_manifest(found.directory, "scores").summary
    assert sorted(summary["skipped"]) == ["s004", "s005", "s006"]
    assert any("s004 was not scored: no cells" in warning for warning in summary["warnings"])


def test_refuses_another_encoders_features(trained, simulate, tmp_path):
    other = simulate(name="others", encoder="e2")
    with pytest.raises(InputError, match=r"of encoder e1, .* Found features of encoder e2\. Encode the cells"):
        predict(other.directory, tmp_path / "model", tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_refuses_a_threshold_that_is_no_probability(trained, tmp_path, threshold):
    with pytest.raises(InputError, match="`threshold`"):
        predict(trained.directory, tmp_path / "model", tmp_path / "scores", config=PredictConfig(threshold))


def test_refuses_a_table_of_other_slides_and_directories_of_other_kinds(trained, tmp_path):
    with pytest.raises(InputError, match="none of 1"):
        predict(trained.directory, tmp_path / "model", tmp_path / "scores", pd.DataFrame({"slide": ["x"]}))
    with pytest.raises(InputError, match="a `model` artifact"):
        predict(trained.directory, trained.directory, tmp_path / "scores")


def read(directory):
    slides = pd.read_csv(directory / "slides.csv", dtype={"slide": str, "patient": str, "split": str})
    return slides.assign(split=slides["split"].fillna("")), pd.read_parquet(directory / "cells.parquet")


def test_processes_say_the_same(trained, tmp_path):
    here = predict(trained.directory, tmp_path / "model", tmp_path / "here", trained.table,
                   PredictConfig(gradient=True)).directory
    there = predict(trained.directory, tmp_path / "model", tmp_path / "there", trained.table,
                    PredictConfig(gradient=True, executor="processes", workers=1, limit=600.0)).directory
    for name in ("slides.csv", "patients.csv", "tasks/abnormal.csv", "cells.parquet"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())


def test_other_processes_go_on_where_they_were_stopped_and_the_lost_are_named(trained, tmp_path, monkeypatch):
    given = []

    def over(function, jobs, workers, **options):
        given.append((len(jobs), workers, options["executor"], options["address"], options["limit"]))
        for place, job in enumerate(jobs):
            if place == 5 and len(given) == 1:
                raise KeyboardInterrupt
            yield job, Lost("not done after 60 s") if job[0] == "s023" else function(job)

    monkeypatch.setattr(sys.modules["milscope.predict._slides"], "over_slides", over)
    config = PredictConfig(executor="ray", workers=3, address="head:6379", limit=60.0)
    with pytest.raises(KeyboardInterrupt):
        predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table, config)
    done = predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table, config)
    assert given == [(24, 3, "ray", "head:6379", 60.0), (19, 3, "ray", "head:6379", 60.0)]
    assert done.slides == 23
    assert "slide s023 was not scored: not done after 60 s" in read_manifest(done.directory, "scores").summary["warnings"]
    _, cells = read(done.directory)
    assert cells["slide"].drop_duplicates().tolist() == trained.table["slide"].tolist()[:-1]


@pytest.mark.parametrize("executor", ["here", "processes"])
def test_damaged_files_are_named_and_the_others_scored(trained, tmp_path, executor):
    folder = trained.directory / "features_fake"
    (folder / "s001.h5").write_bytes((folder / "s001.h5").read_bytes()[:3000])
    (folder / "s002.h5").write_bytes(b"")
    with h5py.File(folder / "s003.h5", "a") as file:
        del file["place/x"]
        file["place/x"] = np.zeros(3)
    found = predict(trained.directory, tmp_path / "model", tmp_path / "scores", trained.table,
                    PredictConfig(executor=executor, workers=1, limit=600.0))
    assert found.slides == 21
    assert read_manifest(found.directory, "scores").summary["skipped"] == ["s001", "s002", "s003"]


def test_the_tables_scale_places_cells_that_are_in_microns(trained, tmp_path):
    theirs = tmp_path / "stamp"
    theirs.mkdir()
    for slide in ("s000", "s001", "s002", "s003"):
        with h5py.File(theirs / f"{slide}.h5", "w") as file:
            file["coords"] = np.array([[0.0, 0.0], [64.0, 128.0]], np.float32)
            file["feats"] = read_features(trained.directory, [slide]).features[:2].numpy()
            file.attrs.update({"stamp_version": "2.3.0", "unit": "um", "tile_size_um": 64.0, "extractor": "fake"})
    table = trained.table.iloc[:4].assign(split=["train", "train", "validation", "validation"])
    train(theirs, table, tmp_path / "own", QUICK)
    places = {}
    for mpp in (0.5, 0.25, None):
        scores = predict(theirs, tmp_path / "own", tmp_path / f"scores{mpp}", table.assign(mpp=mpp)).directory
        _, cells = read(scores)
        places[mpp] = cells.loc[1, ["x", "y", "width"]].astype(float).tolist()
    assert places[0.5] == [192.0, 320.0, 128.0]
    assert places[0.25] == [384.0, 640.0, 256.0]
    assert np.isnan(places[None]).all()


@pytest.mark.parametrize("setting", [{"workers": -1}, {"limit": -1.0}, {"limit": math.inf}])
def test_refuses_settings_out_of_range(trained, tmp_path, setting):
    with pytest.raises(InputError, match=f"`{next(iter(setting))}` should be"):
        predict(trained.directory, tmp_path / "model", tmp_path / "scores", config=PredictConfig(**setting))
