"""How unusual a score is among normal cells, and whether positive slides have more than their share of such cells."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

TAIL = 0.02
"""Share of normal cells above which a score counts as unusual: beyond, how unusual is told by an exponential tail."""
FURTHEST = 12.0
"""The furthest in that tail, in its mean excess: beyond, two cells are equally unusual."""
SHARES = (0.0006, 0.0012, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
"""Shares of all cells that are looked at as the highest."""
FEWEST = 5
"""Highest cells of which it may be said that most are from positive slides."""


def surprise(scores: Float[np.ndarray, " cell"], normal: Float[np.ndarray, " other"]) -> Float[np.ndarray, " cell"]:
    r"""Minus the logarithm of the share of normal cells with such a score or a higher one.

    $$ u(s) = -\log \frac{|\{i : n_i \ge s\}| + 1/2}{N + 1}, \qquad u(s) = -\log t + \frac{s - q}{m} \; \text{ for } s > q $$

    q is exceeded by the share t = 0.02 of the normal cells, by m on average: further out there are too few to count.

    Args:
        scores: Higher is more suspicious.
        normal: Scores of cells that are known to be normal.
    """
    ordered = np.sort(normal)
    count = len(ordered) - np.searchsorted(ordered, scores, side="left")
    found = -np.log((count + 0.5) / (len(ordered) + 1))
    edge = float(np.quantile(ordered, 1 - TAIL))
    excess = max(float((ordered[ordered >= edge] - edge).mean()), 1e-9 * (1 + abs(edge)))
    return np.where(scores > edge, -np.log(TAIL) + np.minimum((scores - edge) / excess, FURTHEST), found)


class Excess(NamedTuple):
    """Of the highest `cells`, `positive` lie on positive slides, where `chance` would; `nats` says how much that tells."""

    nats: float
    cells: int
    positive: int
    chance: float


def excess(scores: Float[np.ndarray, " cell"], slide: Int[np.ndarray, " cell"], positive: Bool[np.ndarray, " slide"]) -> Excess:
    r"""How much likelier the slides of the highest cells are if positive slides have more than their share of them, in nats.

    $$ g = \max_m \; \frac{m \, \mathrm{KL}(k_m / m \,\|\, p)}{\phi_m} $$

    k of the m highest cells lie on positive slides, where by chance a share p would. phi is how much more unevenly the others
    lie on normal slides than by chance, at least 1: a slide that is odd as a whole counts as little more than one cell. With
    scores from models that did not learn from the slide, what nothing explains stays below about 5.

    Args:
        scores: Of the cells of slides with a label, each from models that did not learn from its slide.
        slide: The number of each cell's slide.
        positive: Whether each slide is positive; the others are normal.
    """
    own = positive[slide]
    chance, ordered, best = float(own.mean()), np.sort(scores), Excess(0.0, 0, 0, 0.0)
    for share in SHARES:
        edge = ordered[-max(1, int(share * len(scores)))]
        highest = scores >= edge
        count, part = int(highest.sum()), float(own[highest].mean())
        if count < FEWEST or part <= chance or count > 2 * SHARES[-1] * len(scores):
            continue
        counts = np.bincount(slide[highest], minlength=len(positive))[~positive]
        uneven = max(1.0, counts.var(ddof=1) / max(counts.mean(), 0.5)) if len(counts) > 1 else 1.0
        nats = part * np.log(part / chance) + ((1 - part) * np.log((1 - part) / (1 - chance)) if part < 1 else 0.0)
        best = max(best, Excess(float(count * nats / uneven), count, round(part * count), chance * count))
    return best
