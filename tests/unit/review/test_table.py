from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milscope.configs import VerdictsConfig
from milscope.review import open_verdicts, verdicts
from milscope.review._run import ReviewedRun
from milscope.review._store import Verdict
from milscope.review._table import COLUMNS, tabled
from milscope.types import InputError


def said(cell: str, reviewer: str, verdict: str, at: int = 0) -> Verdict:
    return Verdict(f"2026-01-01T00:00:{at:02}", reviewer, "abnormal", "s", cell, verdict, 1.0, 2.0, 3.0, 4.0)


def judge(run: Path, *given: tuple[str, int, str, str]) -> None:
    """Slide, rank, reviewer, verdict."""
    reviewed = ReviewedRun(run)
    store = open_verdicts(reviewed)
    for slide, rank, reviewer, verdict in given:
        row = reviewed.cells(slide, reviewed.tasks[0]).slice(rank - 1, 1).to_pylist()[0]
        store.keep(Verdict("2026-01-01T00:00:00", reviewer, "abnormal", slide, row["cell"], verdict, row["x"], row["y"],
                           row["width"], row["height"]))
    store.close()


@pytest.mark.parametrize(("given", "verdict", "label", "agreement"), [
    ("a", "abnormal", 1, 1), ("n", "normal", 0, 1), ("x", "artefact", 0, 1), ("u", "unsure", None, 1),
    ("aan", "abnormal", 1, 0.667), ("an", "unsure", None, 0.5), ("anx", "unsure", None, 0.333), ("nnaau", "unsure", None, 0.4),
    ("aanx", "abnormal", 1, 0.5), ("nx", "unsure", None, 0.5),
])
def test_a_cell_is_what_most_reviewers_say(given: str, verdict: str, label: int | None, agreement: float):
    words = {"a": "abnormal", "n": "normal", "u": "unsure", "x": "artefact"}
    for order in (given, given[::-1]):
        row = tabled([said("c", f"r{place}", words[letter], place) for place, letter in enumerate(order)]).iloc[0]
        assert (row["verdict"], None if row["label"] is pd.NA else row["label"]) == (verdict, label)
        assert (row["agreement"], row["reviewers"]) == (agreement, len(given))
        assert row["at"] == f"2026-01-01T00:00:{len(given) - 1:02}"


def test_the_table_has_a_row_for_each_judged_cell_with_its_place(run: Path, tmp_path: Path):
    judge(run, ("slide-001", 2, "anna", "normal"), ("slide-000", 1, "anna", "abnormal"), ("slide-000", 1, "bo", "abnormal"),
          ("slide-000", 3, "bo", "unsure"))
    done = verdicts(run, tmp_path / "deep" / "table.csv")
    frame = pd.read_csv(done.table)
    assert tuple(frame.columns) == COLUMNS
    assert (done.slides, done.cells, done.warnings) == (2, 3, [])
    assert frame["cell"].tolist() == ["slide-000:1", "slide-000:3", "slide-001:2"]
    assert frame["label"].fillna(-1).tolist() == [1, -1, 0]
    assert frame["reviewers"].tolist() == [2, 1, 1]
    ranked = pd.read_csv(run / "retrieve" / "ranked.csv").set_index("cell").loc[frame["cell"]]
    assert np.allclose(frame[["x", "y", "width", "height"]], ranked[["x", "y", "width", "height"]])


def test_parquet_holds_the_same(run: Path, tmp_path: Path):
    judge(run, ("slide-001", 2, "anna", "unsure"), ("slide-000", 1, "anna", "abnormal"))
    one, other = (verdicts(run, tmp_path / f"table.{kind}").table for kind in ("csv", "parquet"))
    read = pd.read_parquet(other)
    pd.testing.assert_frame_equal(pd.read_csv(one).astype({"label": "Int64"}), read, check_dtype=False)
    assert str(read["label"].dtype) == "Int64"


def test_the_verdicts_of_one_reviewer_alone(run: Path, tmp_path: Path):
    judge(run, ("slide-000", 1, "anna", "abnormal"), ("slide-000", 1, "bo", "normal"), ("slide-000", 2, "bo", "normal"))
    frame = pd.read_csv(verdicts(run, tmp_path / "t.csv", VerdictsConfig(reviewer="anna")).table)
    assert frame[["cell", "verdict"]].to_numpy().tolist() == [["slide-000:1", "abnormal"]]


def test_cells_that_are_no_longer_ranked_are_kept_and_counted(run: Path, tmp_path: Path):
    judge(run, ("slide-000", 1, "anna", "abnormal"), ("slide-001", 1, "anna", "normal"))
    (run / "retrieve" / "slide-001.arrow").unlink()
    done = verdicts(run, tmp_path / "t.csv")
    assert done.cells == 2
    assert done.warnings == ["1 of 2 judged cells are no longer ranked; they are in the table all the same."]


def test_what_cannot_be_made_is_refused_and_nothing_is_written(run: Path, tmp_path: Path):
    out = tmp_path / "t.csv"
    with pytest.raises(InputError, match="Run `milscope review` first"):
        verdicts(run, out)
    assert not (run / "review").exists()
    judge(run, ("slide-000", 1, "anna", "abnormal"))
    for refused, said in (((run, tmp_path / "t.xlsx"), "ends in .csv or .parquet"),
                          ((run, out, VerdictsConfig(task="grade")), "one of abnormal"),
                          ((run, out, VerdictsConfig(reviewer="bo")), "one of anna"),
                          ((run, run / "slides.csv" / "t.csv"), "can be written"),
                          ((tmp_path, out), "a run with ranked cells")):
        with pytest.raises(InputError, match=said):
            verdicts(*refused)
    store = open_verdicts(ReviewedRun(run))
    store.undo("anna", "abnormal", lambda _: True)
    store.close()
    with pytest.raises(InputError, match="no verdict that stands"):
        verdicts(run, out)
    assert list(tmp_path.glob("*t.*")) == []
