import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from tests.fake_run import fake_run

from milscope.review._run import Judged, ReviewedRun
from milscope.types import InputError


def with_second_task(run: Path) -> None:
    """A task `grade` of three classes, whose ranking is the other way round."""
    manifest = json.loads((run / "predict" / "manifest.json").read_text())
    manifest["summary"]["tasks"] = [{"kind": "binary", "name": "abnormal", "classes": ["negative", "positive"]},
                                    {"kind": "ordinal", "name": "grade", "classes": ["none", "low", "high"]}]
    (run / "predict" / "manifest.json").write_text(json.dumps(manifest))
    (run / "predict" / "tasks").mkdir()
    pd.DataFrame({"slide": ["slide-000", "slide-001", "slide-002"], "patient": "", "split": "test",
                  "label": ["none", "", "high"], "probability": [0.9, 0.1, 0.5], "called": [True, False, False],
                  "decision": ["positive", "negative", "review"]}).to_csv(run / "predict" / "tasks" / "grade.csv", index=False)
    place = run / "retrieve" / "tasks" / "grade"
    place.mkdir(parents=True)
    shutil.copy(run / "retrieve" / "slide-000.arrow", place)
    ranked = pd.read_csv(run / "retrieve" / "ranked.csv")
    ranked[ranked["slide"] == "slide-000"].to_csv(place / "ranked.csv", index=False)


def test_slides_are_in_order_of_suspicion_with_what_is_known_of_them(shared: Path):
    run = ReviewedRun(shared)
    listed = run.listed(run.tasks[0])
    scored = pd.read_csv(shared / "predict" / "slides.csv").sort_values("probability", ascending=False)
    assert run.slides == listed["slide"].tolist() == scored["slide"].tolist()
    assert listed["label"].tolist() == scored["label"].tolist()
    assert listed["called"].tolist() == scored["called"].astype(float).tolist()
    assert listed["cells"].tolist() == [6, 6, 6]
    assert [run.number(slide) for slide in run.slides] == [0, 1, 2]
    assert (run.title, run.tasks[0].name, run.tasks[0].sought) == ("run", "abnormal", "abnormal")


def test_another_task_has_its_own_order_labels_and_cells_but_the_same_numbers(run: Path):
    with_second_task(run)
    reviewed = ReviewedRun(run)
    main, grade = reviewed.tasks
    assert [(each.name, each.sought) for each in reviewed.tasks] == [("abnormal", "abnormal"), ("grade", "low or high")]
    assert reviewed.task("") == main
    assert reviewed.task("grade") == grade
    assert reviewed.task("../predict") is None
    listed = reviewed.listed(grade)
    assert listed["slide"].tolist() == ["slide-000", "slide-002", "slide-001"]
    assert listed["label"].fillna(-1).tolist() == [0, 1, -1]
    assert listed["decision"].tolist() == ["positive", "review", "negative"]
    assert listed["cells"].tolist() == [6, 0, 0]
    assert reviewed.slides == ReviewedRun(run).listed(main)["slide"].tolist()
    assert len(reviewed.cells("slide-001", grade)) == 0


def test_a_run_without_ranked_cells_is_refused(tmp_path: Path):
    run = fake_run(tmp_path / "run", slides=1, cells=1, leave_out=("retrieve",))
    with pytest.raises(InputError, match="Run `milscope run` first"):
        ReviewedRun(run)
    with pytest.raises(InputError, match="ranked cells"):
        ReviewedRun(tmp_path / "absent")


def test_a_run_of_ranked_cells_alone_can_be_reviewed(run: Path):
    for stage in ("predict", "tile"):
        shutil.rmtree(run / stage)
    reviewed = ReviewedRun(run)
    listed = reviewed.listed(reviewed.tasks[0])
    assert listed["slide"].tolist() == ["slide-000", "slide-001", "slide-002"]
    assert listed["probability"].isna().all()
    assert reviewed.image("slide-000") == (None, None, None, None)


def test_names_stay_text(run: Path):
    for table in (run / "predict" / "slides.csv", run / "retrieve" / "ranked.csv", run / "tile" / "slides.csv"):
        table.write_text(table.read_text().replace("slide-001,", "NA,").replace("slide-002,", "007,"))
    assert set(ReviewedRun(run).slides) == {"slide-000", "NA", "007"}


def test_an_image_that_was_moved_away_and_one_of_crops_are_told(shared: Path):
    run = ReviewedRun(shared)
    there, moved, crops = (run.image(f"slide-{place:03}") for place in range(3))
    assert there.file is not None
    assert (there.size, there.mpp) == ((1200, 900), 0.5)
    assert (moved.file, moved.size) == (None, (1200, 900))
    assert moved.thumbnail is not None
    assert (crops.file, crops.size, crops.thumbnail) == (None, None, None)


def test_a_judged_cell_is_found_by_name_and_place(shared: Path):
    run = ReviewedRun(shared)
    table = run.cells("slide-001", run.tasks[0])
    x, y = table["x"][2].as_py(), table["y"][2].as_py()
    judged = [Judged("slide-001", "slide-001:3", x, y), Judged("slide-001", "slide-001:3", x + 0.4, y),
              Judged("slide-001", "slide-001:3", x + 5, y), Judged("slide-001", "slide-001:3", None, None),
              Judged("slide-001", "slide-001:99", x, y), Judged("elsewhere", "slide-001:3", x, y),
              Judged("../slide-001", "slide-001:3", x, y)]
    assert run.ranks(judged, run.tasks[0]) == [3, 3, None, None, None, None, None]


def test_crops_have_no_place_and_are_found_by_name(tmp_path: Path):
    run = ReviewedRun(fake_run(tmp_path / "run", slides=1, cells=2, places=False, leave_out=("tile",)))
    assert run.ranks([Judged("slide-000", "slide-000:2", None, None), Judged("slide-000", "slide-000:2", 1.0, 2.0)],
                     run.tasks[0]) == [2, None]
    assert math.isnan(run.cells("slide-000", run.tasks[0])["x"][0].as_py())


def test_cells_that_are_ranked_again_are_noticed(run: Path):
    reviewed = ReviewedRun(run)
    assert not reviewed.changed()
    manifest = (run / "retrieve" / "manifest.json").read_text()
    (run / "retrieve" / "manifest.json").unlink()
    assert reviewed.changed()
    (run / "retrieve" / "manifest.json").write_text(manifest)
    assert reviewed.changed()
