import dataclasses

import numpy as np
import pandas as pd
import pytest
from tests.fake_scores import cell_table, slide_table, write_scores

from milscope.configs import RetrieveConfig
from milscope.ranking import RANKINGS, attention, order, rank_scores, rank_slides
from milscope.types import InputError


def test_every_cell_once_slide_by_slide_whatever_the_batches(tmp_path, monkeypatch):
    slides = slide_table(5)
    cells = cell_table(slides, 30)
    scores = write_scores(tmp_path / "predict", slides, cells)
    found = list(rank_slides(scores, attention))
    assert [slide for slide, _ in found] == slides["slide"].tolist()
    assert all(set(frame["slide"]) == {slide} for slide, frame in found)
    joined = pd.concat([frame for _, frame in found], ignore_index=True)
    assert joined["cell"].tolist() == cells["cell"].tolist()
    assert joined["score"].to_numpy() == pytest.approx(cells["attention"].to_numpy())
    pd.testing.assert_frame_equal(rank_scores(scores, "attention"), joined)


def test_slides_longer_and_shorter_than_a_batch(tmp_path):
    slides = slide_table(3)
    cells = pd.concat([cell_table(slides[:1], 1), cell_table(slides[1:2], 70_000), cell_table(slides[2:], 2)])
    found = {slide: len(frame) for slide, frame in rank_slides(write_scores(tmp_path / "p", slides, cells), attention)}
    assert found == {"S00": 1, "S01": 70_000, "S02": 2}


def test_no_cells_at_all(tmp_path):
    cells = cell_table(slide_table(1)).iloc[:0]
    assert rank_scores(write_scores(tmp_path / "p", slide_table(1), cells), "evidence").empty


def test_a_slide_in_two_places_is_refused(tmp_path):
    slides = slide_table(2)
    cells = cell_table(slides)
    mixed = pd.concat([cells, cells[:3]])
    with pytest.raises(InputError, match="slide S00 in two places"):
        rank_scores(write_scores(tmp_path / "p", slides, mixed), "attention")


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="Found luck"):
        rank_scores(tmp_path, "luck")


def test_order_is_best_first_and_keeps_equal_cells_in_place():
    assert order(np.array([1.0, 3, 1, 3, 2])).tolist() == [1, 3, 4, 0, 2]


def test_the_choices_of_the_command_line_are_the_rankings():
    field = next(field for field in dataclasses.fields(RetrieveConfig) if field.name == "rank")
    assert set(field.metadata["choices"]) == set(RANKINGS)
