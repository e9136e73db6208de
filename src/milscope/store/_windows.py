"""Which parts of a cell are looked at: at several scales, in its middle or piece by piece."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, UInt8

from milscope.store._cells import UNKNOWN, CellStore, Frame, decode
from milscope.types import refuse

SMALLEST = Fraction(1, 32)
"""The smallest share of a cell's side that a window may have: cells are decoded at the size of a view over it."""
_NUMBER = re.compile(r"\d{1,6}(\.\d{0,9})?|\.\d{1,9}|\d{1,6}/[1-9]\d{0,5}", re.ASCII)


class Window(NamedTuple):
    """A square part of a cell: its side and its upper left corner, as shares of the (longer) side of the cell."""

    share: float
    top: float
    left: float


WHOLE = Window(1.0, 0.0, 0.0)
"""All of the cell."""


def windows(scales: Sequence[str], which: str) -> tuple[Window, ...]:
    """Where each scale looks, scale by scale in the order given; the pieces of a scale line by line.

    Args:
        scales: Sides of what is looked at, as shares of a stored cell: "1", "0.5", "1/3".
        which: `middle`, one window a scale, or `all`, as many pieces side by side as the cell has.

    Raises:
        InputError: If a scale is no number from 1/32 to 1, is there twice, or does not divide the cell though it should.
    """
    if which not in ("middle", "all"):
        raise refuse("windows", "middle or all", f"`{which}`", "Take `middle` for cells, `all` for tiles.")
    shares = [_share(scale) for scale in scales]
    if not shares:
        raise refuse("scales", "one scale or more", "none", "Take 1 to look at cells as they are.")
    if len(set(shares)) < len(shares):
        raise refuse("scales", "different from one another", ", ".join(scales), "Name each scale once.")
    if which == "middle":
        return tuple(Window(float(share), float(1 - share) / 2, float(1 - share) / 2) for share in shares)
    for share in shares:
        if share.numerator != 1:
            raise refuse("scales", "1 over a whole number where `windows` is `all`", f"{float(share):g}",
                         "Take 1, 0.5, 1/3, 0.25 or the like, or `--windows middle`.")
    return tuple(Window(float(share), float(top * share), float(left * share)) for share in shares
                 for top in range(share.denominator) for left in range(share.denominator))


def _share(text: str) -> Fraction:
    number = text.strip()
    if _NUMBER.fullmatch(number) and SMALLEST <= (share := Fraction(number)) <= 1:
        return share
    raise refuse("scales", f"numbers from {SMALLEST} to 1", f"`{text}`", "Take 1 for the whole cell, 0.5 for half its side.")


def decode_windows(cells: CellStore, slide: str, rows: Int[np.ndarray, " row"], windows: Sequence[Window],
                   size: int) -> UInt8[np.ndarray, "row size size 3"]:
    """The pixels of some rows of a slide, each window of `size` pixels a side.

    A cell is decoded once for all its windows of one scale that are asked for.

    Args:
        cells: The cell store.
        slide: Whose cells.
        rows: Numbers of rows: the slide's cells through the first window, then through the second, …
        windows: Where each cell is looked at.
        size: Side of a decoded window, pixels.
    """
    images = cells.table(slide)["image"]
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    which, cell = np.divmod(rows, cells.count(slide))
    sides = np.array([round(size / window.share) for window in windows])[which]
    decoded, whole = (-1, -1), np.empty((0, 0, 3), np.uint8)
    for row in np.lexsort((sides, cell)):
        key = (int(cell[row]), int(sides[row]))
        if key != decoded:
            decoded, whole = key, decode(images[key[0]].as_py(), key[1])
        _, top, left = windows[which[row]]
        top, left = (min(round(corner * key[1]), key[1] - size) for corner in (top, left))
        pixels[row] = whole[top : top + size, left : left + size]
    return pixels


def window_cells(cells: pa.Table, windows: Sequence[Window], frame: Frame = UNKNOWN) -> pa.Table:
    """Name, place and scale of every row: a slide's cells through the first window, then through the second, …

    The place of a part of a cell is its own: centre and side in slide pixels. A cell at the border of the slide was cut
    as `tile` does, moved inside.

    Args:
        cells: The slide's rows of the cell store.
        windows: Where each cell is looked at.
        frame: Size and scale of the slide.
    """
    columns = {name: cells[name] for name in ("cell", "x", "y", "width", "height", "mpp")}
    return pa.concat_tables([pa.table({**columns, **_places(cells, window, frame)}) for window in windows])


def _places(cells: pa.Table, window: Window, frame: Frame) -> dict[str, Float[np.ndarray, " cell"]]:
    """The columns of the place that are other than the cell's: none if all of it is looked at."""
    if window.share == 1:
        return {}
    x, y, width, height = (cells[name].to_numpy(zero_copy_only=False).astype(float) for name in ("x", "y", "width", "height"))
    longer = np.maximum(width, height)  # a cell that is not square is in the middle of a square
    side = window.share * longer
    return {"x": _moved_inside(x, width, frame.width) + (window.left + window.share / 2 - 0.5) * longer,
            "y": _moved_inside(y, height, frame.height) + (window.top + window.share / 2 - 0.5) * longer,
            "width": side, "height": side}


def _moved_inside(centre: Float[np.ndarray, " cell"], extent: Float[np.ndarray, " cell"],
                  side: float) -> Float[np.ndarray, " cell"]:
    """Centres of the crops that were cut; NaN for a cell without a place."""
    inside = np.maximum(np.fmin(centre - extent / 2, side - extent), 0) + extent / 2
    return np.where(np.isnan(centre), np.nan, inside)
