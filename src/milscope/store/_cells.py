"""The cells of slides on disk: one Arrow file a slide, uncompressed, with the encoded bytes of every cell."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import UInt8
from PIL import Image

from milscope.slides import Cell, decode_pixels
from milscope.store._manifest import Manifest, read_manifest, temporary_name
from milscope.types import refuse

CELLS_VERSION = 1
BATCH = 1024
"""Most cells of a record batch."""
BATCH_BYTES = 32_000_000
"""A record batch is written when its images reach this: memory stays bounded, and binary values far below their 2 GB."""
SCHEMA = pa.schema([
    ("cell", pa.string()),
    ("x", pa.float64()),
    ("y", pa.float64()),
    ("width", pa.float64()),
    ("height", pa.float64()),
    ("mpp", pa.float64()),
    ("image", pa.binary()),
])


class Frame(NamedTuple):
    """A slide's size in pixels of level 0 and its scale in microns per pixel; NaN where unknown."""

    width: float
    height: float
    mpp: float


UNKNOWN = Frame(math.nan, math.nan, math.nan)


class CellStore:
    """The cells of all slides of a `cells` artifact, read through memory maps: opening costs nothing.

    Args:
        directory: What `tile` wrote.

    Raises:
        InputError: If it is no such artifact, or a newer one.
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self.manifest: Manifest = read_manifest(self.directory, "cells")
        table = pd.read_csv(self.directory / "slides.csv", dtype={"slide": str}, keep_default_na=False, na_values={
            "width": [""], "height": [""], "mpp": [""]})
        self._counts = {slide: int(count) for slide, count in zip(table["slide"], table["cells"], strict=True) if count}
        frames = table[["width", "height", "mpp"]].astype(float).itertuples(index=False)
        self._frames = {slide: Frame(*values) for slide, values in zip(table["slide"], frames, strict=True)}

    @property
    def slides(self) -> list[str]:
        """The slides that have cells, by name."""
        return list(self._counts)

    def count(self, slide: str) -> int:
        """How many cells a slide has."""
        if slide not in self._counts:
            raise refuse("slide", f"in the store {self.directory}", f"`{slide}`", "Tile it first.")
        return self._counts[slide]

    def frame(self, slide: str) -> Frame:
        """Size and scale of a slide."""
        self.count(slide)
        return self._frames[slide]

    def extent(self, slides: Iterable[str]) -> float:
        """Side of the cells of those slides in microns: the median, NaN if no slide's scale is known."""
        sides = [np.median(self.table(slide)["width"].to_numpy()) * self.frame(slide).mpp for slide in slides]
        return float(np.nanmedian(sides)) if np.isfinite(sides).any() else math.nan

    def table(self, slide: str) -> pa.Table:
        """A slide's cells: columns `cell`, `x`, `y`, `width`, `height`, `mpp`, `image`; memory-mapped, not read."""
        self.count(slide)
        path = self.directory / f"{slide}.arrow"
        return _open(str(path), path.stat().st_mtime_ns)

    def images(self, slide: str, rows: Iterable[int] | np.ndarray | None = None) -> list[bytes]:
        """The encoded images of some of a slide's cells, in the order asked for; by default all."""
        column = self.table(slide)["image"]
        return [column[int(row)].as_py() for row in (range(len(column)) if rows is None else rows)]

    def decode(self, slide: str, rows: Sequence[int] | np.ndarray | None, size: int) -> UInt8[np.ndarray, "cell size size 3"]:
        """The pixels of some of a slide's cells (None: all), each square, of `size` pixels a side."""
        images = self.images(slide, rows)
        pixels = np.empty((len(images), size, size, 3), dtype=np.uint8)
        for index, image in enumerate(images):
            pixels[index] = decode(image, size)
        return pixels


def decode(image: bytes, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of an encoded cell, resampled (bicubic, anti-aliased) so that its longer side is `size`.

    A cell that is not square is padded to a square with the median colour of its border, the cell in the middle.

    Raises:
        DamagedError: If the bytes are no whole image.
    """
    pixels = decode_pixels(image, enough=2 * size)
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest != size:
        fitted = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
        pixels = np.asarray(Image.fromarray(pixels).resize(fitted, Image.Resampling.BICUBIC))
        height, width = pixels.shape[:2]
    if height == width:
        return pixels
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = np.median(border, axis=0).astype(np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


class CellWriter:
    """Writes the cells of one slide; the file appears when the block ends well, and not at all otherwise.

    Args:
        path: The file to write, `<slide>.arrow`.
        slide: The slide's name, kept in the file's metadata.
    """

    def __init__(self, path: Path, slide: str) -> None:
        self.count = 0
        self._path = Path(path)
        self._temporary = temporary_name(self._path)
        self._rows: list[Cell] = []
        self._bytes = 0
        self._schema = SCHEMA.with_metadata(
            {"milscope_format": "cells", "milscope_version": str(CELLS_VERSION), "slide": slide})

    def add(self, cell: Cell) -> None:
        """Takes the next cell."""
        self._rows.append(cell)
        self._bytes += len(cell.image)
        self.count += 1
        if len(self._rows) == BATCH or self._bytes >= BATCH_BYTES:
            self._flush()

    def __enter__(self) -> "CellWriter":
        self._file = pa.OSFile(str(self._temporary), "wb")
        self._arrow = pa.ipc.new_file(self._file, self._schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._flush()
                self._arrow.close()
            self._file.close()
            if error is None and self.count:
                self._temporary.replace(self._path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._rows:
            columns = [pa.array(values, kind) for values, kind in zip(zip(*self._rows, strict=True), SCHEMA.types, strict=True)]
            self._arrow.write_batch(pa.record_batch(columns, schema=self._schema))
            self._rows, self._bytes = [], 0


@lru_cache(maxsize=4096)
def _open(path: str, changed: int) -> pa.Table:
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).read_all()
