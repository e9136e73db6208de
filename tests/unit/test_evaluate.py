import json
import math

import numpy as np
import pandas as pd
import pytest
from tests.fake_scores import cell_table, slide_table, write_cells, write_scores, write_truth

from milscope.configs import EvaluateConfig, RetrieveConfig
from milscope.evaluate import evaluate
from milscope.metrics import cell_metrics
from milscope.retrieve import retrieve
from milscope.types import InputError

QUICK = EvaluateConfig(draws=50)


@pytest.fixture
def slides():
    return slide_table()


@pytest.fixture
def cells(slides):
    return cell_table(slides)


@pytest.fixture
def scores(tmp_path, slides, cells):
    return write_scores(tmp_path / "predict", slides, cells)


def strict(path):
    """The JSON of a file; NaN and Infinity, which are no JSON, fail."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path.name}"))


def test_the_test_slides_are_measured_and_no_others(scores, slides, tmp_path):
    result = evaluate(scores, tmp_path / "out", QUICK)
    test = slides[slides["split"] == "test"]
    pairs = [a > b for a in test.loc[test["label"] == 1, "probability"] for b in test.loc[test["label"] == 0, "probability"]]
    assert result.auc == pytest.approx(np.mean(pairs))
    metrics = strict(tmp_path / "out" / "metrics.json")
    assert metrics["slides"]["abnormal"]["auc"]["value"] == result.auc
    assert metrics["test"] == {"slides": 8, "positive": 4, "negative": 4, "unlabelled": 0, "missing": 0}
    assert metrics["patients"] == {"test": 8, "positive": 4, "learned_from": 2, "seen": 0}
    assert metrics["cells"] == {}
    assert metrics["transductive"] is False
    assert tuple(metrics["warnings"]) == tuple(result.warnings)
    assert pd.read_csv(tmp_path / "out" / "test_slides.csv")["slide"].tolist() == test["slide"].tolist()


def test_curves_are_whole(scores, tmp_path):
    curves = evaluate_with_truth(scores, tmp_path)["abnormal"]
    confusion = curves["confusion"]
    assert sum(confusion.values()) == 8
    assert sum(curves["histogram"]["positive"]) == confusion["true_positive"] + confusion["false_negative"]
    assert curves["roc"]["sensitivity"][-1] == curves["roc"]["false_positive_rate"][-1] == 1
    assert len(curves["roc"]["band"]["low"]) == len(curves["roc"]["band"]["false_positive_rate"]) == 101
    assert curves["recall_at"]["k"] == list(range(1, 401))
    assert curves["recall_at"]["value"][-1] == 1


def evaluate_with_truth(scores, tmp_path):
    truth = write_truth(tmp_path / "truth.csv", cell_table(slide_table()))
    evaluate(scores, tmp_path / "out", QUICK, truth=truth)
    return strict(tmp_path / "out" / "curves.json")


@pytest.mark.parametrize("by", [("slide", "cell"), ("slide", "x", "y")])
def test_cells_are_measured_per_positive_test_slide_by_name_or_place(scores, cells, slides, tmp_path, by):
    evaluate(scores, tmp_path / "out", QUICK, truth=write_truth(tmp_path / "truth.csv", cells, by=by))
    figures = strict(tmp_path / "out" / "metrics.json")["cells"]["abnormal"]
    positive = slides[(slides["split"] == "test") & (slides["label"] == 1)]["slide"]
    each = [cell_metrics(rows["attention"].to_numpy(dtype=float), rows["witness"].to_numpy())
            for slide, rows in cells.groupby("slide") if slide in set(positive)]
    assert len(each) == 4
    for name in each[0]:
        assert figures[name]["value"] == pytest.approx(np.mean([one[name] for one in each])), name
        assert figures[name]["low"] <= figures[name]["value"] + 1e-12
    table = pd.read_csv(tmp_path / "out" / "test_slides.csv")
    assert table.loc[table["label"] == 1, "witnesses"].tolist() == [3] * 4
    assert table.loc[table["label"] == 0, "recall_at_10"].isna().all()


def test_what_retrieve_shows_is_what_is_measured(scores, cells, tmp_path):
    ranked = retrieve(scores, write_cells(tmp_path / "tile", cells), tmp_path / "ranked",
                      RetrieveConfig(k=10, rank="evidence")).directory
    evaluate(scores, tmp_path / "out", QUICK, ranked=ranked, truth=write_truth(tmp_path / "truth.csv", cells))
    metrics = strict(tmp_path / "out" / "metrics.json")
    assert metrics["rank"] == "evidence"
    shown = pd.read_csv(ranked / "ranked.csv").merge(cells[["cell", "witness"]], on="cell")
    table = pd.read_csv(tmp_path / "out" / "test_slides.csv").set_index("slide")
    for slide, hits in shown.groupby("slide")["witness"].sum().items():
        if slide in table.index and table.loc[slide, "label"] == 1:
            assert table.loc[slide, "recall_at_10"] == pytest.approx(hits / 3)


def test_ranked_cells_of_other_scores_are_refused(scores, slides, cells, tmp_path):
    ranked = retrieve(scores, write_cells(tmp_path / "tile", cells), tmp_path / "ranked").directory
    manifest = json.loads((ranked / "manifest.json").read_text())
    (ranked / "manifest.json").write_text(json.dumps(manifest | {"inputs": {"scores": "another"}}))
    with pytest.raises(InputError, match="Run `retrieve` again"):
        evaluate(scores, tmp_path / "out", ranked=ranked)


def test_patients_learned_from_are_refused_with_both_ways_out(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "predict", slides, cells, ("P00", "P01", "P02", "P03", "P04"))
    with pytest.raises(InputError, match=r"4 of 8 test patients that were \(P00, P01, P02, …\)\. Train without.*transductive"):
        evaluate(scores, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    result = evaluate(scores, tmp_path / "out", EvaluateConfig(draws=20, transductive=True))
    metrics = strict(tmp_path / "out" / "metrics.json")
    assert metrics["transductive"] is True
    assert metrics["patients"]["seen"] == 4
    assert result.warnings[0] == "Transductive: 4 of the 8 test patients were also learned from, so the figures are too good."


def test_without_a_test_split_only_transductive_measures(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "predict", slides.assign(split="train"), cells)
    with pytest.raises(InputError, match="12 slides of train"):
        evaluate(scores, tmp_path / "out")
    evaluate(scores, tmp_path / "out", EvaluateConfig(draws=20, transductive=True))
    assert strict(tmp_path / "out" / "metrics.json")["test"]["slides"] == 12


def test_a_new_cohort_without_any_split_is_all_test_but_still_checked(slides, cells, tmp_path):
    fresh = write_scores(tmp_path / "fresh", slides.assign(split=""), cells, ("Q1",))
    evaluate(fresh, tmp_path / "out", QUICK)
    assert strict(tmp_path / "out" / "metrics.json")["test"]["slides"] == 12
    with pytest.raises(InputError, match="2 of 12 test patients"):
        evaluate(write_scores(tmp_path / "seen", slides.assign(split=""), cells), tmp_path / "out")


def test_unlabelled_and_missing_test_slides_are_warned_of(slides, cells, tmp_path):
    given = slides.rename(columns={"label": "abnormal"})[["slide", "patient", "split", "abnormal"]]
    given.to_csv(tmp_path / "slides.csv", index=False)
    left = slides[slides["slide"] != "S01"].assign(label=lambda table: table["label"].where(table["slide"] != "S00"))
    scores = write_scores(tmp_path / "predict", left, cells[cells["slide"] != "S01"])
    warnings = evaluate(scores, tmp_path / "out", QUICK, slides=tmp_path / "slides.csv").warnings
    assert "Left out: 1 test slide without a score (S01)." in warnings
    assert "Left out: 1 test slide without a label." in warnings


def test_one_class_is_null_in_json_nan_in_python_and_said(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "predict", slides.assign(label=1.0, called=1), cells)
    result = evaluate(scores, tmp_path / "out", QUICK)
    assert math.isnan(result.auc)
    assert strict(tmp_path / "out" / "metrics.json")["slides"]["abnormal"]["auc"] == {"value": None, "low": None, "high": None}
    assert strict(tmp_path / "out" / "curves.json")["abnormal"]["roc"] is None
    assert "All test slides are positive: AUC and what else compares the two classes is undefined." in result.warnings
    assert "The threshold 0.5 calls every test slide positive: choose another." in result.warnings
    assert math.isnan(evaluate(scores, tmp_path / "out", QUICK).auc)


def test_few_patients_and_wide_or_empty_intervals_are_said(slides, cells, tmp_path):
    warnings = " ".join(evaluate(write_scores(tmp_path / "a", slides, cells), tmp_path / "out", QUICK).warnings)
    assert "Only 4 test patients are positive: read the intervals, not the values." in warnings
    assert "The interval of the slide AUC is wide" in warnings
    perfect = slides.assign(probability=slides["label"] * 0.8 + 0.1)
    warnings = " ".join(evaluate(write_scores(tmp_path / "b", perfect, cells), tmp_path / "other", QUICK).warnings)
    assert "has no width (every draw gives 1.00)" in warnings


def test_gaps_between_truth_and_scores_are_counted_and_said(scores, cells, tmp_path):
    told = pd.concat([cells[cells["cell"] != "S01:20"], cells[:1].assign(cell="S00:nowhere")], ignore_index=True)
    told.loc[told["slide"] == "S00", "witness"] = told["cell"] == "S00:5"
    told.loc[told["slide"] == "S03", "witness"] = False
    result = evaluate(scores, tmp_path / "out", QUICK, truth=write_truth(tmp_path / "truth.csv", told))
    told_of = strict(tmp_path / "out" / "metrics.json")["truth"]
    assert told_of["rows_unmatched"] == told_of["cells_unmatched"] == 1
    assert told_of["cells_matched"] == 239
    assert told_of["rows_of_other_slides"] == 120
    said = " ".join(result.warnings)
    assert "1 row of the truth about test slides match no scored cell" in said
    assert "1 cell of test slides are not in the truth" in said
    assert "1 positive test slide has no witness in the truth" in said
    assert "1 negative test slide has witnesses" in said


def test_a_truth_of_other_cells_is_refused_with_both_kinds_of_names(scores, cells, tmp_path):
    foreign = cells.assign(cell=cells["cell"].str.replace(":", "/cell_"))
    with pytest.raises(InputError, match=r"the truth has slide `S00` cell `S00/cell_0`, the scores slide `S00` cell `S00:0`"):
        evaluate(scores, tmp_path / "out", QUICK, truth=write_truth(tmp_path / "truth.csv", foreign))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [EvaluateConfig(draws=0), EvaluateConfig(confidence=1.0)])
def test_impossible_settings_are_refused(scores, tmp_path, config):
    with pytest.raises(InputError, match="The default is"):
        evaluate(scores, tmp_path / "out", config)


def test_probabilities_that_are_none_are_refused(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "p", slides.assign(probability=np.nan), cells)
    with pytest.raises(InputError, match="probabilities between 0 and 1"):
        evaluate(scores, tmp_path / "out")


def test_same_seed_same_files(scores, cells, tmp_path):
    truth = write_truth(tmp_path / "truth.csv", cells)
    for name in ("one", "two"):
        evaluate(scores, tmp_path / name, QUICK, truth=truth)
    for name in ("metrics.json", "curves.json", "test_slides.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
