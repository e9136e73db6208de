"""Order cells by their distance from the nearest cells of normal slides."""

import numpy as np
from jaxtyping import Float

from milscope.ranking._crossfit import MOST, check_seen, settled, standard
from milscope.ranking._seen import Seen

NEAREST = 5
"""Normal cells whose distance is averaged."""
TABLE = 16_000_000
"""Most distances in memory at a time."""


def neighbours(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""The mean distance of a cell to the nearest cells of other slides that are normal.

    $$ s = \frac{1}{k} \sum_{j \in N_k(h)} |h - h_j| $$

    on features standardised by normal cells. The cells of a normal slide are no neighbours of each other: they would look more
    normal than those of a new slide.

    Args:
        seen: Cells and slide labels; only features and normal slides are learned from.

    Raises:
        InputError: If there are no features, or fewer than two normal slides.

    Source:
        Sun et al., Out-of-distribution detection with deep nearest neighbors, 2022, section 3; the mean of k distances in
        place of the k-th, and lengths left as they are: a cell may be rare by being extreme.
    """
    check_seen(seen, positives=False)
    memory = np.flatnonzero(seen.normal)
    memory = memory[settled(seen.features[memory])]
    if len(memory) > MOST:
        memory = memory[np.sort(np.random.default_rng([seen.seed, 3]).choice(len(memory), MOST, replace=False))]
    centre, spread = standard(seen.features[memory])
    known, owner = (seen.features[memory] - centre) / spread, seen.slide[memory]
    length = np.square(known).sum(1)
    scores = np.empty(len(seen.slide))
    step = max(1, TABLE // len(memory))
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        own = (seen.features[rows] - centre) / spread
        squares = np.square(own).sum(1)[:, None] + length - 2 * own @ known.T
        squares[seen.slide[rows, None] == owner] = np.inf
        nearest = np.partition(squares, min(NEAREST, squares.shape[1]) - 1, axis=1)[:, :NEAREST]
        scores[rows] = np.sqrt(np.maximum(nearest, 0)).mean(1, where=np.isfinite(nearest))
    return scores
