import io
import multiprocessing.process
import sys

import pytest

from milscope import progress as module
from milscope.progress import progress


def _terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error, which says that it is a terminal. Not a fixture: pytest puts its own back before the test begins."""
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_of_bars_within_bars_the_outermost_alone_is_drawn(monkeypatch):
    drawn = _terminal(monkeypatch)
    for stage in ("outer", "next"):
        with progress(stage, 2, "slides"), progress("inner", 3, "cells") as advance:
            advance(1)
    assert "outer" in drawn.getvalue()
    assert "next" in drawn.getvalue()
    assert "inner" not in drawn.getvalue()


def test_a_process_of_a_pool_draws_none(monkeypatch):
    drawn = _terminal(monkeypatch)
    with progress("alone", 3, "cells") as advance:
        advance(1)
    assert "alone" in drawn.getvalue()
    monkeypatch.setattr(module, "parent_process", lambda: multiprocessing.process.current_process())
    with progress("inner", 3, "cells") as advance:
        advance(1)
    assert "inner" not in drawn.getvalue()


def test_nothing_is_drawn_where_nobody_looks(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("stage", 3, "cells") as advance:
        advance(1)
    assert stream.getvalue() == ""
