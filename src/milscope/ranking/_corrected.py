"""Order cells by what people said of a few of them, with the order before as a prior."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from milscope.ranking._crossfit import standard
from milscope.types import refuse

STRENGTH = 3.0
"""Inverse strength of the penalty on weights (`C` of scikit-learn), of looks whose squares sum to about 1."""
PRIOR = 0.5
"""By which the score before is multiplied: the larger, the less the penalty holds it back beside what cells look like."""
FURTHEST = 5.0
"""No look is further from the mean, in deviations."""
NEAREST, USUAL = 5, 2000
"""A cell stands out by the distance to its fifth neighbour, among at most so many ordinary cells."""
ODD = 0.3
"""How much abnormal cells stand out: the exponent of the shares below which they lie, 1 for not at all."""
FOLDS = 5
"""Most parts of the judged slides that take turns as held out."""

Corrector = Callable[[Float[np.ndarray, "cell look"], Float[np.ndarray, " cell"]], Float[np.ndarray, " cell"]]
"""Looks and prior of cells in, the logit of being abnormal out."""


class Examples(NamedTuple):
    """Cells that were judged, and others beside them.

    Attributes:
        looks: What each cell looks like: features, or plain measures.
        prior: Its score before, as a quantile of the normal distribution.
        slide: The number of its slide.
        verdict: 1 abnormal, 0 normal, NaN not judged.
        normal: Whether it lies on a slide that is known to be normal.
    """

    looks: Float[np.ndarray, "cell look"]
    prior: Float[np.ndarray, " cell"]
    slide: Int[np.ndarray, " cell"]
    verdict: Float[np.ndarray, " cell"]
    normal: Bool[np.ndarray, " cell"]

    @property
    def judged(self) -> Bool[np.ndarray, " cell"]:
        """Whether a cell was judged."""
        return ~np.isnan(self.verdict)

    def of(self, rows: Bool[np.ndarray, " cell"]) -> "Examples":
        """Those cells only."""
        return Examples(*(part[rows] for part in self))


class Gain(NamedTuple):
    """How many abnormal cells come first among judged cells that were not learned from.

    Attributes:
        judged: Cells that were held out in turn, and judged.
        abnormal: The abnormal ones among them: so many are looked at, of each part as many as it has.
        before: Abnormal ones among those that came first by the order before.
        after: The same by the new order.
        chance: How many chance would put there.
    """

    judged: int
    abnormal: int
    before: int
    after: int
    chance: float


def learn_corrections(examples: Examples) -> Corrector:
    r"""A classifier of few verdicts, for which both kinds count alike.

    $$ \min_{w,v,b} \; \frac{|w|^2 + v^2}{2C} + \sum_i c_i \log\left(1 + e^{-t_i (w \cdot z_i + v p_i / 2 + b)}\right),
    \qquad z = \frac{h - \mu}{\sigma \sqrt{d}} $$

    Beside the cells judged normal, those of normal slides are taken for normal (any that are not judged, if no normal slide is
    known: most cells are), all together with the weight of all verdicts: reviewers saw the first cells only, so verdicts alone
    say nothing of the rest. The strong penalty makes a wrong verdict one voice among the others, and a cell that was judged
    abnormal but looks like any other counts less (`_trust`).

    Args:
        examples: Judged cells of both kinds, and others.

    Raises:
        InputError: If nothing abnormal or nothing normal was judged.

    Source:
        King, Zeng, Logistic regression in rare events data, 2001, section 4.1, for the weights; the score before enters as one
        more feature.
    """
    known = examples.judged
    counts = [int((examples.verdict == value).sum()) for value in (1, 0)]
    if not all(counts):
        found = f"{counts[0]} abnormal and {counts[1]} normal ones"
        raise refuse("labels", "of both kinds of cells", found, "Judge more cells.")
    centre, spread = standard(examples.looks)

    def scaled(looks: Float[np.ndarray, "cell look"]) -> Float[np.ndarray, "cell look"]:
        return np.clip((looks - centre) / spread, -FURTHEST, FURTHEST) / np.sqrt(looks.shape[1])

    def seen(looks: Float[np.ndarray, "cell look"], prior: Float[np.ndarray, " cell"]) -> Float[np.ndarray, "cell feature"]:
        return np.column_stack([scaled(looks), PRIOR * prior])

    beside = ~known & (examples.normal if (examples.normal & ~known).any() else True)
    abnormal = examples.verdict == 1
    weight = np.where(known, 1.0, np.where(beside, known.sum() / max(1, beside.sum()), 0.0))
    weight[abnormal] = _trust(scaled(examples.looks[abnormal]), scaled(examples.looks[beside]))
    for kind in (abnormal, ~abnormal):
        weight[kind] *= known.sum() / weight[kind].sum()
    taken = weight > 0
    model = LogisticRegression(C=STRENGTH, max_iter=300)
    model.fit(seen(examples.looks[taken], examples.prior[taken]), abnormal[taken], sample_weight=weight[taken])
    return lambda looks, prior: model.decision_function(seen(looks, prior)).astype(float)


def _trust(judged: Float[np.ndarray, "cell look"], others: Float[np.ndarray, "other look"]) -> Float[np.ndarray, " cell"]:
    r"""How likely each cell that was judged abnormal is no ordinary one: one that was marked by mistake looks like the others.

    $$ w_i = \frac{\rho a t_i^{a-1}}{\rho a t_i^{a-1} + 1 - \rho}, \quad \rho = \frac{1 + \sum_i w_i}{2 + n} $$

    t is the share of the other cells that lie as far from their neighbours as the cell does: any value alike for ordinary
    cells, small values more often for abnormal ones. Where all stand out, all weigh alike.

    Args:
        judged: Scaled looks of cells judged abnormal.
        others: Scaled looks of cells that are taken for normal.
    """
    others = others[:: -(-len(others) // USUAL)]
    if len(others) <= NEAREST:
        return np.ones(len(judged))
    near = NearestNeighbors(n_neighbors=NEAREST, algorithm="brute").fit(others)
    usual, found = near.kneighbors()[0][:, -1], near.kneighbors(judged)[0][:, -1]
    share = (1 + (usual[None] >= found[:, None]).sum(1)) / (len(usual) + 1)
    odd, right = ODD * share ** (ODD - 1), 0.5
    for _ in range(100):
        trust = right * odd / (right * odd + 1 - right)
        right = (1 + trust.sum()) / (2 + len(trust))
    return trust


def measure_gain(examples: Examples, seed: int = 0) -> Gain | None:
    """What the new order gains on judged cells of slides that it did not learn from; None if no slide could be held out.

    Of each part as many cells are looked at as it has abnormal ones, the first by either order. The judged cells were chosen
    by the order before, as a rule: among cells that it put first alike it has little left to say.

    Args:
        examples: As for `learn_corrections`.
        seed: Deals the slides out to parts.
    """
    slides = np.random.default_rng([seed, 11]).permutation(np.unique(examples.slide[examples.judged]))
    parts, found = np.array_split(slides, min(FOLDS, len(slides))), []
    for part in parts:
        out = np.isin(examples.slide, part)
        held, rest = examples.of(out & examples.judged), examples.of(~out)
        abnormal = int(held.verdict.sum())
        if abnormal and {0.0, 1.0} <= set(rest.verdict):
            orders = (held.prior, learn_corrections(rest)(held.looks, held.prior))
            first = [held.verdict[np.argsort(-scores, kind="stable")[:abnormal]].sum() for scores in orders]
            found.append((len(held.verdict), abnormal, *map(int, first), abnormal**2 / len(held.verdict)))
    if not found:
        return None
    judged, abnormal, before, after, chance = (sum(column) for column in zip(*found, strict=True))
    return Gain(int(judged), int(abnormal), int(before), int(after), float(chance))
