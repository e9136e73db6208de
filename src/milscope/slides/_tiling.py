"""Cells from a whole slide without a cell table: the tiles of a grid that show something stained."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from milscope.slides._images import Cell, DamagedError, Pixels, Skip, encode_pixels
from milscope.slides._reader import SlideReader

SAMPLES = 8
"""Side of a tile on the image that is searched for stain, in pixels."""
DENSITY = 0.08
"""From this optical density above the glass, in its darkest channel, a pixel is stained."""
GLASS = 215.0
"""Glass is taken to be at least this bright, so that a slide full of tissue is not taken for glass."""
VOID = 30
"""A pixel with no channel above this is not stained but unscanned."""


def stained(pixels: Pixels, glass: Float[np.ndarray, " 3"]) -> Bool[np.ndarray, "height width"]:
    r"""Which pixels are stained: the darkest channel is 0.08 of optical density below the glass, and not pure black.

    $$ -\log_{10} \min_c (v_c / g_c) > 0.08 \;\wedge\; \max_c v_c \ge 30 $$

    Args:
        pixels: 8-bit RGB.
        glass: Brightness of the bare glass per channel, see `find_glass`.
    """
    darkest = (pixels / glass).min(axis=2)
    return (darkest < 10**-DENSITY) & (pixels.max(axis=2) >= VOID)


def find_glass(pixels: Pixels) -> Float[np.ndarray, " 3"]:
    """Brightness of the bare glass per channel: the 99th percentile of an overview, at least 215."""
    return np.maximum(np.percentile(pixels.reshape(-1, 3), 99, axis=0), GLASS)


def foreground(reader: SlideReader, extent: float) -> Float[np.ndarray, "row column"]:
    """The stained share of each tile of the grid; partial tiles at the right and lower edge are no part of it.

    Judged on an overview with 8 x 8 pixels a tile, read from the low-resolution levels.

    Args:
        reader: The slide's image.
        extent: Side of a tile, in pixels of level 0.

    Raises:
        DamagedError: If the image is smaller than one tile, or cannot be read.
    """
    width, height = reader.size
    columns, rows = int(width / extent), int(height / extent)
    if min(columns, rows) < 1:
        raise DamagedError(f"the image of {width} x {height} pixels is smaller than one tile of {extent:g}")
    glass = find_glass(reader.thumbnail(512))
    samples = min(SAMPLES, max(1, int(extent)))
    shares = np.empty((rows, columns))
    for row in range(rows):
        strip = reader.region((0, row * extent), (columns * extent, extent), (columns * samples, samples))
        shares[row] = stained(strip, glass).reshape(samples, columns, samples).mean(axis=(0, 2))
    return shares


def grid_cells(
    reader: SlideReader, slide: str, *, extent: float, size: int, mpp: float | None, quality: int, least: float
) -> Iterator[Cell | Skip]:
    """The tiles of the grid of which at least the share `least` is stained, row by row.

    Args:
        reader: The slide's image.
        slide: Its name; a tile is called `<slide>:<x>,<y>` by its centre in pixels of level 0.
        extent: Side of a tile on the slide, in pixels of level 0.
        size: Side of the stored tile, in pixels.
        mpp: Microns per pixel of the stored tile, None if unknown.
        quality: JPEG quality, 100 for PNG.
        least: Least stained share of a tile.

    Raises:
        DamagedError: If no tile qualifies, the image is smaller than one tile, or it cannot be read.
    """
    shares = foreground(reader, extent)
    chosen = np.argwhere(shares >= least)
    if not len(chosen):
        raise DamagedError(f"of {shares.size} tiles none is stained on {least:g} of its area, at most {shares.max():.3g}; "
                           "lower `foreground`")
    for row, column in chosen:
        left, top = float(column * extent), float(row * extent)
        pixels = reader.region((left, top), (extent, extent), (size, size))
        x, y = left + extent / 2, top + extent / 2
        yield Cell(f"{slide}:{x:.10g},{y:.10g}", x, y, extent, extent, mpp, encode_pixels(pixels, quality))
