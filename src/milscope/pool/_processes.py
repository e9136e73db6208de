"""Many processes on this machine, each with one slide at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any, TypeVar

from milscope.pool._worker import Died, Lost, Worker, told

Job = TypeVar("Job")
Result = TypeVar("Result")
STARTS = 3
"""Processes in a row that may die before they are ready."""


def over_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, limit: float | None
) -> Iterator[tuple[Job, Result | Lost]]:
    """As `over_slides`, in processes of this machine."""
    suspects: list[Job] = []
    for job, outcome in _work(function, jobs, workers, limit):
        if isinstance(outcome, Died):
            suspects.append(job)
        else:
            yield job, told(outcome)
    for job in suspects:
        for _, outcome in _work(function, [job], 1, limit):
            yield job, told(outcome)


def _work(
    function: Callable[[Job], Any], jobs: Sequence[Job], workers: int, limit: float | None
) -> Iterator[tuple[Job, tuple[Any] | Lost | Died]]:
    """Each job with a result, too late, or with its process dead."""
    waiting = deque(jobs)
    crew: dict[Any, Worker] = {}
    flying: dict[Any, Job] = {}
    deaths = 0
    try:
        while waiting or flying:
            idle = [link for link in crew if link not in flying]
            for _ in range(min(workers - len(crew), len(waiting) - len(idle))):
                worker = Worker()
                crew[worker.link] = worker
            for link in idle:
                if waiting and crew[link].ready:
                    flying[link] = waiting.popleft()
                    crew[link].give(function, flying[link], limit)
            times = [left for worker in crew.values() if (left := worker.left) is not None]
            heard = wait(list(crew), min(times, default=None))
            for link in [*heard, *(link for link, worker in crew.items() if worker.left == 0 and link not in heard)]:
                outcome = crew[link].hear()
                deaths = _deaths(deaths, crew[link], outcome)
                if isinstance(outcome, Lost | Died):
                    del crew[link]
                if outcome is not None and link in flying:
                    yield flying.pop(link), outcome
    finally:
        for worker in crew.values():
            worker.close()


def _deaths(before: int, worker: Worker, outcome: object) -> int:
    """Counts the processes that died in a row before they were ready."""
    if worker.ready:
        return 0
    if isinstance(outcome, Died) and before + 1 == STARTS:
        raise RuntimeError(f"no process can be started to work on slides ({outcome.reason})")
    return before + isinstance(outcome, Died)
