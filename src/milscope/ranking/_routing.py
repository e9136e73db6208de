"""Order cells by how much of each the slide model sends to the task's expert."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.types import refuse


def routing(cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """The weight by which each cell's answer of the task's expert counts; 0 for cells that are not sent there.

    Comparable within a slide only: the weights of a slide sum to 1. Most are 0, and those stay in the order of the store.

    Args:
        cells: One slide's rows of a `scores` artifact's cells.parquet, of a model that routes (`mecds`).

    Raises:
        InputError: If the model does not route, or the scores are older than that.

    Source:
        MECDS (MICCAI 2025, paper 1643), dynamic feature routing, of the last block.
    """
    if "routing" not in cells:
        raise refuse("rank", "evidence or attention for these scores", "routing, which they do not hold",
                     "Only models that send cells to experts have it, such as `mecds`; older scores: predict again.")
    return cells["routing"].to_numpy(dtype=float)
