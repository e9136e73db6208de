"""Models side by side: the same patients, folds and draws for all, so that what differs is the model."""

import importlib
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from milscope.compare import compare
from milscope.compare._judge import judge
from milscope.compare._repeat import Cost, Repetition
from milscope.compare._within import GradedScores, RiskScores, over_repetitions
from milscope.configs import CompareConfig, TrainConfig
from milscope.metrics import Bootstrap, c_index
from milscope.store import read_manifest
from milscope.types import InputError

stage = importlib.import_module("milscope.compare._compare")
steps = importlib.import_module("milscope.compare._repeat")
QUICK = CompareConfig(models=("max",), seeds=2, folds=2, epochs=4, batch=8, learning_rate=1e-2, precision="float32", draws=200)
TASK = {"name": "abnormal", "kind": "binary", "classes": ["negative", "positive"]}


@pytest.fixture
def given(simulate):
    """Features, and a slide table of patients that the encoder has not seen."""
    data = simulate(slides=24, cells=12)
    return data.directory, data.table.replace({"patient": {"p000": "p999"}})


def graded(seed=0, slides=40, folds=4, offset=0.0, good=1.5):
    """Scores of which each fold's are moved by a multiple of the offset."""
    random = np.random.default_rng(seed)
    labels = np.arange(slides) % 2
    fold = np.arange(slides) // 2 % folds
    positive = 1 / (1 + np.exp(-(random.normal(size=slides) + good * labels + offset * fold)))
    probabilities = np.stack([1 - positive, positive], axis=1)
    return GradedScores(labels, probabilities, probabilities.argmax(1), [f"p{place}" for place in range(slides)], fold)


def once(scores):
    return {name: float(value[0]) for name, value in scores.drawn(np.ones((1, len(scores.patients)))).items()}


def repeated(*scores):
    return [Repetition(TASK, one, Cost([2.0], [4], 10, 0.5, 40), []) for one in scores]


def test_models_are_trained_and_judged_on_the_same_folds_and_never_on_a_known_patient(given, tmp_path, monkeypatch):
    trained, train = [], steps.train

    def watched(features, table, out, config):
        trained.append((config.aggregators[0], config.seed, table))
        return train(features, table, out, config)

    monkeypatch.setattr(steps, "train", watched)
    found = compare(*given, tmp_path / "out", replace(QUICK, models=("max", "abmil")))
    assert found.models == 3
    divisions = {}
    for model, seed, table in trained:
        division = table.sort_values("slide")[["slide", "split"]].to_numpy().tolist()
        divisions.setdefault(model, {}).setdefault(seed, []).append(division)
    assert list(divisions) == ["max", "abmil", "mean"]
    assert divisions["max"] == divisions["abmil"] == divisions["mean"]
    assert divisions["max"][0] != divisions["max"][1], "another division in each repetition"
    for model in divisions:
        for seed in (0, 1):
            scores = pd.read_csv(found.directory / "runs" / model / str(seed) / "slides.csv")
            assert scores["slide"].tolist() == sorted(given[1]["slide"])
            for fold, division in enumerate(divisions[model][seed]):
                tested = {slide for slide, split in division if split == "test"}
                assert set(scores.loc[scores["fold"] == fold, "slide"]) == tested


def test_the_table_says_what_the_scores_say(given, tmp_path):
    found = compare(*given, tmp_path / "out", QUICK)
    table = pd.read_csv(found.directory / "table.csv").set_index("model")
    assert table.index.tolist() == ["max", "mean"]
    assert table["role"].tolist() == ["reference", "baseline"]
    values = {}
    for model in table.index:
        aucs, precisions, errors = [], [], []
        for seed in range(2):
            scores = pd.read_csv(found.directory / "runs" / model / str(seed) / "slides.csv")
            positive = scores["label"] == "positive"
            parts = [(positive[own], scores.loc[own, "p:positive"]) for own in (scores["fold"] == 0, scores["fold"] == 1)]
            aucs.append(np.mean([roc_auc_score(*part) for part in parts]))
            precisions.append(np.mean([average_precision_score(*part) for part in parts]))
            errors.append(brier_score_loss(positive, scores["p:positive"]))
        values[model] = np.mean(aucs)
        row = table.loc[model]
        assert (row["auc"], row["average_precision"]) == pytest.approx((np.mean(aucs), np.mean(precisions)))
        assert row["brier"] == pytest.approx(np.mean(errors))
        assert row["spread"] == pytest.approx(np.std(aucs, ddof=1))
        assert row["auc_low"] <= row["auc"] <= row["auc_high"]
        assert row["training_seconds"] > 0
        assert row["prediction_seconds_per_1000_slides"] > 0
        assert row["passes"] == 4
    assert table.loc["mean", "difference"] == pytest.approx(values["mean"] - values["max"])
    assert np.isnan(table.loc["max", "difference"])
    assert table.loc["mean", "parameters"] == 2 * 8 + 2
    assert "| mean |" in (found.directory / "table.md").read_text()


def test_the_page_needs_nothing_else(given, tmp_path):
    found = compare(*given, tmp_path / "out", replace(QUICK, seeds=1))
    page = found.page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:)|url\(\s*['\"]?(?!#)|@import|<script|https?://(?!www\.w3\.org/)", page)
    assert page.count('<svg class="chart"') == 2
    for part in ("max", "mean", "Every slide was scored by models that had not seen its patient", "What this page cannot say"):
        assert part in page
    assert read_manifest(found.directory, "comparison").summary["models"] == ["max", "mean"]


def test_what_is_finished_is_kept_and_more_models_train_those_only(given, tmp_path, monkeypatch):
    trained, train, out = [], steps.train, tmp_path / "out"

    def interrupted(features, table, to, config):
        trained.append((config.aggregators[0], config.seed, to.name))
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train(features, table, to, config)

    monkeypatch.setattr(steps, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(*given, out, QUICK)
    found = compare(*given, out, QUICK)
    pairs = [(model, seed, f"fold-{fold}.model") for seed in (0, 1) for model in ("max", "mean") for fold in (0, 1)]
    assert trained == [*pairs[:4], *pairs[3:]], "the fold that was interrupted again, the finished ones not"
    assert not list(tmp_path.glob(".out*"))
    monkeypatch.setattr(steps, "train", lambda *_: pytest.fail("trained again"))
    assert compare(*given, out, QUICK) == found
    again = compare(*given, out, replace(QUICK, draws=300))
    assert read_manifest(again.directory, "comparison").config["draws"] == 300
    monkeypatch.setattr(steps, "train", interrupted)
    trained[3:] = [None] * 9
    compare(*given, out, replace(QUICK, models=("max", "abmil")))
    assert {model for model, *_ in trained[12:]} == {"abmil"}


def test_a_model_that_fails_is_named_and_costs_only_itself(given, tmp_path):
    wild = replace(QUICK, options={"max": {"odd": 1}})
    with pytest.raises(InputError, match=r"^max: `options` should be what `max` takes"):
        compare(*given, tmp_path / "out", wild)
    late = replace(QUICK, models=("mean", "max"), options={"max": {"odd": 1}})
    with pytest.raises(InputError, match=r"^max: "):
        compare(*given, tmp_path / "out", late)
    assert (tmp_path / ".out.runs" / "mean" / "0" / "manifest.json").exists()


def test_an_interrupted_training_has_no_time(given, tmp_path, monkeypatch):
    (directory, table), config, train, left = given, TrainConfig(aggregators=("mean",), epochs=2), steps.train, []
    tables = stage._plans(stage.read_slides(table), sorted(table["slide"]), QUICK)[0]

    def interrupted(features, table, out, config):
        if out.name == "fold-1.model" and not left:
            left.append(out.with_name(f".{out.name}.partial"))
            left[0].mkdir()
            raise KeyboardInterrupt
        return train(features, table, out, config)

    monkeypatch.setattr(steps, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps.repeat(directory, tables, tmp_path / "run", config)
    steps.repeat(directory, tables, tmp_path / "run", config)
    cost = steps.read_repetition(tmp_path / "run").cost
    assert (len(cost.training_seconds), len(cost.passes)) == (1, 2)


def test_the_tables_own_split_is_taken_without_folds(given, tmp_path):
    found = compare(*given, tmp_path / "out", replace(QUICK, folds=0))
    for seed in (0, 1):
        scores = pd.read_csv(found.directory / "runs" / "max" / str(seed) / "slides.csv")
        assert set(scores["slide"]) == set(given[1].loc[given[1]["split"] == "test", "slide"])
    assert "few patients are" in found.warnings[0]
    assert "2 repetitions of the split of the table" in (found.directory / "table.md").read_text()


def test_several_classes_and_survival_have_their_own_measure(given, tmp_path):
    directory, table = given
    table = table.assign(kind=np.array(["a", "b", "c"])[np.arange(24) % 3], months=np.arange(24) % 7 + 1.0,
                         death=np.arange(24) % 2)
    for task, measure in (("kind:multiclass(a,b,c)", "macro_auc"), ("risk:cox(months,death)", "c_index")):
        found = compare(directory, table, tmp_path / measure, replace(QUICK, task=task, seeds=1, validation=0.4))
        row = pd.read_csv(found.directory / "table.csv").iloc[1]
        assert row["measure"] == measure
        assert row[f"{measure}_low"] <= row[measure] <= row[f"{measure}_high"]
        assert ("brier" in row) == (measure == "macro_auc")


def test_slides_without_cells_are_left_out_for_all_and_said(simulate, tmp_path):
    data = simulate(slides=24, cells=12, change={"s004": lambda cells: cells[:0]})
    table = data.table.replace({"patient": {"p000": "p999"}})
    found = compare(data.directory, table, tmp_path / "out", replace(QUICK, seeds=1, validation=0.4))
    assert any("s004" in line for line in found.warnings)
    assert read_manifest(found.directory, "comparison").summary["slides"] == 23


@pytest.mark.parametrize(("change", "said"), [
    ({"models": ("max", "max")}, "named once each"),
    ({"models": ("mean",)}, "others than the baseline"),
    ({"models": ()}, "at least one name"),
    ({"models": ("nonsense",)}, "aggregators"),
    ({"options": {"abmil": {}}}, "of models that are compared"),
    ({"seeds": 0}, "at least 1"),
    ({"folds": -1}, "at least 0"),
    ({"folds": 1}, "at least 2 folds"),
    ({"confidence": 1.0}, "between 0 and 1"),
    ({"draws": 20}, "at least 41"),
    ({"site": "hospital"}, "a column of the slide table"),
    ({"folds": 13}, "at least 13 patients"),
])
def test_impossible_comparisons_are_refused(given, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        compare(*given, tmp_path / "out", replace(QUICK, **change))
    assert not (tmp_path / "out").exists()


def test_slides_that_allow_no_comparison_are_refused(given, tmp_path):
    directory, table = given
    with pytest.raises(InputError, match="slides that have features and a label"):
        compare(directory, table.assign(slide="x" + table["slide"]), tmp_path / "out", QUICK)
    with pytest.raises(InputError, match="test slides"):
        compare(directory, table.assign(split="train"), tmp_path / "out", replace(QUICK, folds=0))


def test_patients_of_the_encoder_are_refused_unless_asked_for(simulate, tmp_path):
    data = simulate(slides=24, cells=12)
    with pytest.raises(InputError, match=r"not trained on the patients.*1 of 24.*p000"):
        compare(data.directory, data.table, tmp_path / "out", QUICK)
    compare(data.directory, data.table, tmp_path / "split", replace(QUICK, folds=0, seeds=1))
    found = compare(data.directory, data.table, tmp_path / "out", replace(QUICK, seeds=1, transductive=True))
    assert "trained on 1 of the 24 judged patients" in found.warnings[0]
    assert found.warnings[0] in found.page.read_text()


def test_offsets_between_folds_change_no_order():
    calm, moved = once(graded()), once(graded(offset=3.0))
    assert (moved["auc"], moved["average_precision"]) == pytest.approx((calm["auc"], calm["average_precision"]))
    scores = graded(offset=3.0)
    assert roc_auc_score(scores.labels, scores.probabilities[:, 1]) < calm["auc"] - 0.1, "pooled it would be lost"


def test_each_fold_counts_as_many_times_as_it_has_pairs():
    scores = graded(folds=3)
    parts = []
    for fold in range(3):
        own = scores.folds == fold
        labels = scores.labels[own]
        parts.append((roc_auc_score(labels, scores.probabilities[own, 1]), labels.sum() * (1 - labels).sum()))
    assert once(scores)["auc"] == pytest.approx(sum(area * pairs for area, pairs in parts) / sum(pairs for _, pairs in parts))
    lone = graded()._replace(folds=np.arange(40))
    assert np.isnan(once(lone)["auc"]), "no pair within any fold"


def test_draws_are_tables_of_copies():
    """A draw's figures are those of the slides repeated as often as it says."""
    scores, counts = graded(), np.random.default_rng(1).integers(0, 3, 40)
    copies = np.repeat(np.arange(40), counts)
    other = GradedScores(scores.labels[copies], scores.probabilities[copies], scores.predicted[copies], [""] * len(copies),
                         scores.folds[copies])
    found = scores.drawn(np.stack([np.ones(40), counts]).astype(float))
    for name, value in once(other).items():
        assert found[name][1] == pytest.approx(value), name


def test_one_fold_is_the_plain_figure():
    scores = graded(folds=1)
    assert once(scores)["auc"] == pytest.approx(roc_auc_score(scores.labels, scores.probabilities[:, 1]))
    three = GradedScores(np.arange(30) % 3, np.random.default_rng(0).dirichlet((1, 1, 1), 30), np.arange(30) % 3,
                         [""] * 30, np.zeros(30, dtype=int))
    assert once(three)["macro_auc"] == pytest.approx(roc_auc_score(three.labels, three.probabilities, multi_class="ovr"))
    random = np.random.default_rng(0)
    risks = RiskScores(random.integers(1, 9, 30).astype(float), random.random(30) < 0.6, random.normal(size=30).round(1),
                       [""] * 30, np.zeros(30, dtype=int))
    assert once(risks)["c_index"] == pytest.approx(c_index(risks.times, risks.events, risks.risks))


def test_a_model_differs_from_itself_by_nothing():
    scores = [graded(seed) for seed in range(3)]
    found = judge({"one": repeated(*scores), "same": repeated(*scores), "mean": repeated(*scores)}, Bootstrap(200))
    assert [row.against.difference for row in found.rows[1:]] == [(0, 0, 0)] * 2
    assert [row.p for row in found.rows[1:]] == [1, 1]
    assert not any(found.apart(row) for row in found.rows)


def test_p_values_are_raised_for_the_number_of_models():
    good, bad, worse = ([graded(seed, good=good) for seed in range(2)] for good in (3.0, 2.0, 0.0))
    two = judge({"a": repeated(*good), "mean": repeated(*worse)}, Bootstrap(500))
    three = judge({"a": repeated(*good), "b": repeated(*bad), "mean": repeated(*worse)}, Bootstrap(500))
    assert two.rows[1].p == two.rows[1].against.p == pytest.approx(2 / 501)
    assert three.rows[2].against.p == two.rows[1].p
    assert three.rows[2].p == pytest.approx(2 * two.rows[1].p)
    assert three.apart(three.rows[2])
    assert three.classes == {"negative": 20, "positive": 20}


def test_intervals_are_of_patients_and_of_repetitions():
    single, same = (over_repetitions([graded()] * count, Bootstrap(500))["auc"] for count in (1, 3))
    assert same == pytest.approx(single)
    assert single.low < single.value < single.high
    perfect, useless = graded(good=50.0), graded()._replace(probabilities=np.full((40, 2), 0.5))
    mixed = over_repetitions([perfect, perfect, useless], Bootstrap(500))["auc"]
    assert mixed == pytest.approx((5 / 6, 0.5, 1.0)), "all patients alike: only the repetitions vary"
