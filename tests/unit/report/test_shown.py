import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.fake_run import MPP, SIDE, fake_run

from milscope.report._gather import gather
from milscope.report._questions import questions
from milscope.report._shown import FIRST, LEAST, MOST, allowance, chosen, ranked, sheeted, strip


def written(files: dict[str, bytes]):
    def write(name: str, data: bytes) -> str:
        files[name] = data
        return f"{name}.jpg"

    return write


def test_cells_come_in_order_with_place_and_physical_size(tmp_path: Path):
    question, = questions(gather(fake_run(tmp_path / "run", cells=30)))
    files: dict[str, bytes] = {}
    frame = ranked(question, "slide-001", 26)
    made = sheeted(frame, np.nan, allowance(8, 26), written(files))
    assert [cell.rank for cell in made.cells] == list(range(1, 27))
    assert [cell.sheet for cell in made.cells] == [0] * FIRST + [1, 1]
    assert [name for name, _, _ in made.files] == ["first.jpg", "more.jpg"]
    assert set(files) == {"first", "more"}
    assert {(cell.across, cell.down) for cell in made.cells} == {(64 * MPP, 64 * MPP)}
    assert all(0 <= cell.x <= SIDE for cell in made.cells)
    assert made.bar == 10
    assert 100 < made.scale * 64 * MPP < 170, "about as large on the screen as a stamp"


def test_without_a_scale_cells_are_as_large_as_each_other(tmp_path: Path):
    pixels = [np.zeros((30, 60, 3), np.uint8), np.zeros((80, 80, 3), np.uint8)]
    frame = pd.DataFrame({"rank": [1, 2], "cell": ["a", "b"], "score": [2.0, 1.0], "pixels": pixels})
    made = sheeted(frame, np.nan, allowance(1, 2), written({}))
    assert [(cell.across, cell.down) for cell in made.cells] == [(1.0, 0.5), (1.0, 1.0)]
    assert made.bar == 0
    assert made.cells[0].x is None
    scaled = sheeted(frame, 0.5, allowance(1, 2), written({}))
    assert [(cell.across, cell.down) for cell in scaled.cells] == [(30.0, 15.0), (40.0, 40.0)]


def test_damaged_cells_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    question, = questions(gather(fake_run(tmp_path / "run", cells=5)))
    whole = ranked(question, "slide-001", 5)
    monkeypatch.setattr(sys.modules["milscope.report._shown"], "cells", lambda *_: pd.DataFrame(
        {"rank": [1, 2], "cell": ["a", "b"], "score": 1.0, "image": [b"broken", b""]}))
    assert len(whole) == 5
    assert len(ranked(question, "slide-001", 5)) == 0


def test_few_cells_may_take_more_room_than_many():
    few, many = allowance(10, 400), allowance(1000, 400)
    assert few == (MOST, MOST)
    assert LEAST <= many.more < many.first < MOST
    assert allowance(0, 0) == (MOST, MOST)
    assert allowance(10**6, 400) == (LEAST, LEAST)


def test_test_slides_come_first_and_tasks_take_turns(tmp_path: Path):
    question, = questions(gather(fake_run(tmp_path / "run")))
    slides = question.run.slides
    test = slides.loc[slides["split"] == "test", "slide"].tolist()
    assert chosen([question], 4) == test
    turned = question._replace(run=question.run._replace(slides=slides[::-1].reset_index(drop=True)))
    assert chosen([question, turned], 2) == [test[0], test[-1]]
    assert sorted(chosen([question, turned], 99)) == sorted(slides["slide"])


def test_the_strip_is_one_small_picture(tmp_path: Path):
    frame = pd.DataFrame({"pixels": [np.full((side, 90, 3), side // 2, np.uint8) for side in (40, 90, 300)]})
    assert 300 < len(strip(frame)) < 8_000
