"""Every slide in order of suspicion, with what is shown of it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from milscope.report._gather import Gathered, cells, known
from milscope.report._images import Picture, ScaleBar, crop, scale_bar, thumbnail
from milscope.report._routed import Sent, sent


class Crop(NamedTuple):
    """One cell to look at; x, y in slide pixels where the thumbnail can mark it."""

    rank: int
    cell: str
    score: float
    picture: Picture
    bar: ScaleBar | None
    x: float | None
    y: float | None


class Routed(NamedTuple):
    """The cells of most weight for the task's expert, how many are sent there of how many, and the weight of those shown."""

    crops: list[Crop]
    count: int
    every: int
    share: float


class Card(NamedTuple):
    """One slide: its row of the table, and what is shown of it."""

    row: Any
    thumbnail: Picture | None
    crops: list[Crop]
    routed: Routed | None = None


class Room(NamedTuple):
    """What may be shown: slides with their cells, cells of each, bytes of a crop, and slides without their cells."""

    slides: int
    cells: int
    crop: int
    rows: int | None = None


def cards(run: Gathered, room: Room, advance: Callable[[int], None], task: str = "") -> Iterator[Card]:
    """Every slide in order of suspicion; those with cells are the most suspicious, test slides before others.

    Args:
        run: The run, as one looks at it for a task.
        room: How much is shown.
        advance: Called after each slide that is shown with its cells.
        task: The task by which cells are ranked, "" for the main one.
    """
    slides = run.slides
    seen = slides["split"].isin(["train", "validation"])
    chosen = set(slides.assign(seen=seen).sort_values("seen", kind="stable").index[:room.slides])
    routed = sent(run.scores, slides.loc[sorted(chosen), "slide"].tolist(), task)
    rows: Iterator[Any] = iter(slides.itertuples())
    for place, row in enumerate(rows):
        if row.Index in chosen:
            frame = cells(run.run, row.slide, room.cells, task)
            placed = known(row.width) and known(row.height)
            yield Card(row, thumbnail(run.run / "tile" / "thumbnails" / f"{row.slide}.jpg") if placed else None,
                       list(_crops(frame, row.mpp, room.crop)), _routed(routed.get(row.slide), frame, row.mpp, room.crop))
            advance(1)
        elif room.rows is None or place < room.rows:
            yield Card(row, None, [])


def _routed(found: Sent | None, ranked: pd.DataFrame, mpp: float, most: int) -> Routed | None:
    """The cells of most weight; a cell that is among the ranked ones bears that rank, others 0."""
    if found is None or "image" not in found.cells:
        return None
    ranks = dict(zip(ranked["cell"], ranked["rank"], strict=True)) if len(ranked) else {}
    own = found.cells.assign(rank=[int(ranks.get(cell, 0)) for cell in found.cells["cell"]])
    return Routed(list(_crops(own, mpp, most)), found.count, found.every, found.share)


def _crops(frame: pd.DataFrame, mpp: float, most: int) -> Iterator[Crop]:
    for cell in frame.to_dict("records"):
        picture = crop(cell["image"], most)
        if picture:
            scale = cell["mpp"] if known(cell.get("mpp")) else mpp
            placed = known(cell.get("x")) and known(cell.get("y"))
            yield Crop(int(cell["rank"]), cell["cell"], cell["score"], picture,
                       scale_bar(max(picture.width, picture.height), scale),
                       cell["x"] if placed else None, cell["y"] if placed else None)
