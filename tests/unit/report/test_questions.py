"""A run of several tasks is told task by task: its labels, threshold, figures, slides, and the cells sent to its expert."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.fake_run import cell_image, fake_run
from tests.unit.report.test_page import pages

from milscope.report._gather import Gathered, gather
from milscope.report._questions import overview, questions, said
from milscope.report._routed import SHOWN, sent
from milscope.report._taught import pairs

pytestmark = pytest.mark.usefixtures("plain_charts")

TASKS = [{"kind": "binary", "name": "abnormal", "classes": ["negative", "positive"]},
         {"kind": "binary", "name": "clue", "classes": ["negative", "positive"]},
         {"kind": "ordinal", "name": "grade", "classes": ["NILM", "LSIL", "HSIL"]}]


def figures(value: float) -> dict:
    return {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name in ("auc", "sensitivity", "specificity")}


def entry(kind: str, classes: dict[str, int], value: float, **more: object) -> dict:
    return {"kind": kind, "n": sum(classes.values()), "patients": 4, "classes": classes, "figures": figures(value), **more}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three tasks with a teacher: `clue` is what `abnormal` is not, and its cells are those of lowest rank."""
    made = fake_run(tmp_path_factory.mktemp("several") / "run", cells=9)
    slides = pd.read_csv(made / "predict" / "slides.csv")
    (made / "predict" / "tasks").mkdir()
    clue = slides.assign(label=np.where(slides["label"] == 0, "positive", "negative"), probability=1 - slides["probability"],
                         called=1 - slides["called"].astype(int))
    clue.loc[0, "label"] = ""
    clue.to_csv(made / "predict" / "tasks" / "clue.csv", index=False)
    clue.assign(label=["LSIL", "HSIL", "NILM", ""] * 2).to_csv(made / "predict" / "tasks" / "grade.csv", index=False)
    edit(made / "predict" / "manifest.json", lambda told: told["summary"].update(tasks=TASKS))
    point = {"threshold": -1.0, "upper": None, "sensitivity": 0.9, "guarantee": "expected", "confidence": None}
    (made / "train" / "model.json").write_text(json.dumps({
        "operating": {"clue": point}, "tasks": TASKS, "options": {"routing": True},
        "teacher": {"aggregator": "abmil", "model": "0123", "validation": {"clue": {"student": 0.7, "teacher": 0.75}}}}))
    two = {"negative": 2, "positive": 2}
    tasks = {"abnormal": entry("binary", two, 0.91), "clue": entry("binary", two, 0.81),
             "grade": entry("ordinal", {"NILM": 1, "LSIL": 2, "HSIL": 1}, 0.5, suspicion=figures(0.71))}
    edit(made / "evaluate" / "metrics.json", lambda told: told.update(tasks=tasks))
    draw(made, slides["slide"].tolist())
    return made


def edit(path: Path, change: object) -> None:
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def draw(made: Path, slides: list[str]) -> None:
    """Crops in the store, of `clue` in `retrieve`, and weights: the last three cells of a slide have any."""
    random, rows = np.random.default_rng(0), []
    (made / "retrieve" / "tasks" / "clue").mkdir(parents=True)
    for slide in slides:
        table = pa.ipc.open_file((made / "retrieve" / f"{slide}.arrow").read_bytes()).read_all().to_pandas()
        write(made / "retrieve" / "tasks" / "clue" / f"{slide}.arrow", table[::-1].assign(rank=range(1, 10)))
        store = table[["cell"]].assign(mpp=0.5, image=[cell_image(random, abnormal=False) for _ in range(9)])
        write(made / "tile" / f"{slide}.arrow", store)
        weights = {"routing": [0.0] * 8 + [1.0], "evidence:clue": 0.0, "routing:clue": [0.0] * 6 + [0.2, 0.5, 0.3]}
        rows.append(table[["slide", "cell"]].assign(**weights))
    pd.concat(rows).to_parquet(made / "predict" / "cells.parquet")


def write(path: Path, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_every_task_has_its_own_slides_figures_and_threshold(run: Path) -> None:
    main, clue, grade = questions(gather(run))
    assert [main.name, clue.name, grade.name] == ["abnormal", "clue", "grade"]
    assert (main.own, clue.own, main.suffix, clue.suffix) == ("", "clue", "", "-2")
    assert main.threshold == 0.5
    assert clue.threshold == pytest.approx(1 / (1 + np.e))
    assert clue.promise[1].startswith("sensitivity: at least 0.9 of positive patients")
    assert grade.promise == []
    assert clue.run.slides["slide"].tolist() == main.run.slides["slide"].tolist()[::-1]
    assert clue.run.slides["label"].isna().sum() == 1
    grades = grade.run.slides.set_index("slide")["label"].sort_index()
    assert grades.tolist()[:3] == [1, 1, 0]
    assert np.isnan(grades.iloc[3])
    found = [row.run.slide_metrics()["auc"]["value"] for row in (main, clue, grade)]
    assert found == [0.91, 0.81, 0.71], "of grades those as yes or no"
    assert clue.run.cell_metrics() == {}, "those of the main task are not its own"
    assert "recall_at_20" not in clue.run.slides
    assert "(AUC 0.81" in said(clue)
    assert "At the threshold 0.27 it called 81" in said(clue)
    assert [row.figures[0][0] for row in overview([main, clue, grade])] == ["0.91", "0.81", "0.71"]


def test_a_run_of_one_task_is_one_question_in_the_words_it_had(tmp_path: Path) -> None:
    found = gather(fake_run(tmp_path / "run"))
    only, = questions(found)
    assert only.run is found
    assert only.naming.said("an abnormal slide") == "an abnormal slide"


def test_what_is_sent_to_an_expert_is_shown_by_weight(run: Path) -> None:
    found = sent(run / "predict", ["slide-001", "slide-002"], "clue")
    assert list(found) == ["slide-001", "slide-002"]
    one = found["slide-001"]
    assert one.cells["cell"].tolist() == ["slide-001:8", "slide-001:9", "slide-001:7"]
    assert (one.count, one.every, one.share) == (3, 9, pytest.approx(1.0))
    assert one.cells["image"].map(len).min() > 0
    assert len(one.cells) <= SHOWN
    assert sent(run / "predict", ["slide-001"])["slide-001"].cells["cell"].tolist() == ["slide-001:9"]
    assert sent(run / "predict", ["slide-001"], "grade") == sent(run / "predict", [], "clue") == {}


def test_the_pages_have_a_part_for_each_task_with_its_cells_in_its_order(run: Path, tmp_path: Path) -> None:
    first, _ = pages(gather(run), tmp_path / "pages")
    parts = first.split('<section id="')
    own = next(part for part in parts if part.startswith('slides-2"'))
    assert '<span class="chip abnormal">positive</span>' in own
    assert ">abnormal<" not in own
    assert '<a href="#result-3">grade</a>' in first
    result = next(part for part in parts if part.startswith('result-3"'))
    assert "grade: measures over 4 test slides" in result
    assert "Operating point: positive from" in next(part for part in parts if part.startswith('result-2"'))
    name = own.split('href="slides/')[1].split(".html#task-2")[0]
    assert (tmp_path / "pages" / "slides" / f"{name}-strip-2.jpg").exists()

    page = (tmp_path / "pages" / "slides" / f"{name}.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    main, clue, grade = page.split('<section class="slide" id="')[1:]
    assert clue.count('data-r="1"') == 3, "its mark on the slide, its picture, and its picture among those that are sent"
    assert "Sent to the expert of clue: 3 of 9 cells; these 3 have 100 %" in clue
    assert clue.index(':9"') < clue.index(':1"'), "the cell of lowest rank by the main task comes first"
    assert "Sent to the expert of abnormal: 1 of 9 cells" in main
    assert "Sent to the expert" not in grade


def test_a_student_stands_beside_its_teacher(run: Path, tmp_path: Path) -> None:
    found = gather(run)
    assert [pair[:2] for pair in pairs(found)] == [("clue", "AUC, validation slides")]
    taught: Gathered = found._replace(taught={"tasks": {"clue": entry("binary", {}, 0.85), "abnormal": {"figures": {}}}})
    told = {(pair.task, pair.measure): pair for pair in pairs(taught)}
    assert len(told) == 4
    auc = told["clue", "AUC, test slides"]
    assert (auc.teacher[0], auc.student[0], auc.more) == ("0.85", "0.81", "−0.04")
    assert told["clue", "AUC, validation slides"].more == "−0.05"
    assert "beside its teacher" in pages(taught, tmp_path / "pages", slides=0)[0]
