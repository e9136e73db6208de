"""What was measured beside the slides of the main question is told, in words, once."""

import json
from pathlib import Path

import pytest
from tests.fake_run import fake_run
from tests.unit.report.test_page import pages

from milscope.metrics import CLASS_METRICS, ORDINAL_METRICS, REVIEW_METRICS, SLIDE_METRICS
from milscope.report import _tasks as tasks
from milscope.report._gather import gather

pytestmark = pytest.mark.usefixtures("plain_charts")


def figures(names, value=0.5):
    return {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name in names}


GRADES = {"kind": "ordinal", "n": 12, "patients": 9, "classes": {"NILM": 5, "LSIL": 4, "HSIL": 3},
          "figures": figures([*CLASS_METRICS, *ORDINAL_METRICS, "calibration_error_if_true"], 0.61),
          "suspicion": figures(SLIDE_METRICS, 0.62), "patients_figures": figures(CLASS_METRICS, 0.63),
          "review": figures(REVIEW_METRICS, 0.64)}
DEATH = {"kind": "cox", "n": 12, "patients": 9, "events": 7, "figures": figures(["c_index", "integrated_brier", "brier"], 0.65)}
MAIN = {"kind": "binary", "n": 4, "patients": 4, "classes": {"negative": 2, "positive": 2},
        "figures": figures(SLIDE_METRICS, 0.66), "patients_figures": figures(SLIDE_METRICS, 0.67),
        "review": figures(REVIEW_METRICS, 0.68)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with three tasks; the curves of the grades hold their confusion, and those of the main task its calibration."""
    made = fake_run(tmp_path / "run")
    path, curves = made / "evaluate" / "metrics.json", made / "evaluate" / "curves.json"
    path.write_text(json.dumps({
        **json.loads(path.read_text()), "tasks": {"abnormal": MAIN, "grade": GRADES, "death": DEATH, "empty": {"figures": {}}},
        "patients_figures": {"abnormal": MAIN["patients_figures"]}, "review": {"abnormal": MAIN["review"]},
        "at": {"specificity": 0.9, "sensitivity": 0.95}}))
    drawn = json.loads(curves.read_text())
    drawn["abnormal"]["calibration"] = {"probability": [0.2, 0.8], "share": [0.3, 0.7], "low": [0, 0.5], "high": [0.5, 1]}
    drawn["grade"] = {"classes": {"names": ["NILM", "LSIL", "<HSIL>"], "counts": [[4, 1, 0], [0, 4, 0], [0, 71, 2]]}}
    drawn["abnormal"]["classes"] = {"names": ["negative", "positive"], "counts": [[1, 1], [0, 2]]}
    curves.write_text(json.dumps(drawn))
    return made


def test_every_table_is_there_once_and_every_measure_has_words(run: Path):
    found = list(tasks.measured(gather(run)))
    assert [table.caption.split(":")[0] for table in found] == ["Patients", "Slides", *["grade"] * 4, "death"]
    assert [table.rows[0].value for table in found] == ["0.67", "0.68", "0.61", "0.62", "0.63", "0.64", "0.65"]
    assert "12 test slides of 9 patients (5 NILM, 4 LSIL, 3 HSIL)" in found[2].caption
    assert "NILM or not" in found[3].caption
    assert "12 test slides of 9 patients (7 with the event)" in found[6].caption
    assert all(row.meaning and not set("{}_") & set(row.name) for table in found for row in table.rows)


def test_the_page_shows_them_with_the_confusion_and_the_calibration(run: Path, tmp_path: Path):
    page, _ = pages(gather(run), tmp_path / "pages")
    result = page.split('<section id="result"')[1].split("</section>")[0]
    for caption in ("Patients: measures over test patients", "grade: measures over 12", "death: measures over 12"):
        assert result.count(f"<caption>{caption}") == 1
    assert "told &lt;HSIL&gt;" in result
    assert '<td class="n">71</td>' in result
    assert '<td class="n"><strong>4</strong></td>' in result
    assert "Believing a probability" in result
    assert result.count("told negative") == 0, "the main task's calls are drawn already"


def test_a_run_without_tasks_tells_nothing_more(tmp_path: Path):
    gathered = gather(fake_run(tmp_path / "run"))
    assert list(tasks.measured(gathered)) == list(tasks.confused(gathered)) == []
    assert "Believing" not in pages(gathered, tmp_path / "pages")[0]


def test_a_review_band_that_left_nothing_to_a_person_is_not_told(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    band = figures(REVIEW_METRICS, 0.5)
    for left, tables in ((0.0, 0), (0.2, 1)):
        told = run._replace(metrics={"review": {run.task: band | {"reviewed": {"value": left, "low": left, "high": left}}}})
        assert sum("review band" in table.caption for table in tasks.measured(told)) == tables
