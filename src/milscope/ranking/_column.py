"""Order cells by a learned ranking that was written beside their scores."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.ranking._scores import Ranking
from milscope.types import refuse


def column(name: str) -> Ranking:
    """The ranking that reads the column of that name, which `seek` wrote.

    Args:
        name: Of a learned ranking.
    """
    def read(cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
        if name not in cells:
            raise refuse("rank", "evidence or attention for these scores", f"{name}, which they do not hold",
                         f"Run `milscope seek` with `--rankings {name}`.")
        return cells[name].to_numpy(dtype=float)

    return read
