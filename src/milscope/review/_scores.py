"""The scores of all cells of one slide, ranked or not, and what they are compared with."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float

from milscope.heat import spread
from milscope.ranking import find_ranking, rank_slides, scores_of, slide_groups
from milscope.review._run import Asked, ReviewedRun

_COLUMNS = ["slide", "cell", "x", "y", "width", "height", "score"]


def scored_cells(run: ReviewedRun, slide: str, task: Asked) -> pd.DataFrame:
    """The cells of a slide (slide, cell, x, y, width, height, score), by the ranking of the run; none without scores.

    Args:
        run: The run.
        slide: Its name.
        task: By which task.

    Raises:
        InputError: If the scores do not hold the ranking.
    """
    path = run.scores / "cells.parquet"
    if not path.exists():
        return pd.DataFrame(columns=_COLUMNS)
    groups = _groups(path, path.stat().st_mtime_ns).get(slide, [])
    with pq.ParquetFile(path) as file:
        cells = file.read_row_groups(groups).to_pandas()
    cells = cells[cells["slide"] == slide]
    if not len(cells):
        return pd.DataFrame(columns=_COLUMNS)
    score = find_ranking(run.rank)(scores_of(cells, "" if task.main else task.name))
    return cells.assign(score=score)[_COLUMNS]


def compared_with(run: ReviewedRun, task: Asked) -> Float[np.ndarray, " cell"] | None:
    """Scores of the cells of all slides, so that a normal slide stays pale; None where scores are shares of their slide.

    Args:
        run: The run.
        task: By which task.

    Raises:
        InputError: If the scores do not hold the ranking.
    """
    path = run.scores / "cells.parquet"
    if not run.comparable or not path.exists():
        return None
    return _compared(run.scores, run.rank, "" if task.main else task.name, path.stat().st_mtime_ns)


@lru_cache(8)
def _compared(scores: Path, rank: str, task: str, _: int) -> Float[np.ndarray, " cell"]:
    slides = [frame["score"].to_numpy(np.float32) for _, frame in rank_slides(scores, find_ranking(rank), task)]
    return spread(np.concatenate(slides or [np.empty(0, np.float32)]))


@lru_cache(8)
def _groups(path: Path, _: int) -> dict[str, list[int]]:
    return slide_groups(path)
