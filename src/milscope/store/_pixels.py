"""Decoded cells, each decoded once: what training reads hundreds of times."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from milscope.progress import progress
from milscope.store._cells import CellStore

GIGABYTE = 1e9


class Pixels:
    """The cells of some slides as one array of bytes, kept on disk if they fit the budget, else decoded at every use.

    Args:
        cells: The cell store.
        slides: Whose cells, in this order; row numbers count through them.
        size: Side of a decoded cell, pixels.
        cache: Where to keep them; a finished cache is used again.
        budget: Most space for the cache, GB.
    """

    def __init__(self, cells: CellStore, slides: Sequence[str], *, size: int, cache: Path, budget: float) -> None:
        self.cells, self.slides, self.size = cells, list(slides), size
        self.starts = np.cumsum([0, *(cells.count(slide) for slide in slides)])
        fits = len(self) * size * size * 3 <= budget * GIGABYTE
        self._array = self._cached(cache) if fits else None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Int[np.ndarray, " cell"]) -> UInt8[np.ndarray, "cell size size 3"]:
        """The decoded cells of those rows."""
        if self._array is not None:
            return self._array[rows]
        pixels = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        with ThreadPoolExecutor() as threads:
            parts = [np.flatnonzero(owner == slide) for slide in np.unique(owner)]
            for part, decoded in zip(parts, threads.map(lambda part: self._decode(int(owner[part[0]]), rows[part]), parts),
                                     strict=True):
                pixels[part] = decoded
        return pixels

    def _decode(self, slide: int, rows: Int[np.ndarray, " cell"]) -> UInt8[np.ndarray, "cell size size 3"]:
        return self.cells.decode(self.slides[slide], rows - self.starts[slide], self.size)

    def _cached(self, cache: Path) -> UInt8[np.ndarray, "cell size size 3"]:
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
        first, last = self.starts[slide], self.starts[slide + 1]
        array[first:last] = self._decode(slide, np.arange(first, last))
        return int(last - first)
