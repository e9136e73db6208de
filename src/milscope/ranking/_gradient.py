"""Order cells by how much the slide's suspicion would change with each."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.types import refuse


def gradient(cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """Gradient times input: what a small step of the cell's features towards the mean cell takes from the suspicion.

    It has a sign, and it counts the cell among the others of its slide, as the model saw it. Comparable within a slide.

    Args:
        cells: One slide's rows of a `scores` artifact's cells.parquet, from `predict` with `gradient`.

    Raises:
        InputError: If they were predicted without it.

    Source:
        Shrikumar et al., Not just a black box: learning important features through propagating activation differences,
        2016, section 2, on the cell's standardised features.
    """
    if "gradient" not in cells:
        raise refuse("rank", "evidence or attention for these scores", "gradient",
                     "Run `milscope predict` with `--gradient`, which takes about three times as long.")
    return cells["gradient"].to_numpy(dtype=float)
