"""The cells that a slide model sends to the expert of a task, with the weights by which they count."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

CELLS = "cells.parquet"
SHOWN = 6
"""Most cells that are shown of a slide."""


class Sent(NamedTuple):
    """What is sent of a slide to an expert: the cells of most weight (cell, score, mpp, image), how many are sent, of how many.

    Attributes:
        cells: Those that are shown, the weightiest first.
        count: How many have a weight above 0.
        every: How many the slide has.
        share: Weight of those that are shown.
    """

    cells: pd.DataFrame
    count: int
    every: int
    share: float


def sent(scores: Path, slides: Collection[str], task: str = "") -> dict[str, Sent]:
    """What is sent to the expert of a task ("": the main one), of each slide; empty if the model does not route.

    Args:
        scores: The directory of the run's scores; the cells lie beside it.
        slides: Which slides.
        task: Its name.
    """
    if not slides or not routes(scores, task):
        return {}
    column = _column(task)
    weights = pd.read_parquet(scores / CELLS, columns=["slide", "cell", column], filters=[("slide", "in", list(slides))])
    return {str(slide): _of_slide(scores.parent / "tile" / f"{slide}.arrow", rows["cell"], rows[column])
            for slide, rows in weights.groupby("slide", sort=False)}


def routes(scores: Path, task: str = "") -> bool:
    """Whether the model of these scores sends cells to an expert of the task."""
    return (scores / CELLS).exists() and _column(task) in pq.read_schema(scores / CELLS).names


def _column(task: str) -> str:
    return f"routing:{task}" if task else "routing"


def _of_slide(store: Path, cells: pd.Series, weights: pd.Series) -> Sent:
    first = weights.sort_values(ascending=False, kind="stable").head(SHOWN)
    first = first[first > 0]
    shown = pd.DataFrame({"cell": cells.loc[first.index], "score": first.astype(float)})
    if store.exists():
        with pa.memory_map(str(store)) as source:
            table = pa.ipc.open_file(source).read_all()
            rows = pd.Index(table["cell"].to_pylist()).get_indexer(pd.Index(shown["cell"]))
            shown, rows = shown[rows >= 0], rows[rows >= 0]
            shown = shown.assign(mpp=table["mpp"].take(pa.array(rows)).to_numpy().astype(float),
                                 image=table["image"].take(pa.array(rows)).to_pylist())
    return Sent(shown.reset_index(drop=True), int((weights > 0).sum()), len(weights), float(first.sum()))
