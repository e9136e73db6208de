"""Order cells by the slide model's attention."""

import numpy as np
import pandas as pd
from jaxtyping import Float


def attention(cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """The share of the slide's decision that rests on each cell, for the positive class.

    Comparable within a slide only: the shares of a slide sum to 1. A cell may also be attended to because it speaks
    against the class.

    Args:
        cells: One slide's rows of a `scores` artifact's cells.parquet.

    Source:
        Ilse, Tomczak, Welling, Attention-based deep multiple instance learning, 2018, equation 9.
    """
    return cells["attention"].to_numpy(dtype=float)
