"""The heat map over a slide's picture: all of its scored cells, not only those that are shown."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float
from PIL import Image

from milscope.heat import heat, paint, spread
from milscope.ranking import SHARES, slide_groups

CELLS = "cells.parquet"
LONGER = 768
"""Pixels of a heat map's longer side."""
SHADES = 48
"""Shades of a heat map; the file is a quarter of one with all colours."""
PLACES = ("x", "y", "width", "height")


def heats(scores: Path, by: str, task: str = "") -> Callable[[str, tuple[float, float]], bytes | None]:
    """What draws slides: from a slide's name and its extent (slide pixels) to a PNG, None without places or scores.

    Args:
        scores: The directory of the run's scores.
        by: What cells are ranked by; `evidence` is taken where the scores do not hold that.
        task: By which task, "" for the main one.
    """
    path = scores / CELLS
    if not path.exists():
        return lambda _slide, _extent: None
    names = pq.read_schema(path).names
    own = [f"{name}:{task}" if task else name for name in (by, "evidence")]
    column = next((name for name in own if name in names), "")
    if not column or not set(PLACES) <= set(names):
        return lambda _slide, _extent: None
    reference = None if column.partition(":")[0] in SHARES else spread(
        pq.read_table(path, columns=[column])[column].to_numpy())
    told, groups = pq.read_metadata(path), slide_groups(path)

    def drawn(slide: str, extent: tuple[float, float]) -> bytes | None:
        if slide not in groups:
            return None
        with pq.ParquetFile(path, metadata=told) as file:
            table = file.read_row_groups(groups[slide], columns=["slide", *PLACES, column]).to_pandas()
        rows = table[table["slide"] == slide]
        places = rows[list(PLACES)].to_numpy(float)
        if not np.isfinite(places[:, :2]).all(axis=1).any():
            return None
        scale = LONGER / max(extent)
        size = (max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale)))
        return encoded(heat(places, rows[column].to_numpy(float), extent, size, reference=reference))

    return drawn


def encoded(values: Float[np.ndarray, "height width"]) -> bytes:
    """A heat map as PNG with a palette of `SHADES` shades, and what is without cells transparent."""
    known = np.isfinite(values)
    shades = np.zeros(values.shape, np.uint8)
    shades[known] = 1 + np.rint(np.clip(values[known], 0, 1) * (SHADES - 1)).astype(np.uint8)
    colours = paint(np.concatenate([[np.nan], np.linspace(0, 1, SHADES)])[None])[0]
    picture, file = Image.fromarray(shades), io.BytesIO()
    picture.putpalette(colours[:, :3].tobytes())
    picture.save(file, "PNG", transparency=colours[:, 3].tobytes(), compress_level=5)
    return file.getvalue()


def over_run(by: str) -> bool:
    """Whether a cell is compared with those of all slides, rather than with those of its own."""
    return by not in SHARES
