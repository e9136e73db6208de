"""Reviews as processes of their own: killed the moment a verdict was answered, and two on one run."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.fake_run import fake_run

from milscope.review import verdicts

CELLS = 8


class Reviewing:
    """A `milscope review`, and a browser that has opened its address."""

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "milscope", "review", str(run), "--no-open"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def open(self) -> "Reviewing":
        found = re.search(r"http://([\d.]+):(\d+)(\S+)", self.process.stdout.readline())
        self.host, self.port = found[1], int(found[2])
        connection = HTTPConnection(self.host, self.port, timeout=20)
        connection.request("GET", found[3])
        self.cookie = connection.getresponse().headers["Set-Cookie"].split(";")[0]
        connection.close()
        return self

    def ask(self, path: str, **asked: Any) -> dict[str, Any]:
        connection = HTTPConnection(self.host, self.port, timeout=20)
        headers = {"Cookie": self.cookie, "X-Milscope": "1", "Content-Type": "application/json"}
        connection.request("POST" if asked else "GET", path, json.dumps(asked) if asked else None, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        told = json.loads(answer.read())
        connection.close()
        return told

    def judge(self, rank: int, verdict: str, reviewer: str) -> dict[str, Any]:
        return self.ask("/api/verdicts", index=0, rank=rank, reviewer=reviewer, verdict=verdict)

    def end(self, with_signal: int) -> int:
        self.process.send_signal(with_signal)
        return self.process.wait(20)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Path, Reviewing, Reviewing]]:
    run = fake_run(tmp_path / "run", slides=1, cells=CELLS, leave_out=("check", "pretrain", "encode", "train", "evaluate"))
    started = [Reviewing(run), Reviewing(run)]
    try:
        yield run, started[0].open(), started[1].open()
    finally:
        for each in started:
            each.process.kill()
            each.process.wait(20)
            each.process.stdout.close()


def test_two_at_once_see_each_other_and_a_killed_one_loses_nothing_that_it_answered(both, tmp_path: Path):
    run, one, other = both

    def judge(review: Reviewing, reviewer: str) -> None:
        for rank in range(1, CELLS):
            review.judge(rank, "normal", reviewer)

    writers = [threading.Thread(target=judge, args=pair) for pair in ((one, "anna"), (other, "bo"))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for review in (one, other):
        assert [review.ask(f"/api/run?reviewer={name}")["slides"][0]["judged"] for name in ("anna", "bo")] == [CELLS - 1] * 2

    assert one.judge(CELLS, "abnormal", "anna")["judged"] == CELLS
    assert one.end(signal.SIGKILL) == -signal.SIGKILL
    assert other.ask("/api/run?reviewer=anna")["place"] == {"index": 0, "rank": CELLS}
    other.judge(CELLS, "abnormal", "bo")
    assert other.end(signal.SIGKILL) == -signal.SIGKILL
    frame = pd.read_csv(verdicts(run, tmp_path / "verdicts.csv").table)
    assert frame["reviewers"].tolist() == [2] * CELLS
    assert frame.set_index("cell")["verdict"].to_dict() == {
        f"slide-000:{rank}": "abnormal" if rank == CELLS else "normal" for rank in range(1, CELLS + 1)}


def test_after_the_end_by_ctrl_c_one_file_is_left_and_the_next_review_goes_on(both):
    run, one, other = both
    one.judge(3, "unsure", "anna")
    for review in (one, other):
        assert review.end(signal.SIGINT) == 0
    assert [path.name for path in (run / "review").iterdir()] == ["verdicts.sqlite"]
    later = Reviewing(run).open()
    try:
        assert later.ask("/api/run?reviewer=anna")["place"] == {"index": 0, "rank": 3}
        assert later.ask("/api/undo", reviewer="anna")["undone"] == "unsure"
    finally:
        assert later.end(signal.SIGTERM) in (0, -signal.SIGTERM)
        later.process.stdout.close()
