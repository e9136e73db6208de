"""A process that works on one slide at a time and may die or be killed while it does."""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

KILL_WAIT = 10.0
"""Seconds to wait for a process that was killed; one that waits for a dead disk cannot be."""


class Lost(NamedTuple):
    """Why a job has no result: its process died, or it took too long."""

    reason: str


class Died(NamedTuple):
    """Why a process ended before its job did."""

    reason: str


class Worker:
    """One process, started by spawn so that it shares nothing with this one; it ends with this one."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, theirs = context.Pipe()
        self.ready = False
        self._limit: float | None = None
        self._deadline: float | None = None
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _unguarded_main():
            self._process.start()
        theirs.close()

    def give(self, function: Callable, job: object, limit: float | None) -> None:
        """Sends a job; `hear` tells what became of it.

        Args:
            function: A function at the top of a module, or a `partial` of one.
            job: What it is given.
            limit: Seconds it may take, once it is imported; None: any time.
        """
        self._limit = limit
        with suppress(BrokenPipeError, ConnectionResetError):  # it died while it was idle; `hear` says so
            self.link.send((function, job))

    @property
    def left(self) -> float | None:
        """Seconds until the job takes too long; None while there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def hear(self) -> tuple[Any] | Lost | Died | None:
        """The result, or why there is none; None as long as that is not known. Waits only if `link` has nothing.

        Raises:
            Exception: What the function raised.
        """
        if not self.link.poll(self.left):
            self.close()
            return Lost(f"not done after {self._limit:g} s")
        try:
            kind, value = self.link.recv()
        except (EOFError, OSError):
            return Died(self._death())
        if kind in ("ready", "begun"):
            self.ready = True
            if kind == "begun" and self._limit is not None:
                self._deadline = time.monotonic() + self._limit
            return None
        self._deadline = None
        if isinstance(value, MemoryError) and kind == "failed":
            self.close()
            return Died("not enough memory")
        if kind == "failed":
            raise value
        return (value,)

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.join(KILL_WAIT)
        self.link.close()

    def _death(self) -> str:
        self._process.join(KILL_WAIT)
        code = self._process.exitcode
        self.close()
        if code is None or code >= 0:
            return f"exit status {code}"
        return f"signal {-code}: {signal.strsignal(-code)}" + ("; out of memory?" if code == -signal.SIGKILL else "")


def told(outcome: tuple[Any] | Lost | Died) -> Any:  # noqa: ANN401 - the function's result
    """The result, or why there is none."""
    if isinstance(outcome, Died):
        return Lost(f"the process that read it died ({outcome.reason})")
    return outcome if isinstance(outcome, Lost) else outcome[0]


@contextmanager
def _unguarded_main() -> Generator[None, None, None]:
    """Hides the user's script from new processes: they need nothing of it, and would run it again without a guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(link: Connection) -> None:
    """Does what comes through the link until nothing more can."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # at Ctrl-C it ends without a word; the parent speaks
    threading.Thread(target=_die_with_parent, daemon=True).start()
    link.send(("ready", None))
    while True:
        try:
            answer = _answer(link)
        except EOFError:
            return
        link.send_bytes(answer)


def _answer(link: Connection) -> bytes:
    received = link.recv_bytes()
    try:
        function, job = pickle.loads(received)
        link.send(("begun", None))
        return pickle.dumps(("done", function(job)))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        error.add_note(f"In a process that worked on a slide:\n{traceback.format_exc()}")
        return pickle.dumps(("failed", _sendable(error)))


def _sendable(error: Exception) -> Exception:
    """The error, or if it does not survive the way, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
