"""Decoded cells, each decoded once: what training reads hundreds of times."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

from milscope.progress import progress
from milscope.store._cells import CellStore
from milscope.store._windows import WHOLE, Window, decode_windows

GIGABYTE = 1e9
PART = 256
"""Most rows that one thread decodes at a time."""


class Pixels:
    """The cells of some slides as one array of bytes, kept on disk if they fit the budget, else decoded at every use.

    Args:
        cells: The cell store.
        slides: Whose cells, in this order.
        size: Side of a decoded window, pixels.
        cache: Where to keep them; a finished cache is used again, so it must be of the same cells, windows and size.
        budget: Most space for the cache, GB.
        windows: Where each cell is looked at. Row numbers count slide by slide, within a slide window by window, and
            within a window cell by cell.
    """

    def __init__(self, cells: CellStore, slides: Sequence[str], *, size: int, cache: Path, budget: float,
                 windows: Sequence[Window] = (WHOLE,)) -> None:
        self.cells, self.slides, self.size, self.windows = cells, list(slides), size, tuple(windows)
        self.starts = np.cumsum([0, *(cells.count(slide) * len(self.windows) for slide in slides)])
        fits = len(self) * size * size * 3 <= budget * GIGABYTE
        self._array = self._cached(cache) if fits else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Int[np.ndarray, " row"]) -> UInt8[np.ndarray, "row size size 3"]:
        """The decoded windows of those rows."""
        if self._array is not None:
            return self._array[rows]
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        with ThreadPoolExecutor() as threads:
            parts = [places for slide in np.unique(owner) for places in self._parts(int(slide), rows, owner == slide)]
            for part, decoded in zip(parts, threads.map(lambda part: self._decode(int(owner[part[0]]), rows[part]), parts),
                                     strict=True):
                pixels[part] = decoded
        return pixels

    def _parts(self, slide: int, rows: Int[np.ndarray, " row"], own: Bool[np.ndarray, " row"]) -> list[np.ndarray]:
        """The places of a slide's rows, a thread's work each; the windows of a cell, which are decoded at once, together."""
        places = np.flatnonzero(own)
        cells = (rows[places] - self.starts[slide]) % self.cells.count(self.slides[slide])
        places = places[np.argsort(cells, kind="stable")]
        return [places[start : start + PART] for start in range(0, len(places), PART)]

    def _decode(self, slide: int, rows: Int[np.ndarray, " row"]) -> UInt8[np.ndarray, "row size size 3"]:
        return decode_windows(self.cells, self.slides[slide], rows - self.starts[slide], self.windows, self.size)

    def _cached(self, cache: Path) -> UInt8[np.ndarray, "row size size 3"]:
        if not cache.exists():
            temporary = cache.with_suffix(".tmp")
            array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(self), self.size, self.size, 3))
            with progress("decode", len(self), "cells") as advance, ThreadPoolExecutor() as threads:
                for done in threads.map(lambda slide: self._fill(array, slide), range(len(self.slides))):
                    advance(done)
            array.flush()
            temporary.replace(cache)
        return np.load(cache, mmap_mode="r")

    def _fill(self, array: np.ndarray, slide: int) -> int:
        rows = np.arange(self.starts[slide], self.starts[slide + 1])
        for part in self._parts(slide, rows, np.ones(len(rows), bool)):
            array[rows[part]] = self._decode(slide, rows[part])
        return len(rows)
