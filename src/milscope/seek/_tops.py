"""How likely a slide is positive, by the scores of its highest cells."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.special import expit, softmax
from scipy.stats import mannwhitneyu

CELLS = (1, 2, 4, 8, 16, 32)
"""How many of the highest cells are averaged."""
SHARES = (0.01, 0.03, 0.1)
"""The same as shares of the slide's cells."""
FOLDS = 10
"""Most parts of the patients that take turns."""
STEEP = 3.0
"""Slopes, in logits per deviation between slides, are held to be of this size."""
FLAT = 0.01
"""The least slope: a higher score never speaks for a normal slide, and slides keep their order."""


class Tops(NamedTuple):
    """What was made of the slides' highest cells.

    Attributes:
        logits: Of each slide to be positive.
        auc: Of the slides to learn from, each by a fit without its patient.
        chance: How probable such an AUC is if the scores tell nothing.
        weights: How much each number or share of cells counts.
    """

    logits: Float[np.ndarray, " slide"]
    auc: float
    chance: float
    weights: dict[str, float]


def by_tops(scores: Sequence[np.ndarray], label: Float[np.ndarray, " slide"], patients: Sequence[str], seed: int) -> Tops:
    r"""The logit of each slide: of logistic regressions on the means of its k highest cells, for several k, the weighted mean.

    $$ y = \sum_k w_k (a_k m_k + b_k), \quad a_k \ge 0, \qquad w_k \propto \exp\Big(\sum_i \log p_k(y_i)\Big) $$

    with the probabilities that fits without a slide's patient give to its label: how many cells show a positive slide depends
    on how many are abnormal, which nobody knows. Both classes count alike, so that the probability is that of a cohort with as
    many positive slides as normal ones.

    Args:
        scores: Of each slide's cells; those of slides to learn from by rankings that did not learn from them.
        label: 1, 0, or NaN for slides that are not learned from.
        patients: Whose slide it is.
        seed: Of the parts.

    Source:
        Platt, Probabilistic outputs for support vector machines, 1999, with a normal prior of the slope in place of changed
        targets. Weights: Yao et al., Using stacking to average Bayesian predictive distributions, 2018, section 2 (pseudo-BMA).
    """
    known = ~np.isnan(label)
    means = np.stack([_means(each) for each in scores])
    centre, spread = means[known].mean(0), means[known].std(0)
    means = (means - centre) / np.where(spread > 0, spread, 1.0)
    own, wanted = means[known], label[known]
    held = np.empty_like(own)
    part = _parts([patient for patient, each in zip(patients, known, strict=True) if each], seed)
    for number in range(part.max() + 1):
        out = part == number
        for place in range(own.shape[1]):
            slope, level = _fit(own[~out, place], wanted[~out])
            held[out, place] = slope * own[out, place] + level
    weights = softmax(np.where(wanted[:, None] == 1, -np.logaddexp(0, -held), -np.logaddexp(0, held)).sum(0))
    fits = np.array([_fit(own[:, place], wanted) for place in range(own.shape[1])])
    apart = mannwhitneyu(held[wanted == 1] @ weights, held[wanted == 0] @ weights, alternative="greater")
    auc = float(apart.statistic / ((wanted == 1).sum() * (wanted == 0).sum()))
    names = [*(f"{count} cells" for count in CELLS), *(f"{share:g} of the cells" for share in SHARES)]
    return Tops((means * fits[:, 0] + fits[:, 1]) @ weights, auc, float(apart.pvalue),
                {name: round(float(weight), 4) for name, weight in zip(names, weights, strict=True)})


def _means(scores: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " depth"]:
    """The means of the highest cells; a slide that has fewer gives all."""
    sums = np.cumsum(np.sort(scores)[::-1])
    counts = np.array([*CELLS, *(round(share * len(scores)) for share in SHARES)]).clip(1, len(scores))
    return sums[counts - 1] / counts


def _parts(patients: Sequence[str], seed: int) -> Int[np.ndarray, " slide"]:
    """The part of each slide; all slides of a patient are in one."""
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    parts = np.random.default_rng([seed, 11]).permutation(len(names)) % min(FOLDS, len(names))
    return parts[owner]


def _fit(given: Float[np.ndarray, " slide"], wanted: Float[np.ndarray, " slide"]) -> tuple[float, float]:
    """Slope and level of the likeliest logistic regression, both classes counting alike."""
    counts = np.array([(wanted == 0).sum(), (wanted == 1).sum()]).clip(1)
    weight = len(wanted) / (2 * counts[wanted.astype(int)])

    def loss(found: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        logits = found[0] * given + found[1]
        wrong = weight * (expit(logits) - wanted)
        prior = np.array([found[0], found[1]]) / STEEP**2
        return float((weight * (np.logaddexp(0, logits) - wanted * logits)).sum() + found @ prior / 2), np.array(
            [wrong @ given, wrong.sum()]) + prior

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(FLAT, None), (None, None)]).x
    return float(found[0]), float(found[1])
