"""Peak memory of one training step: each side in a process of its own, above what the networks and the data take.

    python benchmarks/_memory.py SIDE SIZE BATCH      prints bytes
"""

import subprocess
import sys
from collections.abc import Callable

import torch
from _ours import Bare
from _timing import memory


def peak(side: str, size: int, batch: int) -> float:
    """Bytes, measured in a new process."""
    command = [sys.executable, __file__, side, str(size), str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def measure(side: str, size: int, batch: int) -> float:
    """The most memory that steps take above what was there before the first one."""
    bare = Bare(size, batch)
    step = bare.added if side == "sum" else lambda: bare.surgery(side)
    if bare.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps(step)
        return torch.cuda.max_memory_allocated() - before
    before = memory("VmRSS")
    steps(step)
    return memory("VmHWM") - before


def steps(step: Callable[[], None]) -> None:
    for _ in range(2):
        step()


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
