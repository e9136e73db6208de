"""Order cells by a classifier that knows normal cells, and cells of which a few are abnormal."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
from milscope.ranking._density import density
from milscope.ranking._seen import Seen

PENALTY = 1.0
"""Half of it times the squared length of the weights is added to the risk."""
STEPS = 60
"""Most steps of L-BFGS."""
RATES = (0.003, 0.5)
"""No rate of abnormal cells is believed outside of these."""
TAIL = 0.3
"""The rate is looked for above thresholds that at most this share of normal cells lies above."""


def pu(seen: Seen) -> Float[np.ndarray, " cell"]:
    """The logit of a classifier that learned without being told which cells of positive slides are abnormal.

    Cells of normal slides are known, those of positive slides unlabelled; how many of them are abnormal is not known either,
    and estimated (`excess`). No slide is scored by a classifier that learned from it.

    Args:
        seen: Cells and slide labels; only features are looked at.

    Raises:
        InputError: If there are no features, or fewer than two normal or positive slides.

    Source:
        Kiryo et al., Positive-unlabeled learning with non-negative risk estimator, 2017, with normal cells as the class that
        is known; see `risk`.
    """
    ratio = density(seen)
    rate = excess(ratio[seen.normal], ratio[seen.positive])
    return cross_fitted(seen, lambda lesson: _learn(lesson, rate), positives=True)


def excess(normal: Float[np.ndarray, " normal"], mixed: Float[np.ndarray, " mixed"]) -> float:
    r"""The share of abnormal cells among mixed ones, as far as they show above normal ones.

    $$ \pi \approx \max_t \frac{P_u(s > t) - P_n(s > t) - \epsilon(t)}{1 - P_n(s > t)} $$

    over thresholds in the upper tail, with ε one standard error of the difference: chance alone makes no abnormal cells.

    Args:
        normal: Scores of cells that are normal.
        mixed: Scores of cells of which some are abnormal.

    Source:
        Blanchard, Lee, Scott, Semi-supervised novelty detection, 2010, section 4, with one standard error as the slack.
    """
    thresholds = np.quantile(normal, 1 - np.geomspace(1 / max(2, len(normal)), TAIL, 50))
    above = [1 - np.searchsorted(np.sort(each), thresholds, side="right") / len(each) for each in (normal, mixed)]
    error = np.sqrt(sum(share * (1 - share) / len(each) for share, each in zip(above, (normal, mixed), strict=True)))
    return float(np.clip(((above[1] - above[0] - error) / (1 - above[0])).max(), *RATES))


def risk(logits: Float[Tensor, " row"], normal: Bool[Tensor, " row"], rate: float) -> Float[Tensor, ""]:
    r"""The non-negative risk of a classifier, abnormal and normal cells counting alike.

    $$ R = \tfrac12 R_n^- + \tfrac{1}{2\pi} \max\big(0,\; R_u^+ - (1 - \pi) R_n^+\big) $$

    R⁺ and R⁻ are the mean logistic losses when all cells are called abnormal or all normal, of normal slides (n) and of
    positive ones (u). What the maximum is taken of is π times the loss of the abnormal cells, which cannot be below 0.

    Args:
        logits: For abnormal.
        normal: Whether a cell lies on a normal slide.
        rate: π, share of abnormal cells on the others.

    Source:
        Kiryo et al., 2017, equation 6; the equal weights are those of Su et al., Positive-unlabeled learning from imbalanced
        data, 2021, section 3.
    """
    called_abnormal, called_normal = functional.softplus(-logits), functional.softplus(logits)
    abnormal = called_abnormal[~normal].mean() - (1 - rate) * called_abnormal[normal].mean()
    return 0.5 * called_normal[normal].mean() + 0.5 / rate * abnormal.clamp_min(0)


def _learn(lesson: Lesson, rate: float) -> Scorer:
    """The linear classifier of least risk; all cells at every step, so that nothing depends on an order."""
    cells, normal = torch.from_numpy(lesson.features.astype(np.float32)), torch.from_numpy(lesson.normal)
    weights = torch.zeros(cells.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = risk(cells @ weights[1:] + weights[0], normal, rate) + PENALTY / 2 * weights[1:].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = weights.detach().numpy()
    return lambda features: (features @ found[1:] + found[0]).astype(float)
