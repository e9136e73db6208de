"""One slide, one task: work over slides in processes that may die without taking the others with them."""

import multiprocessing
import os
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def over_slides(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Result | None]]:
    """Each job with its result, in the order of completion; None for a job whose process died, twice.

    When a process dies, the jobs that were under way are tried again, each alone in a process of its own, and the
    others go on in new processes. An exception of the function ends everything and is raised here.

    Args:
        function: A function at the top of a module (it is sent by name).
        jobs: What it is given, one at a time; sent by pickle.
        workers: Processes; 0 for one per core, 1 works in this process (and dies with it).
    """
    workers = min(workers or _cores(), len(jobs))
    if workers <= 1:
        yield from ((job, function(job)) for job in jobs)
        return
    waiting: deque[Job] = deque(jobs)
    suspects: list[Job] = []
    while waiting:
        yield from _until_broken(function, waiting, suspects, workers)
    for job in suspects:
        dead: list[Job] = []
        yield from _until_broken(function, deque([job]), dead, 1)
        yield from ((job, None) for job in dead)


def _until_broken(
    function: Callable[[Job], Result], waiting: deque[Job], suspects: list[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Works through `waiting` until it is empty or a process dies; then the jobs under way become suspects."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flying: dict[Future[Result], Job] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < workers:  # no more than can run, so that a death has few suspects
                with _unguarded_main():
                    flying[pool.submit(function, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield flying.pop(future), result
    except BrokenProcessPool:
        suspects.extend(flying.values())
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _unguarded_main() -> Generator[None, None, None]:
    """Hides the user's script from new processes: they need nothing of it, and would run it again without a guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_worker() -> None:
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
