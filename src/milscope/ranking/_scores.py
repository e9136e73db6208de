"""The cells of a `scores` artifact with the scores that order them: what retrieve shows and evaluate measures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from milscope.store import artifact_kind, read_manifest
from milscope.types import refuse

Ranking = Callable[[pd.DataFrame], Float[np.ndarray, " cell"]]
"""One slide's cells in, a score for each out: higher is more suspicious."""


def rank_slides(directory: str | Path, ranking: Ranking, task: str = "") -> Iterator[tuple[str, pd.DataFrame]]:
    """Each slide with its cells (slide, cell, x, y, width, height, score), in stored order, one slide in memory.

    Args:
        directory: A `scores` artifact.
        ranking: What gives the scores.
        task: By whose scores; "" for those of the main task.

    Raises:
        InputError: If there are no scores of the task, a score is not a finite number, or a slide's cells do not lie together.
    """
    seen: set[str] = set()
    for slide, cells in _slides(Path(directory) / "cells.parquet"):
        if slide in seen:
            raise refuse("scores", "in the order of slides", f"slide {slide} in two places", "Run `predict` again.")
        seen.add(slide)
        scores = ranking(scores_of(cells, task))
        if not np.isfinite(scores).all():
            raise refuse("scores", "finite", f"{(~np.isfinite(scores)).sum()} cells of slide {slide} that are not",
                         "Train the model again with a lower learning rate.")
        yield slide, cells[["slide", "cell", "x", "y", "width", "height"]].assign(score=scores)


def slide_groups(cells: Path) -> dict[str, list[int]]:
    """Slide → the row groups of a `cells.parquet` that hold its cells."""
    found: dict[str, list[int]] = {}
    with pq.ParquetFile(cells) as file:
        for group in range(file.num_row_groups):
            for slide in file.read_row_group(group, columns=["slide"])["slide"].unique().to_pylist():
                found.setdefault(slide, []).append(group)
    return found


def find_scores(run: Path, fingerprint: str) -> Path:
    """Where the scores of that fingerprint lie in a run; those that are there if none has it, else where they would lie."""
    there = [run / stage for stage in ("seek", "predict") if artifact_kind(run / stage) == "scores"]
    made = [path for path in there if read_manifest(path, "scores").fingerprint == fingerprint]
    return next(iter([*made, *there]), run / "predict")


def other_tasks(directory: str | Path) -> list[str]:
    """The tasks beside the main one that the cells of a `scores` artifact have scores of."""
    names = pq.read_schema(Path(directory) / "cells.parquet").names
    return [name.removeprefix("evidence:") for name in names if name.startswith("evidence:")]


def scores_of(cells: pd.DataFrame, task: str) -> pd.DataFrame:
    """The cells with the scores of a task under the names that those of the main task have; "" stands for that.

    Raises:
        InputError: If there are none.
    """
    if not task:
        return cells
    end = f":{task}"
    own = {name: name.removesuffix(end) for name in cells if name.endswith(end)}
    if not own:
        raise refuse("task", "one whose scores of cells are there", task, "Run `predict` again.")
    main = {"attention", "evidence", "gradient", "routing"}
    return cells.drop(columns=[name for name in cells if name in main]).rename(columns=own)


def order(scores: Float[np.ndarray, " cell"]) -> Int[np.ndarray, " cell"]:
    """The cells from the most suspicious to the least; equal ones as they are stored."""
    return np.argsort(-scores, kind="stable")


def _slides(path: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs of rows of one slide, joined over the batches in which they are read."""
    held: list[pa.RecordBatch] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            slides = batch.column("slide").to_numpy(zero_copy_only=False)
            starts = np.flatnonzero(np.append(True, slides[1:] != slides[:-1])) if len(slides) else []
            for start, end in zip(starts, [*starts[1:], len(slides)], strict=False):
                if held and held[0].column("slide")[0].as_py() != slides[start]:
                    yield _frame(held)
                    held = []
                held.append(batch.slice(start, end - start))
    if held:
        yield _frame(held)


def _frame(batches: list[pa.RecordBatch]) -> tuple[str, pd.DataFrame]:
    cells = pa.Table.from_batches(batches).to_pandas()
    return str(cells["slide"].iloc[0]), cells
