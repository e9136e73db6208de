"""What is shown of a slide for a task: its cells in sheets, its heat map, the cells sent to an expert; written as files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from milscope.report._gather import Gathered, cells, known
from milscope.report._images import scale_bar
from milscope.report._questions import Question
from milscope.report._routed import Sent
from milscope.report._sheets import Pixels, decoded, sheet

FIRST = 24
"""Cells in the first sheet, which has the better pictures."""
FIRST_BYTES, MORE_BYTES = 60_000_000, 160_000_000
"""What the first cells of all slides may take together, and all others."""
LEAST, MOST = 700, 9_000
"""Bytes of a cell in a sheet, however many or few there are."""
STRIP = 6
"""Cells of a slide in the list of all."""
STRIP_STEPS = ((64, 76),)
ACROSS = 136
"""Pixels of the screen that a cell takes at first."""


class Cell(NamedTuple):
    """One cell of a page.

    Attributes:
        rank: From 1; 0 of a cell that is not ranked among those shown.
        name: Unique within the slide.
        score: By which it has its rank.
        sheet: Which of the page's sheets holds it.
        column: Of its square.
        row: Of its square.
        width: Share of its square that it fills.
        height: Share of its square that it fills.
        across: How wide it is: microns where the scale is known, else as a share of its longer side.
        down: How high it is, likewise.
        x: In slide pixels; None if unknown.
        y: In slide pixels; None if unknown.
    """

    rank: int
    name: str
    score: float
    sheet: int
    column: int
    row: int
    width: float
    height: float
    across: float
    down: float
    x: float | None
    y: float | None


class Sheeted(NamedTuple):
    """Cells of a page and the files they lie in.

    Attributes:
        cells: In order of rank.
        files: Name, columns and rows of each sheet.
        usual: Width, height (shares), across and down of most cells.
        bar: Microns of the scale bar; 0 where the scale is unknown.
        scale: Pixels of the screen for a micron (or for the longer side) at first.
    """

    cells: list[Cell]
    files: list[tuple[str, int, int]]
    usual: tuple[float, float, float, float]
    bar: int
    scale: float


class Routed(NamedTuple):
    """The cells of most weight for the task's expert, how many are sent there of how many, and the weight of those shown."""

    sheeted: Sheeted
    count: int
    every: int
    share: float


class Part(NamedTuple):
    """A slide as one looks at it for a task: its row of that task's table, cells, heat map's file, cells of the expert."""

    question: Question
    row: Any
    sheeted: Sheeted | None
    heat: str
    routed: Routed | None


class Allowance(NamedTuple):
    """Bytes for each of the first cells of a slide, and for each other."""

    first: int
    more: int


def allowance(slides: int, cells: int) -> Allowance:
    """What a cell may take, so that the folder stays small.

    Args:
        slides: Pages, counted once for each task.
        cells: Most cells on each.
    """
    shares = ((FIRST_BYTES, min(cells, FIRST)), (MORE_BYTES, cells - FIRST))
    return Allowance(*(min(MOST, max(LEAST, whole // max(1, slides * each))) for whole, each in shares))


def ranked(question: Question, slide: str, most: int) -> pd.DataFrame:
    """The slide's highest cells for a task with their pixels in a column `pixels`; those that cannot be read are left out."""
    frame = cells(question.run.run, slide, most, question.own)
    return _read(frame) if len(frame) else frame


def sheeted(frame: pd.DataFrame, mpp: float, room: Allowance, write: Callable[[str, bytes], str]) -> Sheeted:
    """Cells in sheets, the first in one of their own.

    Args:
        frame: rank, cell, score, pixels, and where known x, y, mpp (microns per pixel); at least one row.
        mpp: Of cells that tell none.
        room: Bytes.
        write: Writes a file of the name that is given, and says what it is called.
    """
    rows: list[dict[str, Any]] = frame.to_dict("records")
    scales = [row["mpp"] if known(row.get("mpp")) and row["mpp"] > 0 else mpp for row in rows]
    scaled = all(known(scale) and scale > 0 for scale in scales)
    found: list[Cell] = []
    files = []
    for number, (part, most) in enumerate(((slice(0, FIRST), room.first), (slice(FIRST, None), room.more))):
        if not rows[part]:
            continue
        made = sheet([row["pixels"] for row in rows[part]], most)
        files.append((write(("first", "more")[number], made.data), made.columns, made.rows))
        found += [_cell(row, number, place, scale if scaled else None)
                  for row, place, scale in zip(rows[part], made.places, scales[part], strict=True)]
    shapes = pd.Series([cell[6:10] for cell in found])
    longer = max(shapes.mode()[0][2:])
    bar = scale_bar(max(1, round(1000 * longer)), 0.001) if scaled else None
    return Sheeted(found, files, shapes.mode()[0], bar.microns if bar else 0, _rounded(ACROSS / longer) if scaled else ACROSS)


def routed(found: Sent | None, frame: pd.DataFrame, mpp: float, room: Allowance, write: Callable[[str, bytes], str],
           ) -> Routed | None:
    """The cells of most weight; a cell that is among the ranked ones bears that rank, others 0."""
    if found is None or "image" not in found.cells:
        return None
    ranks = dict(zip(frame["cell"], frame["rank"], strict=True)) if len(frame) else {}
    own = _read(found.cells.assign(rank=[int(ranks.get(cell, 0)) for cell in found.cells["cell"]]))
    if not len(own):
        return None
    return Routed(sheeted(own, mpp, room, lambda _, data: write("sent", data)), found.count, found.every, found.share)


def strip(frame: pd.DataFrame) -> bytes:
    """The slide's first cells beside each other, as a JPEG for the list of all slides."""
    return sheet(_alike(frame["pixels"].head(STRIP).tolist()), 4_000, STRIP_STEPS, columns=STRIP).data


def chosen(asked: Sequence[Question], most: int) -> list[str]:
    """The slides that have a page: those most suspicious for a task, in turn over tasks; test slides before others."""
    orders = []
    for question in asked:
        slides = question.run.slides
        seen = slides["split"].isin(["train", "validation"])
        orders.append(slides.assign(seen=seen).sort_values("seen", kind="stable")["slide"].tolist())
    turns = (order[place] for place in range(len(orders[0])) for order in orders if place < len(order))
    return list(dict.fromkeys(turns))[:most]


def thumbnail(run: Gathered, slide: str) -> Path:
    """Where the slide's picture lies."""
    return run.run / "tile" / "thumbnails" / f"{slide}.jpg"


def _read(frame: pd.DataFrame) -> pd.DataFrame:
    pixels = [decoded(image) for image in frame["image"]]
    good = [place for place, each in enumerate(pixels) if each is not None]
    return frame.drop(columns="image").iloc[good].assign(pixels=[pixels[place] for place in good])


def _cell(row: dict[str, Any], number: int, place: tuple[int, int, float, float], scale: float | None) -> Cell:
    height, width = row["pixels"].shape[:2]
    unit = scale if scale is not None else 1 / max(height, width)
    placed = known(row.get("x")) and known(row.get("y"))
    return Cell(int(row["rank"]), str(row["cell"]), float(row["score"]), number, place[0], place[1], round(place[2], 4),
                round(place[3], 4), round(width * unit, 3), round(height * unit, 3),
                float(row["x"]) if placed else None, float(row["y"]) if placed else None)


def _alike(pixels: list[Pixels]) -> list[Pixels]:
    """Cells cut to squares of about one size, their middles."""
    least = min(min(each.shape[:2]) for each in pixels)
    squares = []
    for each in pixels:
        side = min(each.shape[:2])
        top, left = (each.shape[0] - side) // 2, (each.shape[1] - side) // 2
        step = max(1, math.floor(side / max(64, least)))
        squares.append(each[top:top + side:step, left:left + side:step])
    return squares


def _rounded(scale: float) -> float:
    """A scale that the slider can have: half pixels of the screen for a micron."""
    return min(16.0, max(0.5, round(2 * scale) / 2))
