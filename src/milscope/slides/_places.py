"""Cells from a table of their places: a square is cut from the slide's image around each centre."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from milscope.slides._images import Cell, DamagedError, Skip, encode_pixels
from milscope.slides._reader import SlideReader
from milscope.slides._table import ALIASES, match_column, read_text_table, where
from milscope.types import refuse

PLACE_NAMES = {"cell": ("cell", "cell_id", "id"), "x": ("x", "cx", "centroid_x", "x_centroid"),
               "y": ("y", "cy", "centroid_y", "y_centroid")}
"""Columns of tables about cells, and the names they may have."""


def read_places(path: Path) -> pd.DataFrame:
    """A cell table as columns `slide`, `cell`, `x`, `y`: centres in slide pixels (level 0); other columns are left out.

    A cell without an id of its own is called `<slide>:<x>,<y>`.

    Raises:
        InputError: If it is no table, lacks a column, or any coordinate is missing or not a number.
    """
    text = read_text_table(path, "cells")
    columns = {"slide": match_column(text, ALIASES["slide"]), "x": match_column(text, PLACE_NAMES["x"]),
               "y": match_column(text, PLACE_NAMES["y"])}
    lacking = [name for name, column in columns.items() if column is None]
    if lacking:
        raise refuse("cells", "a table with columns `slide`, `x`, `y`",
                     f"no {', '.join(lacking)} among: {', '.join(text.columns)}", "Rename its columns.")
    places = pd.DataFrame({"slide": text[columns["slide"]]})
    for axis in ("x", "y"):
        places[axis] = pd.to_numeric(text[columns[axis]], errors="coerce").astype(float)
    odd = np.flatnonzero(~np.isfinite(places[["x", "y"]]).all(axis=1))
    if len(odd):
        rows = ", ".join(where(int(row)) for row in odd[:3]) + (", …" if len(odd) > 3 else "")
        raise refuse("cells", "a table with a number in every x and y", f"{len(odd)} rows without ({rows})",
                     "Correct or remove these rows.")
    default = [f"{slide}:{_number(x)},{_number(y)}"
               for slide, x, y in zip(places["slide"], places["x"], places["y"], strict=True)]
    named = match_column(text, PLACE_NAMES["cell"])
    own = text[named] if named else pd.Series("", index=text.index)
    places["cell"] = own.where(own != "", default).astype(str)
    return places[["slide", "cell", "x", "y"]]


def cut_cells(
    reader: SlideReader, places: pd.DataFrame, *, extent: float, size: int, mpp: float | None, quality: int
) -> Iterator[Cell | Skip]:
    """A square around each centre, moved inwards at the border of the image so that every pixel is real.

    Args:
        reader: The slide's image.
        places: Its cells, columns `cell`, `x`, `y`.
        extent: Side of the square on the slide, in pixels of level 0.
        size: Side of the stored crop, in pixels.
        mpp: Microns per pixel of the stored crop, None if unknown.
        quality: JPEG quality, 100 for PNG.

    Raises:
        DamagedError: If the image is smaller than one square, or cannot be read.
    """
    width, height = reader.size
    if min(width, height) < extent:
        raise DamagedError(f"the image of {width} x {height} pixels is smaller than one crop of {extent:g}")
    seen: set[str] = set()
    for cell, x, y in zip(places["cell"], places["x"], places["y"], strict=True):
        if cell in seen:
            yield Skip(cell, "listed twice; the first is kept")
        elif not (0 <= x <= width and 0 <= y <= height):
            yield Skip(cell, f"its centre {_number(x)},{_number(y)} is outside the image of {width} x {height} pixels")
        else:
            corner = (_corner(x, extent, size, width), _corner(y, extent, size, height))
            pixels = reader.region(corner, (extent, extent), (size, size))
            yield Cell(cell, x, y, extent, extent, mpp, encode_pixels(pixels, quality))
        seen.add(cell)


def _corner(centre: float, extent: float, size: int, side: int) -> float:
    corner = centre - extent / 2
    if extent == size:
        corner = math.floor(corner + 0.5)  # the image's own pixels, not resampled
    return min(max(0.0, corner), side - extent)


def _number(value: float) -> str:
    return f"{value:.10g}"
