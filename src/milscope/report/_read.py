"""What was read of every slide: its picture with the kept cells framed, and what was left out."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.report._gather import Gathered
from milscope.report._images import shrunk

ALL_BYTES = 20_000_000
"""What all of these pictures may take together."""
ONE_BYTES = 60_000
STEPS = ((480, 82), (420, 78), (360, 76), (300, 72), (240, 68), (200, 62), (160, 55), (128, 45))
"""Longer side in pixels, and quality: the more slides, the smaller their pictures."""
SIGNS = {"mend": "to mend", "look": "to look at", "open": "not checked", "fine": "fine"}
"""Levels of the audit's findings in words, the gravest first."""
LISTED = 500
"""Failures in the page's table; all are in failures.csv."""


class Kept(NamedTuple):
    """A slide as it was cut: its name, the file with kept cells framed and its size, cells kept, and how many were left out."""

    slide: str
    file: str
    width: int
    height: int
    cells: int
    skipped: int


def kept_pictures(run: Gathered, folder: Path) -> Iterator[Kept]:
    """Every slide that was cut from an image, the fewest cells first: there is most to be seen.

    Args:
        run: The run.
        folder: Where the pictures are written, as 1.jpg, 2.jpg, ….
    """
    slides = run.slides[run.slides["cells"].notna()].sort_values("cells", kind="stable")
    most = min(ONE_BYTES, ALL_BYTES // max(1, len(slides)))
    for number, row in enumerate(slides.itertuples(), 1):
        picture = shrunk(run.run / "tile" / "kept" / f"{row.slide}.jpg", STEPS, most)
        if picture:
            (folder / f"{number}.jpg").write_bytes(picture.data)
            yield Kept(str(row.slide), f"{folder.name}/{number}.jpg", picture.width, picture.height, int(row.cells),
                       0 if pd.isna(row.skipped) else int(row.skipped))


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
