"""Order cells by what the slide model would say of each alone."""

import numpy as np
import pandas as pd
from jaxtyping import Float


def evidence(cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """The logit of the positive class minus that of the normal one, were the cell alone on its slide.

    Comparable between slides, and it has a sign: below 0 the cell speaks for a normal slide. The model never saw such
    slides when it was trained.

    Args:
        cells: One slide's rows of a `scores` artifact's cells.parquet.
    """
    return cells["evidence"].to_numpy(dtype=float)
