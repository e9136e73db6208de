import pandas as pd
import pytest

from milscope.ranking import RANKINGS, evidence, other_tasks, routing, scores_of
from milscope.types import InputError

CELLS = pd.DataFrame({"slide": "a", "cell": ["1", "2"], "attention": [0.25, 0.75], "evidence": [3.0, -3.0],
                      "routing": [0.0, 1.0], "attention:clue": [0.5, 0.5], "evidence:clue": [-1.0, 4.0]})


def test_it_is_the_routing_column():
    assert RANKINGS["routing"] is routing
    assert routing(CELLS).tolist() == [0.0, 1.0]


def test_scores_without_it_are_refused_with_a_way_out():
    with pytest.raises(InputError, match=r"`rank` should be evidence or attention for these scores.*such as `mecds`"):
        routing(CELLS.drop(columns="routing"))


def test_the_scores_of_another_task_never_stand_in_for_those_it_lacks():
    assert evidence(scores_of(CELLS, "clue")).tolist() == [-1.0, 4.0]
    with pytest.raises(InputError, match="such as `mecds`"):
        routing(scores_of(CELLS, "clue"))
    assert scores_of(CELLS, "") is CELLS
    with pytest.raises(InputError, match="Found candida"):
        scores_of(CELLS, "candida")


def test_other_tasks_are_those_with_evidence(tmp_path):
    CELLS.to_parquet(tmp_path / "cells.parquet")
    assert other_tasks(tmp_path) == ["clue"]
