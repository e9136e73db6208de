"""Many cells as one picture: a page opens one file for all of them, which also is smaller than as many files."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from milscope.slides import DamagedError, decode_pixels

STEPS = ((192, 88), (160, 85), (128, 82), (112, 80), (96, 78), (80, 74), (64, 70), (64, 60), (48, 60), (48, 50))
"""Longer side of a cell in pixels, and quality of the JPEG: the less room, the smaller."""
EMPTY = 236
"""Grey of what no cell covers."""
BYTES_A_PIXEL = 0.09
"""What a pixel of a JPEG takes at least; larger steps need not be tried."""
BLOCK = 16
"""Sides of squares are multiples of it, so that no cell shines into its neighbour."""

Pixels = UInt8[np.ndarray, "_ _ 3"]


class Place(NamedTuple):
    """Where a cell lies in its sheet: column and row of its square, and the share of its width and height that it fills."""

    column: int
    row: int
    width: float
    height: float


class Sheet(NamedTuple):
    """Cells in equal squares, row by row: a JPEG, how many columns and rows, the side of a square, and each cell's place."""

    data: bytes
    columns: int
    rows: int
    side: int
    places: list[Place]


def decoded(image: bytes) -> Pixels | None:
    """A cell's pixels; None if they cannot be read."""
    try:
        return decode_pixels(image)
    except DamagedError:
        return None


def sheet(cells: Sequence[Pixels], most: int, steps: Sequence[tuple[int, int]] = STEPS, columns: int = 0) -> Sheet:
    """Cells as one JPEG. None is made larger than it is; those of one scale keep their sizes among each other.

    Args:
        cells: At least one.
        most: Bytes for each cell; the last, smallest step is taken even if it needs more.
        steps: Side of a square in pixels, and quality, the largest first.
        columns: How many squares in a row; 0 for as many as rows.
    """
    longest = max(max(cell.shape[:2]) for cell in cells)
    columns = columns or math.ceil(math.sqrt(len(cells)))
    rows = -(-len(cells) // columns)
    for place, (side, quality) in enumerate(steps):
        if place + 1 < len(steps) and min(side, longest) ** 2 * BYTES_A_PIXEL > most:
            continue
        square = BLOCK * -(-min(side, longest) // BLOCK)
        pixels, places = _laid(cells, square, min(1.0, side / longest), columns)
        data = simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")
        if len(data) <= most * len(cells) or place + 1 == len(steps):
            return Sheet(data, columns, rows, square, places)
    raise ValueError("`steps` should not be empty")


def _laid(cells: Sequence[Pixels], square: int, scale: float, columns: int) -> tuple[Pixels, list[Place]]:
    """The cells side by side, each in the upper left corner of its square."""
    rows = -(-len(cells) // columns)
    pixels = np.full((rows * square, columns * square, 3), EMPTY, np.uint8)
    places = []
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        if scale < 1:
            size = [max(1, round(side * scale)) for side in cell.shape[1::-1]]
            cell = np.asarray(Image.fromarray(cell).resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0))
        height, width = cell.shape[:2]
        pixels[row * square:row * square + height, column * square:column * square + width] = cell
        places.append(Place(column, row, width / square, height / square))
    return pixels, places
