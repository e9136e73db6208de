"""Windows cover what their scale says, are cut where they say, and know their place on the slide."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from milscope.slides import Cell
from milscope.store import WHOLE, CellStore, Frame, Window, decode_windows, window_cells, windows
from milscope.store._cells import SCHEMA
from milscope.types import InputError


def test_the_middle_lies_in_the_middle() -> None:
    assert windows(("1", "0.5", ".2"), "middle") == (WHOLE, Window(0.5, 0.25, 0.25), Window(0.2, 0.4, 0.4))


@pytest.mark.parametrize("scale", ["1", "0.5", "1/3", "0.25"])
def test_all_pieces_cover_the_cell_once(scale: str) -> None:
    found = windows((scale,), "all")
    covered = np.zeros((12, 12), int)
    for share, top, left in found:
        up, along, side = (round(12 * value) for value in (top, left, share))
        covered[up : up + side, along : along + side] += 1
    assert (covered == 1).all()
    assert [window.top for window in found] == sorted(window.top for window in found)  # line by line


def test_scales_come_in_the_order_given() -> None:
    assert [window.share for window in windows(("0.5", "1"), "all")] == [0.5] * 4 + [1.0]


@pytest.mark.parametrize(("scales", "which", "said"), [
    ((), "middle", "`scales` should be one scale or more"),
    (("1", "half"), "middle", "`scales` should be numbers from 1/32 to 1. Found `half`"),
    (("nan",), "middle", "Found `nan`"),
    (("0",), "middle", "Found `0`"),
    (("1.5",), "middle", "Found `1.5`"),
    (("-0.5",), "middle", "Found `-0.5`"),
    (("1/0",), "middle", "Found `1/0`"),
    (("1e-2",), "middle", "Found `1e-2`"),
    (("0.01",), "all", "Found `0.01`"),
    (("0.5", "1/2"), "middle", "`scales` should be different from one another. Found 0.5, 1/2"),
    (("1", "0.4"), "all", "`scales` should be 1 over a whole number where `windows` is `all`. Found 0.4"),
    (("1",), "some", "`windows` should be middle or all. Found `some`"),
])
def test_refuses_windows_that_cannot_be(scales: Sequence[str], which: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        windows(scales, which)
    assert said in str(refused.value)


def test_pieces_make_up_the_cell(cells: Path) -> None:
    store = CellStore(cells)
    slide = store.slides[1]
    found = decode_windows(store, slide, np.arange(120), windows(("0.5",), "all"), 24).reshape(4, 30, 24, 24, 3)
    rows = [np.concatenate([found[2 * line], found[2 * line + 1]], axis=2) for line in range(2)]
    assert (np.concatenate(rows, axis=1) == store.decode(slide, None, 48)).all()


def test_a_middle_is_cut_from_the_cell_at_the_size_that_brings_it_to_a_view(cells: Path) -> None:
    store = CellStore(cells)
    slide = store.slides[1]
    found = decode_windows(store, slide, np.array([30 + 7, 3, 30 + 3]), windows(("1", "0.25"), "middle"), 24)
    assert (found[0] == store.decode(slide, [7], 96)[0, 36:60, 36:60]).all()
    assert (found[1] == store.decode(slide, [3], 24)[0]).all()
    assert (found[2] == store.decode(slide, [3], 96)[0, 36:60, 36:60]).all()


@pytest.mark.parametrize("scale", ["0.9", "0.7", "0.3", "1/3", "1/7", "0.04"])
@pytest.mark.parametrize("size", [24, 7])
def test_any_scale_gives_views_of_the_size(cells: Path, scale: str, size: int) -> None:
    store = CellStore(cells)
    found = decode_windows(store, store.slides[0], np.array([0]), windows((scale,), "middle"), size)
    assert found.shape == (1, size, size, 3)


def cell(x: float | None, y: float | None, width: float = 40, height: float = 40) -> pa.Table:
    return pa.Table.from_pylist([Cell("c", x, y, width, height, 0.5, b"")._asdict()], SCHEMA)


def places(table: pa.Table) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in ("x", "y", "width", "height")) for row in table.to_pylist()]


def test_parts_of_a_cell_have_a_place_of_their_own() -> None:
    found = window_cells(cell(100, 200), windows(("1", "0.5"), "all"))
    assert places(found) == [(100, 200, 40, 40), (90, 190, 20, 20), (110, 190, 20, 20), (90, 210, 20, 20), (110, 210, 20, 20)]
    assert found["cell"].to_pylist() == ["c"] * 5
    assert found["mpp"].to_pylist() == [0.5] * 5


def test_parts_of_a_cell_that_was_moved_inside_lie_where_they_were_cut() -> None:
    parts = windows(("0.5",), "all")
    assert places(window_cells(cell(5, 295), parts, Frame(400, 300, 0.5))) == [
        (10, 270, 20, 20), (30, 270, 20, 20), (10, 290, 20, 20), (30, 290, 20, 20)]


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 40)])
def test_parts_of_an_oblong_cell_are_those_of_the_square_around_it(width: float, height: float) -> None:
    oblong = cell(100, 200, width=width, height=height)
    assert places(window_cells(oblong, windows(("1", "0.5"), "middle"))) == [(100, 200, width, height), (100, 200, 20, 20)]
    assert places(window_cells(oblong, windows(("0.5",), "all")))[0] == (90, 190, 20, 20)


def test_a_cell_without_a_place_has_parts_without_one() -> None:
    table = window_cells(cell(None, None), windows(("1", "0.5"), "middle"), Frame(400, 300, 0.5))
    x, width = (table[name].to_numpy(zero_copy_only=False).astype(float) for name in ("x", "width"))
    assert [math.isnan(value) for value in x] == [True, True]
    assert width.tolist() == [40, 20]
