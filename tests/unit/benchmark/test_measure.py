import json

import numpy as np
import pandas as pd
import pytest

from milscope.benchmark import measure
from milscope.types import InputError

SLIDES = pd.DataFrame({
    "slide": ["a", "b", "c", "d", "learned"], "patient": ["a", "b", "c", "d", "e"], "split": [*["test"] * 4, "train"],
    "label": [1, 1, 0, 0, 1], "probability": [0.9, 0.4, 0.6, 0.1, 0.2], "called": [1, 0, 1, 0, 0]})
SCORES = {"a": [5, 4, 3, 2], "b": [1, 2, 3, 4], "c": [9, 1, 1, 1], "d": [0, 0, 0, 0], "learned": [7, 7, 7, 7]}
WITNESSES = {"a": [0, 1], "b": [0], "learned": [0]}


@pytest.fixture
def scored(tmp_path):
    """Four test slides of four cells: those of `a` in the right order, the witness of `b` last; a normal cell leads in `c`."""
    def write(scores=SCORES):
        SLIDES.to_csv(tmp_path / "slides.csv", index=False)
        rows = [(slide, f"{slide}{place}", float(score)) for slide, own in scores.items() for place, score in enumerate(own)]
        cells = pd.DataFrame(rows, columns=["slide", "cell", "evidence"])
        cells.assign(x=np.nan, y=np.nan, width=1.0, height=1.0, attention=0.25).to_parquet(tmp_path / "cells.parquet")
        return tmp_path
    return write


def truth(witnesses=WITNESSES):
    rows = [(slide, f"{slide}{place}", place in witnesses.get(slide, ())) for slide in SCORES for place in range(4)]
    return pd.DataFrame(rows, columns=["slide", "cell", "witness"])


def test_figures_are_those_that_a_person_counts(scored):
    found = measure(scored(), truth(), "evidence")
    assert found["slides"] == {"auc": 0.75, "average_precision": pytest.approx((1 + 2 / 3) / 2, abs=1e-5), "f1": 0.5,
                               "sensitivity": 0.5, "specificity": 0.5}
    assert found["cells"] == {"cell_auc": 0.5, "cell_average_precision": 0.625, "recall_at_10": 1.0,
                              "precision_at_10": 0.375, "recall_at_witnesses": 0.5, "recall_at_400": None}
    rows = {row["slide"]: row for row in found["each"]}
    assert list(rows) == ["a", "b", "c", "d"]
    assert rows["a"]["recall"] == [0.5, 1.0, 1.0, 1.0]
    assert rows["b"]["recall"] == [0.0, 0.0, 0.0, 1.0]
    assert "recall" not in rows["c"]
    assert json.loads(json.dumps(found)) == found


def test_the_first_400_cells_count_where_there_are_more(scored):
    many = {slide: [*range(500)] for slide in SCORES}
    told = pd.DataFrame([(slide, f"{slide}{place}", slide == "a" and place in (99, 100)) for slide in SCORES
                         for place in range(500)], columns=["slide", "cell", "witness"])
    assert measure(scored(many), told, "evidence")["cells"]["recall_at_400"] == 0.5


def test_misses_and_false_alarms_are_named(scored):
    found = measure(scored(), truth(), "evidence")
    assert (found["witnesses"], found["missed_count"]) == (3, 1)
    assert found["missed"] == [{"slide": "b", "cell": "b0", "rank": 4, "of": 4, "score": 1.0, "positive": True}]
    assert [alarm["cell"] for alarm in found["alarms"]][:2] == ["c0", "b3"]
    assert not found["alarms"][0]["positive"]


def test_cells_of_one_score_are_found_by_chance(scored):
    found = measure(scored(dict.fromkeys(SCORES, [1] * 4)), truth(), "evidence")
    assert found["each"][0]["recall"] == [0.25, 0.5, 0.75, 1.0]
    assert found["cells"]["recall_at_witnesses"] == pytest.approx((0.5 + 0.25) / 2)


def test_the_truth_of_training_slides_is_not_looked_at(scored):
    poisoned = truth({**WITNESSES, "learned": [0, 1, 2, 3]})
    assert measure(scored(), poisoned, "evidence") == measure(scored(), truth(), "evidence")


def test_a_truth_without_witnesses_of_test_slides_is_refused(scored):
    with pytest.raises(InputError, match="none of them with a witness"):
        measure(scored(), truth({"learned": [0]}), "evidence")
