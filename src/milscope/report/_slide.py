"""The page of a slide and the files beside it."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd

from milscope.report._gather import Gathered, known
from milscope.report._images import Shrunk, shrunk
from milscope.report._questions import Question
from milscope.report._routed import Sent
from milscope.report._shown import Allowance, Part, ranked, routed, sheeted, strip, thumbnail
from milscope.store import write_text

SLIDES_BYTES = 120_000_000
"""What the pictures of all slides may take together."""
LEAST, MOST = 40_000, 220_000
"""Bytes of a slide's picture, however many or few there are."""
STEPS = ((1024, 86), (1024, 78), (1024, 68), (800, 66), (640, 62), (512, 56))
"""Longer side of a slide's picture in pixels, and quality."""


class Looked(NamedTuple):
    """What all pages of slides have in common.

    Attributes:
        asked: The tasks.
        rows: Task → slide → its row of that task's table.
        sent: Task → slide → the cells that are sent to its expert.
        heats: Task → what draws the heat map of a slide of an extent.
        numbers: Slide → number of its page, in order.
        cells: Most cells shown.
        room: Bytes of a cell.
        template: Of the page.
        folder: Where the pages go.
    """

    asked: list[Question]
    rows: Mapping[str, pd.DataFrame]
    sent: Mapping[str, Mapping[str, Sent]]
    heats: Mapping[str, Callable[[str, tuple[float, float]], bytes | None]]
    numbers: Mapping[str, int]
    cells: int
    room: Allowance
    template: jinja2.Template
    folder: Path

    @property
    def run(self) -> Gathered:
        """The run, as one looks at it for the main task."""
        return self.asked[0].run


def write_slide(slide: str, looked: Looked) -> None:
    """Writes the page of a slide and its pictures; the page last, so that it is there only with all of them."""
    number = looked.numbers[slide]
    page = looked.folder / f"{number}.html"
    if page.exists():  # made before the stage was interrupted
        return
    row = looked.rows[looked.asked[0].name].loc[slide]
    write = partial(_write, looked.folder, number)
    picture = _picture(looked, slide) if known(row["width"]) and known(row["height"]) and row["width"] > 0 else None
    if picture is not None:
        write("slide", ".jpg", picture.data)
    parts = [_part(question, slide, looked, placed=picture is not None) for question in looked.asked]
    write_text(page, looked.template.render(
        slide=slide, number=number, count=len(looked.numbers), row=row, parts=parts, picture=picture,
        several=len(parts) > 1))


def _part(question: Question, slide: str, looked: Looked, *, placed: bool) -> Part:
    """One task of the page; its files end with the task's suffix."""
    row, number = looked.rows[question.name].loc[slide], looked.numbers[slide]
    frame = ranked(question, slide, looked.cells)

    def write(what: str, data: bytes, end: str = ".jpg") -> str:
        return _write(looked.folder, number, f"{what}{question.suffix}", end, data)

    found = sheeted(frame, row["mpp"], looked.room, write) if len(frame) else None
    if len(frame):
        write("strip", strip(frame))
    heat = looked.heats[question.name](slide, (row["width"], row["height"])) if placed else None
    return Part(question, row, found, write("heat", heat, ".png") if heat else "",
                routed(looked.sent[question.name].get(slide), frame, row["mpp"], looked.room, write))


def _picture(looked: Looked, slide: str) -> Shrunk | None:
    most = min(MOST, max(LEAST, SLIDES_BYTES // len(looked.numbers)))
    return shrunk(thumbnail(looked.run, slide), STEPS, most)


def _write(folder: Path, number: int, what: str, end: str, data: bytes) -> str:
    name = f"{number}-{what}{end}"
    (folder / name).write_bytes(data)
    return name
