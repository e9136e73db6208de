"""Speed and memory as the number of cells grows: every store in a process of its own, asked in turn.

    python benchmarks/_growth.py STORE OUT BUDGET      answers each line `read` or `loop` with one line of JSON
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from _cells import slide_table
from _ours import loop, settings
from _timing import memory

from milscope.augment import Views
from milscope.checkpoints import seeded
from milscope.store import CellStore, HalvesSampler, Pixels

SIZE, SIDE, BATCH = 32, 36, 256
NARROW = {"channels": [16, 32, 64, 128]}
STEPS = {"read": 24, "loop": 6}


class Child:
    """A process that measures one store."""

    def __init__(self, store: Path, out: Path, budget: float) -> None:
        command = [sys.executable, __file__, str(store), str(out), str(budget)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, what: str) -> float:
        """Views a second of one stretch of `read` or `loop`."""
        print(what, file=self.process.stdin, flush=True)
        self.answer = json.loads(self.process.stdout.readline())
        return self.answer["rate"]

    def close(self) -> dict[str, float]:
        """Ends the process; gives the memory that it took, in bytes."""
        self.process.stdin.close()
        self.process.wait()
        return {name: self.answer[name] for name in ("peak", "own")}


class Reader:
    """The reading half of the loop: the next cells are fetched while the present ones become views."""

    def __init__(self, store: Path, cache: Path, budget: float) -> None:
        cells = CellStore(store)
        self.pixels = Pixels(cells, cells.slides, size=SIDE, cache=cache, budget=budget)
        positive = np.repeat(slide_table(cells.slides)["abnormal"] == 1, np.diff(self.pixels.starts)).to_numpy()
        self.sampler = HalvesSampler(np.flatnonzero(positive), np.flatnonzero(~positive), batch=BATCH, seed=0)
        self.views, self.epoch = Views(SIZE), 0

    def rate(self, steps: int) -> float:
        """Views a second over that many steps of a new epoch, after the first."""
        self.epoch += 1
        dealt = self.sampler.epoch(self.epoch)
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self._fetch, next(dealt))
            ahead.result()
            start, views = time.perf_counter(), 0
            for step in range(steps):
                ready, ahead = ahead.result(), thread.submit(self._fetch, next(dealt))
                views += len(self.views(torch.cat([ready, ready]), seeded(self.epoch, step)))
            seconds = time.perf_counter() - start
        return views / seconds

    def _fetch(self, step: Sequence[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(self.pixels[np.concatenate(step)])


def keep_decoded(store: Path, out: Path) -> None:
    """Puts the file of decoded cells where the training of `out` looks for it: repeated cells need no decoding each.

    Decoding a million cells takes a minute or two, once; `read_growth_decoding` says how fast it is.
    """
    cells = CellStore(store)
    slide = cells.slides[0]
    pixels = cells.decode(slide, None, SIDE)
    total = sum(cells.count(each) for each in cells.slides)
    array = np.lib.format.open_memmap(pixels_file(out), "w+", np.uint8, (total, *pixels.shape[1:]))
    for start in range(0, total, len(pixels)):
        array[start : start + len(pixels)] = pixels[: total - start]
    array.flush()


def pixels_file(out: Path) -> Path:
    """Where a training keeps its decoded cells."""
    return out.parent / f".{out.name}.partial" / "pixels.npy"


def answer(store: Path, out: Path, budget: float) -> None:
    """Measures what is asked until nothing more is."""
    table = slide_table(CellStore(store).slides)
    config = settings(SIZE, BATCH, margin=SIDE / SIZE, cache=budget, encoder_options=NARROW)
    if budget:
        loop(store, table, out, config, 0, decode=False)
        keep_decoded(store, out)
    reader = Reader(store, pixels_file(out), budget)
    for line in sys.stdin:
        what = line.strip()
        rate = reader.rate(STEPS[what]) if what == "read" else loop(store, table, out, config, STEPS[what])
        print(json.dumps({"rate": rate, "peak": memory("VmHWM"), "own": memory("RssAnon")}), flush=True)


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
