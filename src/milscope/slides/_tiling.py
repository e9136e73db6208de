"""Cells from a whole slide without a cell table: the tiles of a grid that show something stained."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from milscope.slides._images import Cell, DamagedError, Pixels, Skip, encode_pixels
from milscope.slides._reader import GivenUpError, SlideReader

SAMPLES = 8
"""Side of a tile on the overview that is searched for stain, in pixels."""
MOST = 40_000_000
"""Most pixels of an overview; on a slide of more than 600,000 tiles each has fewer samples."""
DENSITY = 0.08
"""From this optical density above the glass, in its darkest channel, a pixel is stained."""
GLASS = 215.0
"""Glass is taken to be at least this bright, so that a slide full of tissue is not taken for glass."""
VOID = 30
"""A pixel with no channel above this is not stained but unscanned."""
RUN = 16
"""Neighbouring tiles that are read at once, so that what lies on their borders is decoded once."""


class Grid(NamedTuple):
    """Tiles over a slide, from its upper left corner; a part of a tile at the right or lower edge is no tile.

    Attributes:
        rows: How many rows of tiles.
        columns: How many in a row.
        extent: Side of a tile on the slide, in pixels of level 0.
        step: From one tile to the next, in pixels of level 0; less than `extent` if they overlap.
        size: Side of a stored tile, in pixels.
        stride: From one tile to the next, in stored pixels.
    """

    rows: int
    columns: int
    extent: float
    step: float
    size: int
    stride: int

    @classmethod
    def over(cls, slide: tuple[int, int], extent: float, size: int, overlap: int = 0) -> "Grid":
        """The grid over a slide of some width and height; `overlap` in stored pixels.

        Raises:
            DamagedError: If the slide is smaller than one tile.
        """
        width, height = slide
        if min(width, height) < extent - 1e-6:
            raise DamagedError(f"the image of {width} x {height} pixels is smaller than one tile of {extent:g}")
        step = extent * (size - overlap) / size
        rows, columns = (math.floor((side - extent) / step + 1e-6) + 1 for side in (height, width))
        return cls(rows, columns, extent, step, size, size - overlap)


def overview(reader: SlideReader, extent: float, *, least: int = 1024) -> Pixels:
    """The whole slide, small: 8 x 8 pixels a tile, and its longer side at least `least` if the slide has so many.

    Args:
        reader: The slide's image.
        extent: Side of a tile, in pixels of level 0.
        least: Pixels of the longer side, for a picture that people look at.
    """
    width, height = reader.size
    shrink = max(1.0, min(extent / SAMPLES, max(width, height) / least), math.sqrt(width * height / MOST))
    return reader.overview((max(1, round(width / shrink)), max(1, round(height / shrink))))


def stained(pixels: Pixels, glass: Float[np.ndarray, " 3"]) -> Bool[np.ndarray, "height width"]:
    r"""Which pixels are stained: the darkest channel is 0.08 of optical density below the glass, and not pure black.

    $$ -\log_{10} \min_c (v_c / g_c) > 0.08 \;\wedge\; \max_c v_c \ge 30 $$

    Args:
        pixels: 8-bit RGB.
        glass: Brightness of the bare glass per channel, see `find_glass`.
    """
    levels = np.arange(256)[:, None] / glass < 10**-DENSITY  # value, channel: a table is faster than a division
    dark = levels[pixels[..., 0], 0] | levels[pixels[..., 1], 1] | levels[pixels[..., 2], 2]
    return dark & (pixels.max(axis=2) >= VOID)


def find_glass(pixels: Pixels) -> Float[np.ndarray, " 3"]:
    """Brightness of the bare glass per channel: the 99th percentile of an overview, at least 215."""
    return np.maximum(np.percentile(pixels.reshape(-1, 3), 99, axis=0), GLASS)


def foreground(view: Pixels, slide: tuple[int, int], grid: Grid) -> Float[np.ndarray, "row column"]:
    """The stained share of each tile of a grid, judged on an overview.

    Args:
        view: The whole slide, small; see `overview`.
        slide: Width and height of the slide, in pixels of level 0.
        grid: Its tiles.
    """
    total = np.zeros((view.shape[0] + 1, view.shape[1] + 1), np.int64)
    total[1:, 1:] = stained(view, find_glass(view)).cumsum(0, dtype=np.int64).cumsum(1)
    (top, bottom), (left, right) = (
        _bounds(count, grid, pixels / side)
        for count, pixels, side in zip((grid.rows, grid.columns), view.shape[:2], slide[::-1], strict=True))
    inside = total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)] + total[np.ix_(top, left)]
    return inside / np.outer(bottom - top, right - left)


def _bounds(count: int, grid: Grid, scale: float) -> tuple[Int[np.ndarray, " tile"], Int[np.ndarray, " tile"]]:
    """First and last pixel of each tile along an axis of the overview; at least one pixel."""
    starts = np.arange(count) * grid.step * scale
    first = np.round(starts).astype(np.int64)
    return first, np.maximum(first + 1, np.round(starts + grid.extent * scale).astype(np.int64))


def choose_tiles(shares: Float[np.ndarray, "row column"], least: float) -> Int[np.ndarray, "tile 2"]:
    """Row and column of the tiles of which at least the share `least` is stained.

    Raises:
        DamagedError: If there is none.
    """
    chosen = np.argwhere(shares >= least)
    if not len(chosen):
        raise DamagedError(f"of {shares.size} tiles none is stained on {least:g} of its area, at most {shares.max():.3g}; "
                           "lower `foreground`")
    return chosen


def grid_cells(
    reader: SlideReader, slide: str, grid: Grid, chosen: Int[np.ndarray, "tile 2"], *, mpp: float | None, quality: int
) -> Iterator[Cell | Skip]:
    """The chosen tiles, row by row; neighbours are read at once. A tile that cannot be read comes as a `Skip`.

    Args:
        reader: The slide's image.
        slide: Its name; a tile is called `<slide>:<x>,<y>` by its centre in pixels of level 0.
        grid: The tiles.
        chosen: Row and column of those wanted, in the order of reading.
        mpp: Microns per pixel of the stored tile, None if unknown.
        quality: JPEG quality, 100 for PNG.

    Raises:
        GivenUpError: If the slide cannot be read at all any more.
    """
    breaks = np.flatnonzero((np.diff(chosen[:, 0]) != 0) | (np.diff(chosen[:, 1]) != 1)) + 1
    for neighbours in np.split(chosen, breaks):
        for start in range(0, len(neighbours), RUN):
            run = neighbours[start : start + RUN]
            for (row, column), pixels in zip(run.tolist(), _read_run(reader, grid, run), strict=True):
                x, y = (place * grid.step + grid.extent / 2 for place in (column, row))
                name = f"{slide}:{x:.10g},{y:.10g}"
                if isinstance(pixels, DamagedError):
                    yield Skip(name, str(pixels))
                else:
                    yield Cell(name, x, y, grid.extent, grid.extent, mpp, encode_pixels(pixels, quality))


def _read_run(reader: SlideReader, grid: Grid, run: Int[np.ndarray, "tile 2"]) -> list[Pixels | DamagedError]:
    """Neighbouring tiles of a row, read as one picture; if that cannot be read, one by one."""
    row, column = run[0].tolist()
    wide = (len(run) - 1) * grid.step + grid.extent
    out = ((len(run) - 1) * grid.stride + grid.size, grid.size)
    try:
        pixels = reader.region((column * grid.step, row * grid.step), (wide, grid.extent), out)
    except GivenUpError:
        raise
    except DamagedError as error:
        return [error] if len(run) == 1 else [part for tile in run for part in _read_run(reader, grid, tile[None])]
    return [pixels[:, start : start + grid.size] for start in range(0, len(run) * grid.stride, grid.stride)]


def shrink(pixels: Pixels, longest: int) -> Pixels:
    """A picture, its longer side at most `longest` pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest), Image.Resampling.BOX)
    return np.array(picture)
