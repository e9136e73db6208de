"""Every slide in order of suspicion, with what is shown of it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pandas as pd

from milscope.configs import ReportConfig
from milscope.report._gather import Gathered, cells, known
from milscope.report._images import Picture, ScaleBar, budget, crop, scale_bar, thumbnail


class Crop(NamedTuple):
    """One cell to look at; x, y in slide pixels where the thumbnail can mark it."""

    rank: int
    cell: str
    score: float
    picture: Picture
    bar: ScaleBar | None
    x: float | None
    y: float | None


class Card(NamedTuple):
    """One slide: its row of the table, and what is shown of it."""

    row: Any
    thumbnail: Picture | None
    crops: list[Crop]


def cards(run: Gathered, config: ReportConfig, advance: Callable[[int], None]) -> Iterator[Card]:
    """Every slide in order of suspicion; those with cells are the most suspicious, test slides before others."""
    slides = run.slides
    seen = slides["split"].isin(["train", "validation"])
    chosen = set(slides.assign(seen=seen).sort_values("seen", kind="stable").index[:config.slides])
    most = budget(len(chosen) * config.cells)
    rows: Iterator[Any] = iter(slides.itertuples())
    for row in rows:
        if row.Index in chosen:
            frame = cells(run.run, row.slide, config.cells)
            place = known(row.width) and known(row.height)
            yield Card(row, thumbnail(run.run / "tile" / "thumbnails" / f"{row.slide}.jpg") if place else None,
                       list(_crops(frame, row.mpp, most)))
            advance(1)
        else:
            yield Card(row, None, [])


def _crops(frame: pd.DataFrame, mpp: float, most: int) -> Iterator[Crop]:
    for cell in frame.to_dict("records"):
        picture = crop(cell["image"], most)
        if picture:
            scale = cell["mpp"] if known(cell.get("mpp")) else mpp
            placed = known(cell.get("x")) and known(cell.get("y"))
            yield Crop(int(cell["rank"]), cell["cell"], cell["score"], picture,
                       scale_bar(max(picture.width, picture.height), scale),
                       cell["x"] if placed else None, cell["y"] if placed else None)
