"""Many machines: every slide is a task of a Ray cluster, done in a process beside the one that Ray keeps."""

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from milscope.pool._worker import Died, Lost, Worker, told
from milscope.types import unfinished

Job = TypeVar("Job")
Result = TypeVar("Result")
AHEAD = 2
"""Tasks sent per core: while one is under way, the next is on its way, and Ray sees that more machines would help."""
KNOCK = 10.0
"""Seconds to wait for the cluster's head."""
LOSSES = 5
"""Times that a slide begins again because its machine died; Ray sees to it."""
TRIES = 2
"""Times that a slide may end its process."""


class _Place(NamedTuple):
    """What a machine needs to have in common with the one that asks."""

    folder: str
    shared: Path | None
    milscope: str


class _Failed(NamedTuple):
    error: Exception


def over_cluster(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, limit: float | None, address: str,
    shared: Path | None, gpus: float,
) -> Iterator[tuple[Job, Result | Lost]]:
    """As `over_slides`, on a Ray cluster; machines may come and go while it works."""
    place = _Place(os.getcwd(), shared and shared.absolute(), version("milscope"))
    waiting: deque[Job] = deque(jobs)
    flying: dict[Any, Job] = {}
    with _connected(address) as ray:
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=LOSSES, retry_exceptions=False)(_run)
        try:
            while waiting or flying:
                room = workers or AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
                while waiting and len(flying) < room:
                    flying[task.remote(partial(_in_place, function=function, place=place), waiting[0], limit)] = waiting[0]
                    waiting.popleft()
                for ref in ray.wait(list(flying), timeout=10)[0]:
                    yield flying.pop(ref), _outcome(ray, ref)
        finally:
            for ref in flying:
                ray.cancel(ref, force=True)


def _outcome(ray: ModuleType, ref: Any) -> Any:  # noqa: ANN401 - the function's result
    try:
        outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        return Lost(f"the machine or the process that worked on it died, {LOSSES + 1} times ({type(error).__name__})")
    if isinstance(outcome, _Failed):
        raise outcome.error
    return outcome


@contextmanager
def _connected(address: str) -> Generator[ModuleType, None, None]:
    """Ray, connected to the cluster; what was connected before stays so."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray
    except ImportError as error:
        raise unfinished("executor", "one that is installed", "no Ray", "`pip install 'milscope[cluster]'`.") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _knock(address or os.environ.get("RAY_ADDRESS", ""))
        ray.init(address=address or None, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise unfinished("address", "that of a running Ray cluster of which this machine is a part", f"`{address}`: {said}",
                         "Start it with `ray start`, see docs/cluster.md.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Asks whether anybody is there: Ray would ask for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), KNOCK).close()


_kept: dict[str | None, Worker] = {}
"""The process that did the last slide, by the GPUs it was given: it has imported what the next one needs."""


def _run(function: Callable, job: object, limit: float | None) -> Any:  # noqa: ANN401 - the function's result
    """On a machine of the cluster: one slide, in a process of its own."""
    outcome: Any = None
    try:
        for _ in range(TRIES):
            outcome = _once(function, job, limit)
            if not isinstance(outcome, Died):
                break
    except Exception as error:  # noqa: BLE001 - raised where the work was asked for
        return _Failed(error)
    return told(outcome)


def _once(function: Callable, job: object, limit: float | None) -> tuple[Any] | Lost | Died:
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    worker = _kept.pop(gpus, None) or Worker()
    for other in _kept.values():
        other.close()
    _kept.clear()
    worker.give(function, job, limit)
    outcome = None
    while outcome is None:
        outcome = worker.hear()
    if not isinstance(outcome, Lost | Died):
        _kept[gpus] = worker
    return outcome


def _in_place(job: Any, *, function: Callable, place: _Place) -> Any:  # noqa: ANN401 - the function's result
    """What the function gives where the work was asked for; only if this machine sees the same folders."""
    here = version("milscope")
    if here != place.milscope:
        raise unfinished("cluster", f"of machines with milscope {place.milscope}", f"{here} on {socket.gethostname()}",
                         "Install the same version everywhere.")
    for folder in (place.folder, place.shared):
        if folder is not None and not Path(folder).is_dir():
            raise unfinished("cluster", "of machines that see the same folders", f"no {folder} on {socket.gethostname()}",
                             "Work in a folder that all of them share, at the same path.")
    os.chdir(place.folder)
    return function(job)
