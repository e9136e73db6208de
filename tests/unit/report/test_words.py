import json
from pathlib import Path

import pandas as pd
import pytest
from tests.fake_run import fake_run

from milscope.metrics import SLIDE_METRICS
from milscope.report import _words as words
from milscope.report._gather import gather


@pytest.mark.parametrize(("task", "own"), [("", ""), ("abnormal", ""), ("clue", "clue")])
def test_an_order_that_verdicts_gave_is_told_from_the_one_that_was_measured(tmp_path, task, own):
    run = fake_run(tmp_path / "run")
    before = gather(run)
    assert words.ordered_by(before, own, "evidence") == "evidence"
    assert "shows first." in words.headline(before)[-1]
    manifest = json.loads((run / "retrieve" / "manifest.json").read_text())
    manifest["inputs"]["labels"], manifest["config"]["labels_task"] = "0123", task
    manifest["summary"]["verdicts"] = {"abnormal": 3, "normal": 7, "kept_order": False}
    (run / "retrieve" / "manifest.json").write_text(json.dumps(manifest))
    anew = gather(run)
    assert words.ordered_by(anew, own, "evidence") == "verdicts"
    assert words.ordered_by(anew, "another", "evidence") == "evidence"
    assert any("the order that 10 verdicts on single cells gave them (3 abnormal)" in said for said in words.warnings(anew))
    assert "showed first before verdicts." in words.headline(anew)[-1]
    manifest["summary"]["verdicts"]["kept_order"] = True
    (run / "retrieve" / "manifest.json").write_text(json.dumps(manifest))
    assert words.ordered_by(gather(run), own, "evidence") == "evidence"


def test_the_headline_holds_the_result_with_its_interval(tmp_path: Path):
    said = " ".join(words.headline(gather(fake_run(tmp_path / "run")))).replace("\N{NO-BREAK SPACE}", " ")
    assert "8 slides of 8 patients, 480 cells" in said
    assert "4 test slides of 4 patients (2 abnormal)" in said
    assert "AUC 0.91, interval 0.79 to 0.99" in said
    assert "62 % (interval 50 % to 70 %) are among the 20 cells" in said


@pytest.mark.parametrize(("options", "expected"), [
    ({"collapsed": True}, "collapsed"),
    ({"transductive": True}, "transductive"),
    ({"epochs": 0}, "untrained"),
    ({}, "Left out because damaged: 1 cell or slide."),
    ({}, "2 rows of the truth"),
    ({}, "Few abnormal patients: 2 in training, 0 in validation."),
    ({"leave_out": ["evaluate"]}, "2 in training, 0 in validation, 2 in test"),
])
def test_what_lowers_trust_is_warned_of(tmp_path: Path, options: dict, expected: str):
    run = gather(fake_run(tmp_path / "run", **options))
    assert any(expected in warning for warning in words.warnings(run))


def test_a_calm_run_is_not_warned_of_collapse(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    assert not any("collapsed" in warning or "transductive" in warning for warning in words.warnings(run))


def test_an_encoder_that_learns_with_the_slide_model_is_no_baseline(tmp_path: Path):
    told = list(words.warnings(gather(fake_run(tmp_path / "run", epochs=0, joint=True))))
    assert not any("untrained" in warning for warning in told)
    assert "1 slides without cells were left out: s9." in told


def test_a_result_that_may_be_guessing_is_called_so(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    run.metrics["slides"]["abnormal"]["auc"].update(value=0.6, low=0.4)
    assert any("cannot be told from guessing" in warning for warning in words.warnings(run))


def test_without_parts_all_labelled_slides_are_judged(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    assert len(words.judged(run)) == 4
    assert len(words.judged(run._replace(slides=run.slides.assign(split="")))) == 8


def test_depths_that_show_every_cell_are_left_out(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    assert [k for k, _ in words.depth_rows(run)] == [10, 20]
    small = run._replace(slides=run.slides.assign(cells=15.0))
    assert [k for k, _ in words.depth_rows(small)] == [10]


@pytest.mark.parametrize(("value", "rank_by", "shown"), [
    (0.0381, "attention", "3.8 %"), (0.5, "attention", "50 %"), (0.0012, "attention", "0.12 %"), (2e-6, "attention", "<0.01 %"),
    (-1.234, "evidence", "-1.23"), (float("nan"), "attention", "–"),
])
def test_scores_are_written_for_people(value: float, rank_by: str, shown: str):
    assert words.score(value, rank_by) == shown.replace(" ", "\N{NO-BREAK SPACE}")


def test_unknown_measures_are_shown_too(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    run.metrics["slides"]["abnormal"]["new_measure"] = {"value": 0.5, "low": None, "high": None}
    row = words.slide_rows(run)[-1]
    assert row[:3] == ("new measure", "0.50", "–")


def test_every_measure_of_slides_has_words_and_the_levels_are_told(tmp_path: Path):
    assert [*SLIDE_METRICS, "calibration_error_if_true"] == sorted(
        words.METRICS, key=[*SLIDE_METRICS, "calibration_error_if_true"].index)
    run = gather(fake_run(tmp_path / "run"))
    run.metrics["at"] = {"specificity": 0.9, "sensitivity": 0.95}
    run.metrics["slides"]["abnormal"] |= {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in words.METRICS}
    rows = words.slide_rows(run)
    assert all(row.meaning for row in rows)
    assert not any(mark in row.name for row in rows for mark in "{}_")
    assert {"sensitivity at specificity 0.90", "specificity at sensitivity 0.95"} <= {row.name for row in rows}


def test_few_patients_are_counted_by_patient():
    slides = pd.DataFrame({"patient": ["a", "a", "b"], "split": ["train"] * 3, "label": [1.0, 1.0, 0.0]})
    assert words._few(slides, ("train",)) == "1 in training"
