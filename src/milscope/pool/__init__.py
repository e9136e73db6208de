"""One slide, one task: work over slides in processes that may die or hang without taking the others with them."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from milscope.pool._processes import over_processes
from milscope.pool._worker import Lost

__all__ = ["EXECUTORS", "Lost", "over_slides"]

EXECUTORS = ("processes", "ray")
Job = TypeVar("Job")
Result = TypeVar("Result")


def over_slides(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, limit: float | None = None,
    executor: str = "processes", address: str = "", shared: Path | None = None, gpus: float = 0.0,
) -> Iterator[tuple[Job, Result | Lost]]:
    """Each job with its result, in the order of completion; `Lost` for one whose process died twice or took too long.

    A job whose process died is tried again, with `processes` at the end and alone: then it has all the memory. An
    exception of the function ends everything and is raised here.

    Args:
        function: A function at the top of a module, or a `partial` of one (it is sent by name).
        jobs: What it is given, one at a time; sent by pickle.
        workers: Processes; 0 for one per core (of the cluster). 1 without `limit` works in this process, dies with it.
        limit: Seconds a job may take; None: any time.
        executor: `processes` of this machine, or `ray`: those of a Ray cluster.
        address: Of the Ray cluster; empty: `RAY_ADDRESS`, else the one of this machine, else a new one.
        shared: A folder in which the function writes, and which every machine of a cluster must see.
        gpus: Of a cluster, for each job.

    Raises:
        Unfinished: If Ray is asked for and not there, or one of its machines lacks a folder or has another milscope.
    """
    if executor == "ray":
        from milscope.pool._cluster import over_cluster

        return over_cluster(function, jobs, workers, limit=limit, address=address, shared=shared, gpus=gpus)
    if workers == 1 and limit is None:
        return ((job, function(job)) for job in jobs)
    return over_processes(function, jobs, workers or _cores(), limit)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
