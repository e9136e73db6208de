"""Cells from a table or GeoJSON of their places: a square is cut from the slide's image around each centre."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from milscope.slides._geojson import SUFFIX, list_geojson, read_geojson
from milscope.slides._images import Cell, DamagedError, Skip, encode_pixels
from milscope.slides._reader import GivenUpError, SlideReader
from milscope.slides._table import ALIASES, NAME_RULE, leads_out, match_column, read_text_table, where
from milscope.types import refuse

PLACE_NAMES = {"cell": ("cell", "cell_id", "id"), "x": ("x", "cx", "centroid_x", "x_centroid"),
               "y": ("y", "cy", "centroid_y", "y_centroid")}
"""Columns of tables about cells, and the names they may have."""


def read_places(path: Path) -> pd.DataFrame:
    """Places of cells as columns `slide`, `cell`, `x`, `y`: centres in slide pixels (level 0); the rest is left out.

    A cell without an id of its own is called `<slide>:<x>,<y>`.

    Args:
        path: A table (CSV or Parquet), a GeoJSON file whose features tell their `properties.slide`, or a folder of
            files `<slide>.geojson`; see `read_geojson`.

    Raises:
        InputError: If it is no table and no GeoJSON, lacks a column, a place is missing or not a number, or a name is a
            path that leads elsewhere.
    """
    path = Path(path)
    geojson = path.is_dir() or path.suffix.lower() in (SUFFIX, ".json")
    return _from_geojson(path) if geojson else _from_table(path)


def _from_geojson(path: Path) -> pd.DataFrame:
    try:
        files = list_geojson(path) if path.is_dir() else {"": path}
        if not files:
            raise refuse("cells", f"a folder of files `<slide>{SUFFIX}`", f"none in {path}", "Correct the path.")
        return pd.concat([read_geojson(file, slide) for slide, file in files.items()], ignore_index=True)
    except (OSError, DamagedError) as error:
        raise refuse("cells", "GeoJSON of points and polygons, with `properties.slide` or as a folder of `<slide>.geojson`",
                     str(error), "Correct or remove it.") from error


def _from_table(path: Path) -> pd.DataFrame:
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
    for column in ("slide", "cell"):
        for name in filter(leads_out, places[column].unique()):
            raise refuse("cells", f"with names that are {NAME_RULE}", f"the {column} {name[:60]!r}", "Rename it.")
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
        DamagedError: If the image is smaller than one square, or cannot be read any more; a square that cannot be read
            is a `Skip`.
    """
    width, height = reader.size
    if min(width, height) < extent:
        raise DamagedError(f"the image of {width} x {height} pixels is smaller than one crop of {extent:g}")
    whole = extent / size if extent / size in reader.downsamples else None
    seen: set[str] = set()
    for cell, x, y in zip(places["cell"], places["x"], places["y"], strict=True):
        if cell in seen:
            yield Skip(cell, "listed twice; the first is kept")
            continue
        seen.add(cell)
        if not (0 <= x <= width and 0 <= y <= height):
            yield Skip(cell, f"its centre {_number(x)},{_number(y)} is outside the image of {width} x {height} pixels")
            continue
        corner = (_corner(x, extent, whole, width), _corner(y, extent, whole, height))
        try:
            pixels = reader.region(corner, (extent, extent), (size, size))
        except GivenUpError:
            raise
        except DamagedError as error:
            yield Skip(cell, str(error))
            continue
        yield Cell(cell, x, y, extent, extent, mpp, encode_pixels(pixels, quality))


def _corner(centre: float, extent: float, whole: float | None, side: int) -> float:
    """Where a square begins; at a whole pixel (so many of level 0) of a stored level that is cut as it is."""
    corner = centre - extent / 2
    if whole:
        corner = math.floor(corner / whole + 0.5) * whole
    return min(max(0.0, corner), side - extent)


def _number(value: float) -> str:
    return f"{value:.10g}"
