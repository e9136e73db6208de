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
SIGNS = {"mend": "to mend", "look": "to look at", "open": "not checked", "fine": "fine"}
"""Levels of the audit's findings in words, the gravest first."""
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


class Told(NamedTuple):
    """One finding of the audit: its level and the level in words, what was checked, and what was found."""

    level: str
    sign: str
    check: str
    says: str


def findings(run: Gathered) -> list[Told]:
    """What the audit before training found, the gravest first."""
    found = [Told(each["level"], SIGNS.get(each["level"], each["level"]), each["check"], f"{each['says']} {each['do']}".strip())
             for each in run.audit.get("findings", ())]
    return sorted(found, key=lambda told: list(SIGNS).index(told.level) if told.level in SIGNS else len(SIGNS))


def failures(run: Gathered) -> tuple[list[dict[str, str]], int]:
    """What was left out, whole slides first, and how many more there are than are listed."""
    if not len(run.failures):
        return [], 0
    ordered = run.failures.sort_values("cell", key=lambda cells: cells != "", kind="stable")
    return ordered.head(LISTED).to_dict("records"), max(0, len(ordered) - LISTED)
