"""What was read of every slide: its picture with the kept cells framed, and what was left out."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from milscope.report._gather import Gathered
from milscope.report._images import Picture, shrunk

ALL_BYTES = 5_000_000
ONE_BYTES = 30_000
STEPS = ((360, 80), (300, 75), (240, 70), (200, 62), (160, 55), (128, 45))
"""Longer side in pixels, and quality: the more slides, the smaller their pictures."""
LISTED = 500
"""Failures in the page's table; all are in failures.csv."""


class Kept(NamedTuple):
    """A slide as it was cut: its name, the picture with kept cells framed, how many there are, and how many were left out."""

    slide: str
    picture: Picture
    cells: int
    skipped: int


def kept_pictures(run: Gathered) -> Iterator[Kept]:
    """Every slide that was cut from an image, the fewest cells first: there is most to be seen."""
    folder = run.run / "tile" / "kept"
    slides = run.slides[run.slides["cells"].notna()].sort_values("cells", kind="stable")
    most = min(ONE_BYTES, ALL_BYTES // max(1, len(slides)))
    for row in slides.itertuples():
        picture = shrunk(folder / f"{row.slide}.jpg", STEPS, most)
        if picture:
            yield Kept(str(row.slide), picture, int(row.cells), 0 if pd.isna(row.skipped) else int(row.skipped))


def failures(run: Gathered) -> tuple[list[dict[str, str]], int]:
    """What was left out, whole slides first, and how many more there are than are listed."""
    if not len(run.failures):
        return [], 0
    ordered = run.failures.sort_values("cell", key=lambda cells: cells != "", kind="stable")
    return ordered.head(LISTED).to_dict("records"), max(0, len(ordered) - LISTED)
