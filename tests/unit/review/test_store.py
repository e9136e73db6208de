import sqlite3
import threading
from pathlib import Path

import pytest

from milscope.review._store import Ranked, Verdict, VerdictStore
from milscope.types import InputError


def opened(path: Path, ranked: str = "r1", cells: str = "c1", fits=lambda _: False) -> VerdictStore:
    return VerdictStore(path / "review" / "verdicts.sqlite", Ranked(ranked, cells), fits)


def said(verdict: str | None, cell: str = "s:1", reviewer: str = "anna", task: str = "t") -> Verdict:
    return Verdict("2026-01-01T00:00:00.000+00:00", reviewer, task, "s", cell, verdict, 1.0, 2.0, 3.0, 4.0)


def standing(store: VerdictStore, **only) -> dict[tuple[str, str], str | None]:
    return {(each.reviewer, each.cell): each.verdict for each in store.standing("t", **only)}


def test_the_last_verdict_of_each_reviewer_on_each_cell_counts(tmp_path: Path):
    store = opened(tmp_path)
    for verdict in (said("abnormal"), said("normal"), said("unsure", reviewer="bo"), said("artefact", cell="s:2"),
                    said("abnormal", task="other")):
        store.keep(verdict)
    assert standing(store) == {("anna", "s:1"): "normal", ("bo", "s:1"): "unsure", ("anna", "s:2"): "artefact"}
    assert standing(store, reviewer="bo") == {("bo", "s:1"): "unsure"}
    assert standing(store, slide="elsewhere") == {}
    assert store.reviewers() == ["anna", "bo"]
    assert store.standing("t")[0] == said("normal"), "the place of the cell is kept with it"


def test_undo_goes_back_one_by_one_and_touches_nobody_elses(tmp_path: Path):
    store = opened(tmp_path)
    for verdict in (said("abnormal"), said("unsure", reviewer="bo"), said("normal"), said(None)):
        store.keep(verdict)
    assert standing(store) == {("bo", "s:1"): "unsure"}
    steps = []
    while undone := store.undo("anna", "t", lambda _: True):
        steps.append((undone[0].verdict, undone[1]))
    assert steps == [(None, "normal"), ("normal", "abnormal"), ("abnormal", None)]
    assert standing(store) == {("bo", "s:1"): "unsure"}
    store.keep(said("abnormal"))
    assert standing(store)["anna", "s:1"] == "abnormal"


def test_undo_passes_over_cells_that_are_not_shown(tmp_path: Path):
    store = opened(tmp_path)
    for cell in ("s:1", "s:2"):
        store.keep(said("abnormal", cell=cell))
    undone = store.undo("anna", "t", lambda verdict: verdict.cell == "s:1")
    assert undone is not None
    assert undone[0].cell == "s:1"
    assert standing(store) == {("anna", "s:2"): "abnormal"}


def test_what_is_said_twice_is_kept_once_so_that_a_repeated_request_does_no_harm(tmp_path: Path):
    store = opened(tmp_path)
    for verdict in (said(None), said("abnormal"), said("abnormal")):
        store.keep(verdict)
    assert store.undo("anna", "t", lambda _: True) is not None
    assert store.undo("anna", "t", lambda _: True) is None


def test_history_is_only_added_to(tmp_path: Path):
    store = opened(tmp_path)
    store.keep(said("abnormal"))
    store.undo("anna", "t", lambda _: True)
    with sqlite3.connect(store.path) as raw:
        rows = raw.execute("SELECT id, verdict, withdrawn FROM verdicts ORDER BY id").fetchall()
        assert rows == [(1, "abnormal", None), (2, None, 1)]
        for change in ("DELETE FROM verdicts", "UPDATE verdicts SET verdict = 'normal'"):
            with pytest.raises(sqlite3.IntegrityError, match="verdicts are kept"):
                raw.execute(change)
    raw.close()


def test_what_is_kept_is_on_the_disk_and_in_a_log_that_readers_do_not_wait_for(tmp_path: Path):
    store = opened(tmp_path)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    store.keep(said("abnormal"))
    assert not store._connection.in_transaction
    assert standing(opened(tmp_path)) == {("anna", "s:1"): "abnormal"}, "seen by another that opens it while the first writes"


def test_two_that_write_at_once_lose_nothing(tmp_path: Path):
    stores = [opened(tmp_path), opened(tmp_path)]

    def write(number: int) -> None:
        for cell in range(40):
            stores[number].keep(said("normal", cell=f"s:{cell}", reviewer=f"r{number}"))

    writers = [threading.Thread(target=write, args=(number,)) for number in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(standing(stores[0])) == len(standing(stores[1])) == 80


def test_a_failed_write_leaves_nothing_and_the_next_one_is_kept(tmp_path: Path):
    store = opened(tmp_path)
    with pytest.raises(sqlite3.IntegrityError):
        store.keep(said("perhaps"))
    assert standing(store) == {}
    store.keep(said("normal"))
    assert standing(store) == {("anna", "s:1"): "normal"}


def test_cells_ranked_again_keep_their_verdicts_those_of_another_run_are_refused(tmp_path: Path):
    opened(tmp_path).keep(said("abnormal"))
    assert standing(opened(tmp_path, ranked="r2")) != {}, "the same cells in another order"
    with pytest.raises(InputError, match=r"1 judged cells, none of which is one of this run.* Move the file"):
        opened(tmp_path, ranked="r3", cells="c2")
    store = opened(tmp_path, ranked="r4", cells="c3", fits=lambda verdict: verdict.cell == "s:1")
    assert standing(store) != {}, "cut again, but the cell is there"
    opened(tmp_path, ranked="r5", cells="c3")


def test_a_newer_version_no_database_and_a_file_in_the_way_are_refused(tmp_path: Path):
    store = opened(tmp_path)
    store._connection.execute("PRAGMA user_version = 2")
    store.close()
    with pytest.raises(InputError, match=r"version 1 or older.*Update milscope"):
        opened(tmp_path)
    store.path.write_bytes(b"no database, but long enough to be taken for one" * 9)
    with pytest.raises(InputError, match="a database of verdicts that can be written"):
        opened(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "review").write_text("a file")
    with pytest.raises(InputError, match="a database of verdicts that can be written"):
        opened(tmp_path / "other")
