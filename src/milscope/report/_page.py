"""The pages of a run, written into a folder that needs nothing else: the first one, the method, and one for each slide."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jinja2

from milscope.configs import ReportConfig
from milscope.report import _words as words
from milscope.report._gather import Gathered
from milscope.report._heated import heats
from milscope.report._look import environment, ranked_by, write_assets
from milscope.report._method import render_method, splits
from milscope.report._questions import FIGURES, Question, overview, questions, said
from milscope.report._routed import sent
from milscope.report._sections import figures, sections
from milscope.report._shown import allowance, chosen
from milscope.report._slide import Looked, write_slide
from milscope.report._taught import pairs

PAGE, METHOD = "index.html", "method.html"
SLIDES = "slides"
"""Folder of the pages of slides."""
THREADS = 4
"""Slides in work at once, at most: pictures are decoded and encoded without Python's lock."""


def write_pages(run: Gathered, config: ReportConfig, folder: Path, advance: Callable[[int], None]) -> dict[str, int]:
    """Writes all pages; `advance(1)` after each slide. Gives the number of pages of slides, and of bytes in all files.

    Pages of slides that are there already are taken for whole: the stage was interrupted.
    """
    asked = questions(run)
    templates = environment(run, config, len(asked))
    named = [name for name in chosen(asked, config.slides) if _has_page(run, name, config)]
    order = [slide for slide in run.slides["slide"] if slide in set(named)]
    numbers = {slide: number for number, slide in enumerate(order, 1)}
    (folder / SLIDES).mkdir(exist_ok=True)
    write_assets(folder / "assets")
    looked = _looked(asked, numbers, config, templates, folder / SLIDES)
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(partial(write_slide, looked=looked), order):
            advance(1)
    (folder / METHOD).write_text(render_method(asked, templates, folder), encoding="utf-8")
    (folder / PAGE).write_text(render_first(asked, templates, numbers, folder / SLIDES), encoding="utf-8")
    return {"slides": len(order), "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())}


def render_first(asked: list[Question], templates: jinja2.Environment, numbers: Mapping[str, int], slides: Path) -> str:
    """The first page as HTML text; `slides` is the folder of the pages of slides, as far as they are written."""
    run = asked[0].run
    strips = {file.name for file in slides.glob("*-strip*.jpg")} if slides.is_dir() else set()
    return templates.get_template("first.html.j2").render(
        headline=words.headline(run) if len(asked) == 1 else [words.looked_at(run, [each.name for each in asked]),
                                                              *map(said, asked)],
        figures=list(figures(asked)),
        warnings=list(words.warnings(run)),
        sections=sections(asked, numbers, strips),
        overview=overview(asked) if len(asked) > 1 else [],
        overview_names=list(FIGURES.values()),
        pairs=pairs(run),
        splits=splits(run),
    )


def _has_page(run: Gathered, slide: str, config: ReportConfig) -> bool:
    """Whether there is anything to see of a slide: cells, or its picture."""
    ranked = config.cells > 0 and (run.run / "retrieve" / f"{slide}.arrow").exists()
    return ranked or (run.run / "tile" / "thumbnails" / f"{slide}.jpg").exists()


def _looked(asked: list[Question], numbers: Mapping[str, int], config: ReportConfig, templates: jinja2.Environment,
            folder: Path) -> Looked:
    run = asked[0].run
    return Looked(
        asked,
        rows={each.name: each.run.slides.set_index("slide", drop=False) for each in asked},
        sent={each.name: sent(run.scores, list(numbers), each.own) for each in asked},
        heats={each.name: heats(run.scores, ranked_by(run), each.own) for each in asked},
        numbers=numbers,
        cells=config.cells,
        room=allowance(len(numbers) * len(asked), config.cells),
        template=templates.get_template("slide.html.j2"),
        folder=folder,
    )
