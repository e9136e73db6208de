import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from tests.fake_scores import TASK_KINDS, cell_table, slide_table, task_tables, write_cells, write_scores, write_truth

from milscope.configs import EvaluateConfig, RetrieveConfig
from milscope.evaluate import evaluate
from milscope.metrics import (
    CLASS_METRICS,
    ORDINAL_METRICS,
    SLIDE_METRICS,
    Bootstrap,
    Levels,
    SlideScores,
    c_index,
    cell_metrics,
    slide_metrics,
)
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
    each = [cell_metrics(rows["evidence"].to_numpy(dtype=float), rows["witness"].to_numpy())
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


@pytest.fixture
def twofold(tmp_path, slides, cells):
    """Scores of two tasks; what the other finds on a slide are its last two cells, where the slide has an even number."""
    own = cells.assign(clue=cells["cell"].str.endswith((":28", ":29")) & (cells["slide"].str[1:].astype(int) % 2 == 0))
    own = own.assign(**{"attention:clue": own["attention"], "evidence:clue": own["evidence"] + 2 * own["clue"]})
    told = np.where(slides["label"] == 0, "positive", "negative")
    clue = task_tables(slides)["abnormal"].assign(label=told)
    clue.loc[clue["slide"] == "S02", "label"] = ""
    tables = {"abnormal": task_tables(slides)["abnormal"], "clue": clue}
    return write_scores(tmp_path / "two", slides, own.drop(columns="clue"), tasks=tables), own


def truth_of(cells, path, *columns):
    told = cells.assign(abnormal=cells["witness"].astype(int), clue=cells["clue"].astype(int))
    told[["slide", "cell", *columns]].to_csv(path, index=False)
    return path


def test_cells_are_measured_by_every_task_that_the_truth_has_a_column_of(twofold, tmp_path):
    scores, cells = twofold
    evaluate(scores, tmp_path / "out", QUICK, truth=truth_of(cells, tmp_path / "truth.csv", "abnormal", "clue"))
    found = strict(tmp_path / "out" / "metrics.json")["cells"]
    assert list(found) == ["abnormal", "clue"]
    each = [cell_metrics(rows["evidence:clue"].to_numpy(dtype=float), rows["clue"].to_numpy())
            for slide, rows in cells.groupby("slide") if slide in {"S00", "S06", "S08"}]  # S02 has no label, others no clue
    for name in ("auc", "recall_at_10", "average_precision"):
        assert found["clue"][name]["value"] == pytest.approx(np.mean([one[name] for one in each])), name
    assert "recall_at" in strict(tmp_path / "out" / "curves.json")["clue"]
    evaluate(scores, tmp_path / "one", QUICK, truth=truth_of(cells, tmp_path / "one.csv", "abnormal"))
    assert strict(tmp_path / "one" / "metrics.json")["cells"] == {"abnormal": found["abnormal"]}


def test_a_truth_of_another_task_alone_says_nothing_of_the_main_one(twofold, tmp_path):
    scores, cells = twofold
    result = evaluate(scores, tmp_path / "out", QUICK, truth=truth_of(cells, tmp_path / "truth.csv", "clue"))
    assert list(strict(tmp_path / "out" / "metrics.json")["cells"]) == ["clue"]
    assert "The truth has no column of abnormal: its cells are not measured." in result.warnings


def test_a_truth_of_another_task_that_is_of_no_use_is_said(twofold, slides, tmp_path):
    scores, cells = twofold
    truth = truth_of(cells.assign(clue=True), tmp_path / "truth.csv", "abnormal", "clue")
    said = evaluate(scores, tmp_path / "out", QUICK, truth=truth).warnings
    assert any(each.startswith("Task clue: its cells are not measured. `truth_normal`") for each in said)
    without = cells.drop(columns=["clue", "attention:clue", "evidence:clue"])
    tables = {name: task_tables(slides)["abnormal"] for name in ("abnormal", "clue")}
    older = write_scores(tmp_path / "older", slides, without, tasks=tables)
    said = evaluate(older, tmp_path / "old", QUICK, truth=truth_of(cells, tmp_path / "t.csv", "abnormal", "clue")).warnings
    assert any(each.startswith("Task clue: its cells are not measured. `task` should be one whose scores") for each in said)
    assert list(strict(tmp_path / "old" / "metrics.json")["cells"]) == ["abnormal"]


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


@pytest.mark.parametrize("config", [
    EvaluateConfig(draws=0), EvaluateConfig(confidence=1.0), EvaluateConfig(at_specificity=0.0),
    EvaluateConfig(at_sensitivity=1.1),
])
def test_impossible_settings_are_refused(scores, tmp_path, config):
    with pytest.raises(InputError, match="The default is"):
        evaluate(scores, tmp_path / "out", config)


def test_probabilities_that_are_none_are_refused(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "p", slides.assign(probability=np.nan), cells)
    with pytest.raises(InputError, match="probabilities between 0 and 1"):
        evaluate(scores, tmp_path / "out")


@pytest.fixture
def several(tmp_path, slides, cells):
    """Scores of four tasks."""
    return write_scores(tmp_path / "predict", slides, cells, tasks=task_tables(slides))


def test_the_levels_of_the_settings_are_used_and_told(scores, slides, tmp_path):
    evaluate(scores, tmp_path / "out", EvaluateConfig(draws=20, at_specificity=0.5, at_sensitivity=0.6))
    metrics = strict(tmp_path / "out" / "metrics.json")
    assert metrics["at"] == {"specificity": 0.5, "sensitivity": 0.6}
    test = slides[slides["split"] == "test"]
    given = SlideScores(test["label"].to_numpy() == 1, test["probability"].to_numpy(), test["called"].to_numpy() == 1,
                        test["patient"].tolist(), Levels(0.5, 0.6))
    expected = slide_metrics(given, Bootstrap(20))
    for name in ("sensitivity_at_specificity", "specificity_at_sensitivity"):
        assert metrics["slides"]["abnormal"][name] == expected[name]._asdict()


def test_scores_of_one_task_alone_have_no_other_keys(scores, tmp_path):
    evaluate(scores, tmp_path / "out", QUICK)
    assert not {"tasks", "review", "patients_figures"} & set(strict(tmp_path / "out" / "metrics.json"))


def test_every_task_is_measured_on_the_test_slides_with_its_label(several, slides, tmp_path):
    evaluate(several, tmp_path / "out", QUICK)
    metrics = strict(tmp_path / "out" / "metrics.json")
    assert list(metrics["tasks"]) == list(TASK_KINDS)
    assert {name: task["kind"] for name, task in metrics["tasks"].items()} == TASK_KINDS
    assert {name: task["n"] for name, task in metrics["tasks"].items()} == {"abnormal": 8, "grade": 7, "kind": 7, "death": 7}
    assert metrics["tasks"]["abnormal"]["figures"] == metrics["slides"]["abnormal"]
    assert metrics["tasks"]["abnormal"]["classes"] == {"negative": 4, "positive": 4}
    extra = {"calibration_error_if_true"}
    assert set(metrics["tasks"]["grade"]["figures"]) == {*CLASS_METRICS, *ORDINAL_METRICS, *extra}
    assert set(metrics["tasks"]["kind"]["figures"]) == {*CLASS_METRICS, *extra}
    assert set(metrics["tasks"]["kind"]["suspicion"]) == {*SLIDE_METRICS, *extra}
    assert set(metrics["tasks"]["death"]["figures"]) == {"c_index", "integrated_brier"}
    assert "suspicion" not in metrics["tasks"]["abnormal"]


def test_the_figures_of_tasks_are_those_of_their_tables(several, slides, tmp_path):
    evaluate(several, tmp_path / "out", QUICK)
    tasks = strict(tmp_path / "out" / "metrics.json")["tasks"]
    tables = {name: table[(slides["split"] == "test").to_numpy()] for name, table in task_tables(slides).items()}
    grade = tables["grade"][tables["grade"]["label"] != ""]
    places = {"NILM": 0, "LSIL": 1, "HSIL": 2}
    truth, said = grade["label"].map(places), grade["predicted"].map(places)
    assert tasks["grade"]["figures"]["accuracy"]["value"] == pytest.approx((truth == said).mean())
    assert tasks["grade"]["figures"]["quadratic_kappa"]["value"] == pytest.approx(
        reference.cohen_kappa_score(truth, said, weights="quadratic"))
    assert tasks["grade"]["figures"]["macro_auc"]["value"] == pytest.approx(reference.roc_auc_score(
        truth, grade[["p:NILM", "p:LSIL", "p:HSIL"]], multi_class="ovr"))
    assert tasks["grade"]["suspicion"]["auc"]["value"] == pytest.approx(
        reference.roc_auc_score(truth > 0, grade["probability"]))
    assert tasks["grade"]["suspicion"]["sensitivity"]["value"] == pytest.approx(grade["called"][truth > 0].mean())
    death = tables["death"].dropna(subset=["time"])
    assert tasks["death"]["events"] == death["event"].sum()
    assert tasks["death"]["figures"]["c_index"]["value"] == pytest.approx(
        c_index(death["time"].to_numpy(), death["event"].to_numpy() == 1, death["risk"].to_numpy()))
    curves = strict(tmp_path / "out" / "curves.json")
    assert np.trace(curves["grade"]["classes"]["counts"]) == (truth == said).sum()
    assert set(curves) == {"abnormal", "grade", "kind", "death"}
    assert curves["abnormal"]["confusion"]["true_positive"] == curves["abnormal"]["classes"]["counts"][1][1]


def test_tables_without_a_description_are_judged_by_their_columns(several, tmp_path):
    manifest = json.loads((several / "manifest.json").read_text())
    del manifest["summary"]["tasks"]
    (several / "manifest.json").write_text(json.dumps(manifest))
    evaluate(several, tmp_path / "out", QUICK)
    tasks = strict(tmp_path / "out" / "metrics.json")["tasks"]
    assert {name: task["kind"] for name, task in tasks.items()} == {
        "abnormal": "binary", "grade": "multiclass", "kind": "multiclass", "death": "survival"}


def test_small_classes_of_tasks_are_said(several, slides, cells, tmp_path):
    warnings = evaluate(several, tmp_path / "out", QUICK).warnings
    assert "Task grade: few test patients are NILM (3), LSIL (2), HSIL (2): read the intervals, not the values." in warnings
    assert any(said.startswith("Task death: few test patients are without the event (") for said in warnings)
    assert not any(said.startswith("Task abnormal") for said in warnings), "the main task has its own"
    tables = task_tables(slides)
    tables["grade"]["label"] = tables["grade"]["label"].replace("LSIL", "ASC-H")
    tables["kind"]["label"] = ""
    scores = write_scores(tmp_path / "other", slides, cells, tasks=tables)
    warnings = " ".join(evaluate(scores, tmp_path / "again", QUICK).warnings)
    assert "Task grade: 2 test slides are of a class that the model does not know (ASC-H) and left out." in warnings
    assert "Task grade: no test slide is LSIL: what needs it is undefined, means are over the others." in warnings
    assert "Task kind: no test slide has a label." in warnings
    assert strict(tmp_path / "again" / "metrics.json")["tasks"]["kind"]["figures"] == {}


def test_patients_of_any_task_must_not_have_been_learned_from(slides, cells, tmp_path):
    """S00 has no label of the main task; its patient is judged by the others all the same."""
    table = slides.assign(label=slides["label"].where(slides["slide"] != "S02"))
    scores = write_scores(tmp_path / "predict", table, cells, ("P02",), tasks=task_tables(slides))
    with pytest.raises(InputError, match=r"1 of 8 test patients that were \(P02\)"):
        evaluate(scores, tmp_path / "out", QUICK)
    result = evaluate(scores, tmp_path / "out", EvaluateConfig(draws=20, transductive=True))
    assert result.warnings[0].startswith("Transductive: 1 of the 8")


def two_a_patient(slides):
    """Test slides S00 and S01, S02 and S03, … of one patient each."""
    return slides.assign(patient=[f"P{i // 2:02d}" for i in range(len(slides))])


def test_patients_of_several_slides_are_judged_by_their_highest(slides, cells, tmp_path):
    table = two_a_patient(slides_of_all_tests(slides))
    table.loc[:1, "label"] = 0.0
    scores = write_scores(tmp_path / "predict", table, cells, (), tasks=task_tables(table))
    evaluate(scores, tmp_path / "out", QUICK)
    metrics = strict(tmp_path / "out" / "metrics.json")
    highest = table.groupby("patient")[["label", "probability", "called"]].max()
    figures = metrics["patients_figures"]["abnormal"]
    assert figures["auc"]["value"] == pytest.approx(reference.roc_auc_score(highest["label"], highest["probability"]))
    assert figures["sensitivity"]["value"] == pytest.approx(highest.loc[highest["label"] == 1, "called"].mean())
    assert figures["auc"] != metrics["slides"]["abnormal"]["auc"]
    assert metrics["tasks"]["abnormal"]["patients_figures"] == figures


def slides_of_all_tests(slides):
    return slides.assign(split="test")


def test_the_patients_own_table_goes_before(slides, cells, tmp_path):
    table = two_a_patient(slides_of_all_tests(slides))
    scores = write_scores(tmp_path / "predict", table, cells, ())
    own = pd.DataFrame({"patient": [*sorted(set(table["patient"])), "PX"], "split": "test", "slides": 2,
                        "label": [1, 0, 1, 0, 1, "", 1], "probability": [0.9, 0.1, 0.8, 0.2, 0.3, 0.9, 0.1],
                        "called": [1, 0, 1, 0, 0, 1, 0]})
    own.to_csv(scores / "patients.csv", index=False)
    evaluate(scores, tmp_path / "out", QUICK)
    figures = strict(tmp_path / "out" / "metrics.json")["patients_figures"]["abnormal"]
    assert figures["auc"]["value"] == 1
    assert figures["sensitivity"]["value"] == pytest.approx(2 / 3)
    assert figures["specificity"]["value"] == 1


@pytest.mark.parametrize("second", [0.99, 0.02])
def test_what_was_said_of_unlabelled_slides_counts_for_their_patients_wherever_it_is_told(slides, cells, tmp_path, second):
    """Every patient has a labelled slide and one without a label: the highest of both decides."""
    table = two_a_patient(slides_of_all_tests(slides))
    table["label"] = np.where(np.arange(len(table)) % 2 == 0, np.arange(len(table)) // 2 % 2, np.nan)
    table["probability"] = table["probability"].where(np.arange(len(table)) != 5, second)
    table["logit"] = np.log(table["probability"] / (1 - table["probability"]))
    table["called"] = (table["probability"] >= 0.5).astype(int)
    tables = task_tables(table)
    tables["death"].loc[1::2, ["time", "event"]] = np.nan
    tables["death"].loc[1::2, "risk"] += np.arange(len(table) // 2) % 2 * 9
    told = write_scores(tmp_path / "told", table, cells, (), tasks=tables)
    alone = write_scores(tmp_path / "alone", table, cells, ())
    own = table.groupby("patient").agg(split=("split", "first"), slides=("slide", "size"), label=("label", "max"),
                                       probability=("probability", "max"), called=("called", "max"))
    own.to_csv(alone / "patients.csv")
    evaluate(told, tmp_path / "a", QUICK)
    evaluate(alone, tmp_path / "b", QUICK)
    first, second = (strict(tmp_path / name / "metrics.json") for name in "ab")
    figures = first["patients_figures"]["abnormal"]
    assert figures == second["patients_figures"]["abnormal"] == first["tasks"]["abnormal"]["patients_figures"]
    assert figures["auc"]["value"] == pytest.approx(reference.roc_auc_score(own["label"], own["probability"]))
    assert figures["auc"] != first["slides"]["abnormal"]["auc"]
    risk = tables["death"].groupby("patient")["risk"].max().to_numpy()
    known = tables["death"].groupby("patient")[["time", "event"]].first()
    assert first["tasks"]["death"]["patients_figures"]["c_index"]["value"] == pytest.approx(
        c_index(known["time"].to_numpy(), known["event"].to_numpy() == 1, risk))


def test_patients_of_tasks(slides, cells, tmp_path):
    table = two_a_patient(slides_of_all_tests(slides))
    tables = task_tables(table)
    tables["kind"]["label"] = ["normal", "normal", "a", "a", "b", "b", "normal", "a", "normal", "normal", "b", "b"]
    tables["death"]["time"] = np.repeat(np.arange(1.0, 7), 2)
    tables["death"]["event"] = 1
    scores = write_scores(tmp_path / "predict", table, cells, (), tasks=tables)
    warnings = evaluate(scores, tmp_path / "out", QUICK).warnings
    tasks = strict(tmp_path / "out" / "metrics.json")["tasks"]
    assert tasks["kind"]["patients_mixed"] == 1
    assert ("Task kind: 1 patient has slides of different classes and is left out of the figures of patients." in warnings)
    kind = tables["kind"]
    highest = kind.loc[kind.groupby("patient")["logit"].idxmax()].set_index("patient").drop("P03")
    assert tasks["kind"]["patients_figures"]["accuracy"]["value"] == pytest.approx(
        (highest["label"] == highest["predicted"]).mean())
    risk = tables["death"].groupby("patient")["risk"].max().to_numpy()
    assert tasks["death"]["patients_figures"]["c_index"]["value"] == pytest.approx(
        c_index(np.arange(1.0, 7), np.ones(6, dtype=bool), risk))
    grade = tables["grade"].assign(place=tables["grade"]["label"].map({"NILM": 0, "LSIL": 1, "HSIL": 2}))
    labels = grade.groupby("patient")["place"].max()
    highest = grade[grade["label"] != ""].set_index("patient")
    said = highest.loc[highest.groupby("patient")["logit"].transform("max") == highest["logit"], "predicted"]
    apart = np.abs(said.map({"NILM": 0, "LSIL": 1, "HSIL": 2}) - labels)
    assert tasks["grade"]["patients_figures"]["mean_absolute_error"]["value"] == pytest.approx(apart.mean())


DECIDED = ["negative", "positive", "review", "review", "", "", "positive", "positive", "negative", "negative", "", ""]


@pytest.mark.parametrize("where", ["slides", "tasks"])
def test_the_review_band_is_measured_wherever_decisions_are_written(slides, cells, tmp_path, where):
    decided = [said or "negative" for said in DECIDED]
    table = slides.assign(decision=decided) if where == "slides" else slides
    tables = task_tables(slides)
    tables["abnormal"]["decision"] = decided
    scores = write_scores(tmp_path / "predict", table, cells, tasks=tables if where == "tasks" else None)
    evaluate(scores, tmp_path / "out", QUICK)
    metrics = strict(tmp_path / "out" / "metrics.json")
    review = {name: figure["value"] for name, figure in metrics["review"]["abnormal"].items()}
    assert review == pytest.approx({"reviewed": 2 / 8, "sensitivity": 2 / 3, "specificity": 2 / 3, "caught": 3 / 4})
    if where == "tasks":
        assert metrics["tasks"]["abnormal"]["review"] == metrics["review"]["abnormal"]
        assert "review" not in metrics["tasks"]["grade"]


def test_an_unknown_decision_is_refused(slides, cells, tmp_path):
    scores = write_scores(tmp_path / "predict", slides.assign(decision="perhaps"), cells)
    with pytest.raises(InputError, match=r"positive, review or negative\. Found `perhaps`"):
        evaluate(scores, tmp_path / "out", QUICK)


@pytest.mark.parametrize(("task", "column", "value", "said"), [
    ("grade", "probability", 1.5, "probabilities between 0 and 1. Found 1.5 for slide S00"),
    ("grade", "p:LSIL", math.nan, "finite"),
    ("grade", "predicted", "CIS", "Found `CIS`"),
    ("death", "S:3", math.nan, "finite"),
])
def test_impossible_tables_of_tasks_are_refused(slides, cells, tmp_path, task, column, value, said):
    tables = task_tables(slides)
    tables[task][column] = value
    scores = write_scores(tmp_path / "predict", slides, cells, tasks=tables)
    with pytest.raises(InputError, match=said):
        evaluate(scores, tmp_path / "out", QUICK)


def test_a_table_of_no_known_kind_is_refused(slides, cells, tmp_path):
    tables = task_tables(slides)
    tables["death"] = tables["death"].drop(columns="risk")
    with pytest.raises(InputError, match="or `risk`, `time` and `event`"):
        evaluate(write_scores(tmp_path / "predict", slides, cells, tasks=tables), tmp_path / "out", QUICK)


def test_same_seed_same_files(scores, cells, tmp_path):
    truth = write_truth(tmp_path / "truth.csv", cells)
    for name in ("one", "two"):
        evaluate(scores, tmp_path / name, QUICK, truth=truth)
    for name in ("metrics.json", "curves.json", "test_slides.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
