"""Sides measured in turn (A B A B …) in one process, so that whatever slows the machine slows all of them."""

import json
import os
import platform
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

LIBRARIES = ("milscope", "torch", "torchvision", "timm", "torchjd", "lightly", "torchmil", "h5py", "pillow", "simplejpeg",
             "numpy")


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    """What each side says (seconds, or images a second) in every round, after rounds that are thrown away.

    Every other round goes backwards, so that no side always follows the same one.
    """
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(warm + rounds):
        for side in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            value = sides[side]()
            if turn >= warm:
                taken[side].append(value)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over the rounds of the one over the other in the same round."""
    return median(a / b for a, b in zip(above, below, strict=True))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long a piece of work takes, the device's part included."""
    settle(device)
    start = time.perf_counter()
    work()
    settle(device)
    return time.perf_counter() - start


def memory(name: str) -> float:
    """A line of the process's own account, in bytes: VmRSS (now), VmHWM (the most so far), RssAnon (without mapped files).

    `ru_maxrss` would not do: a child starts with its parent's.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(lines[name].split()[0]) * 1024


def settle(device: torch.device) -> None:
    """Waits until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    """What the figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    units = [unit for unit in ("avx512_bf16", "amx_bf16") if unit in flags]
    return ", ".join([name, *units, f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads", platform.system()])


def versions() -> dict[str, str]:
    """The libraries whose speed it is."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def write_between_marks(path: Path, text: str, mark: str = "pretrain") -> None:
    """Puts the tables where the page has room for them."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    page = path.read_text()
    head, rest = page.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def publish(options: Namespace, mark: str, found: tuple[str, Mapping[str, object], Mapping[str, float]], how: str) -> None:
    """Prints tables, and writes them where `--docs` and `--json` say; `how` says what was measured how."""
    text, figures, ratios = found
    cpu = machine(torch.device("cpu"))
    head = f"{cpu}; " + ", ".join(f"{name} {number}" for name, number in versions().items())
    text = f"{head}. Medians of {options.rounds} rounds, sides in turn, {how}.\n\n{text}"
    print(text)
    if options.docs:
        write_between_marks(options.docs, text, mark)
    if options.json:
        write_json(options.json, cpu, figures, ratios)


def write_json(path: Path, machine: str, figures: Mapping[str, object], ratios: Mapping[str, float]) -> None:
    """Everything, for whoever compares runs."""
    path.write_text(json.dumps({"machine": machine, "versions": versions(), "figures": figures, "ratios": ratios}, indent=1))
