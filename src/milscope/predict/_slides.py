"""Every slide is scored, in this process or in others; the cells of all become one table."""

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor

from milscope.configs import PredictConfig
from milscope.models import load_model
from milscope.pool import Lost, over_slides
from milscope.predict._scorer import Scored, Scorer, read, scorer_of
from milscope.progress import progress
from milscope.store import temporary_name
from milscope.types import refuse

LOGITS = b"milscope_logits"
"""The metadata of a slide's piece that hold its logits."""


class Work(NamedTuple):
    """All that a process needs to know: where features, model and the unfinished artifact lie, and how to score."""

    features: Path
    model: Path
    fingerprint: str
    directory: Path
    precision: torch.dtype
    gradient: bool


def score_slides(
    slides: Mapping[str, float], work: Work, scorer: Scorer, config: PredictConfig
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Writes the cells' scores, one row group per slide; gives the slides' logits, and why a slide has none.

    Args:
        slides: Their names, in the order of the table, with their microns per pixel, or NaN.
        work: Where things lie.
        scorer: The model.
        config: Who does the slides.
    """
    scored = _here(slides, work, scorer) if config.executor == "here" else _elsewhere(slides, work, config)
    found: dict[str, Tensor | str] = {}
    with pq.ParquetWriter(work.directory / "cells.parquet", scorer.schema) as writer:
        for slide, one in scored:
            found[slide] = one if isinstance(one, str) else one.logits
            if isinstance(one, Scored):
                writer.write_table(one.cells)
    shutil.rmtree(work.directory / "pieces", ignore_errors=True)
    logits = {slide: one for slide, one in found.items() if isinstance(one, Tensor)}
    odd = {slide: one for slide, one in found.items() if isinstance(one, str)}
    if not logits:
        raise refuse("features", "of at least one slide with cells and finite features", f"none ({next(iter(odd.values()))})",
                     "Encode the slides again.")
    return logits, odd


def _here(slides: Mapping[str, float], work: Work, scorer: Scorer) -> Iterator[tuple[str, Scored | str]]:
    """One after the other in this process; the next is read while one is scored."""
    with ThreadPoolExecutor(1) as thread, progress("predict", len(slides), "slides") as advance:
        names = list(slides)
        ahead = [thread.submit(read, work.features, slide) for slide in names[:1]]
        for place, slide in enumerate(names):
            bags = ahead.pop().result()
            ahead += [thread.submit(read, work.features, each) for each in names[place + 1 : place + 2]]
            yield slide, bags if isinstance(bags, str) else scorer.slide(work.features, slide, bags, slides[slide])
            advance(1)


def _elsewhere(slides: Mapping[str, float], work: Work, config: PredictConfig) -> Iterator[tuple[str, Scored | str]]:
    """In other processes, each slide into a file of its own; then one after the other from there."""
    pieces = work.directory / "pieces"
    pieces.mkdir(exist_ok=True)
    reasons: dict[str, str] = {}
    todo = [(slide, mpp) for slide, mpp in slides.items() if not (pieces / f"{slide}.parquet").exists()]
    with progress("predict", len(slides), "slides", len(slides) - len(todo)) as advance:
        done = over_slides(partial(_score_alone, work=work), todo, config.workers, limit=config.limit or None,
                           executor=config.executor, address=config.address, shared=pieces)
        for (slide, _), reason in done:
            reasons[slide] = reason.reason if isinstance(reason, Lost) else reason
            advance(1)
    for slide in slides:
        yield slide, reasons.get(slide) or _read_piece(pieces / f"{slide}.parquet")


def _read_piece(path: Path) -> Scored:
    with pq.ParquetFile(path) as file:
        cells = file.read()
    return Scored(torch.tensor(json.loads(cells.schema.metadata[LOGITS])), cells)


def _score_alone(job: tuple[str, float], *, work: Work) -> str:
    """Writes what the model says of a slide; gives the reason if it says nothing, else ""."""
    slide, mpp = job
    bags = read(work.features, slide)
    scored = bags if isinstance(bags, str) else _opened(work).slide(work.features, slide, bags, mpp)
    if isinstance(scored, str):
        return scored
    piece = work.directory / "pieces" / f"{slide}.parquet"
    logits = json.dumps(scored.logits.tolist())
    pq.write_table(scored.cells.replace_schema_metadata({LOGITS: logits}), temporary_name(piece))
    temporary_name(piece).replace(piece)
    return ""


@lru_cache(maxsize=1)
def _opened(work: Work) -> Scorer:
    return scorer_of(load_model(work.model), work.precision, gradient=work.gradient)
