"""Progress bars with rate and remaining time, quiet when nobody is looking; and what is to be said beforehand."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import parent_process

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_within: ContextVar[bool] = ContextVar("within a bar", default=False)


@contextmanager
def progress(stage: str, total: int, unit: str, done: int = 0) -> Generator[Callable[[int], None]]:
    """A bar on standard error; gives the function that moves it on. Nothing is drawn when that is no terminal.

    Of bars within bars the outermost alone is drawn, and processes of a pool draw none: they would write over it.

    Args:
        stage: What is being done.
        total: How many units there are.
        unit: The unit, in the plural (`slides`, `cells`).
        done: How many were done before (a resumed stage).
    """
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
               _Rate(unit), TimeRemainingColumn())
    drawn = sys.stderr.isatty() and speaks() and not _within.get() and parent_process() is None
    with Progress(*columns, console=Console(stderr=True), disable=not drawn, transient=True) as bar:
        task, token = bar.add_task(stage, total=total, completed=done), _within.set(True)
        try:
            yield lambda count: bar.advance(task, count)
        finally:
            _within.reset(token)


def note(stage: str, text: str) -> None:
    """Says on standard error what a stage is about to do, for all processes once."""
    if speaks():
        print(f"{stage:>9}  {text}", file=sys.stderr, flush=True)


def speaks() -> bool:
    """Whether this process speaks for all that torchrun started together."""
    return os.environ.get("RANK", "0") == "0"


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")
