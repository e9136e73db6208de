"""Whether one model is better than another on the same patients: the difference, its interval, and how surprising it is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm, rankdata

from milscope.metrics import Bootstrap, Interval, Scores, SlideScores, bounds, resample, weighted_auc
from milscope.types import refuse

DELONG = "DeLong"
BOOTSTRAP = "paired bootstrap"
_ROUNDING = 1e-9
_STREAM = (1 << 20) + 1  # of random numbers: draws of seeds


class Comparison(NamedTuple):
    """Two models by one figure.

    Attributes:
        first: The figure of the first model, the mean over seeds.
        second: Of the second.
        difference: first − second, with its interval.
        p: Of a difference at least as large if there were none, two-sided; NaN if undefined.
        method: `DELONG` or `BOOTSTRAP`.
    """

    first: float
    second: float
    difference: Interval
    p: float
    method: str


class Paired(NamedTuple):
    """Two areas under the curve on the same slides, and the covariance of their estimates."""

    aucs: Float[np.ndarray, " model"]
    covariance: Float[np.ndarray, "model model"]


def compare_auc(
    labels: Bool[np.ndarray, " slide"], first: Float[np.ndarray, "*seed slide"], second: Float[np.ndarray, "*other slide"],
    patients: Sequence[str], bootstrap: Bootstrap | None = None,
) -> Comparison:
    """The difference of two AUCs: by DeLong where every patient has one slide, else by paired bootstrap.

    Args:
        labels: Whether each slide is positive.
        first: Scores of the first model, higher is more suspicious; with several seeds one row each.
        second: Of the second model; its seed number i is paired with the first's.
        patients: The patient of each slide.
        bootstrap: Coverage of the interval, and how patients are drawn where they are.

    Raises:
        InputError: If the models have unlike numbers of seeds.

    Source:
        DeLong, DeLong and Clarke-Pearson, Comparing the areas under two or more correlated receiver operating
        characteristic curves: a nonparametric approach, 1988; see `compare` for the bootstrap.
    """
    models = [[_Ranking(labels, row, patients) for row in np.atleast_2d(scores)] for scores in (first, second)]
    _check(*models)
    exact = _by_delong(*models, (bootstrap or Bootstrap()).confidence)
    return compare(*models, bootstrap)["auc"] if exact is None else exact


def compare(
    first: Sequence[Scores], second: Sequence[Scores], bootstrap: Bootstrap | None = None
) -> dict[str, Comparison]:
    """The differences of all figures of two models on the same slides: AUC by DeLong where it can be, the rest by bootstrap.

    In each draw of patients both models are judged on the same patients. p is twice the share of draws on the far side
    of no difference (draws without any difference count on both sides), so it is below 1 − confidence about where the
    interval leaves out 0; it is never below 2 / (draws + 1).

    Several seeds: the figure is the mean over seeds; the models' seeds are paired, and each draw draws seeds too, with
    replacement, as it draws patients. The interval then tells of other patients and of other seeds; with few seeds it is
    somewhat narrow in the latter (of the seeds' variance the share 1 − 1/seeds).

    Args:
        first: The first model's scores, one for each seed.
        second: The second's, of the same slides in the same order.
        bootstrap: How intervals are made.

    Raises:
        InputError: If the models were not judged on the same slides, or have unlike numbers of seeds.

    Source:
        Efron and Tibshirani, An introduction to the bootstrap, 1993, chapters 13 and 16. Patients and seeds drawn apart:
        Owen, The pigeonhole bootstrap, 2007.
    """
    _check(first, second)
    bootstrap = bootstrap or Bootstrap()
    once = np.ones((1, len(first[0].patients)))
    values = [_by_seed(model, once) for model in (first, second)]
    differences: dict[str, list[Float[np.ndarray, " draw"]]] = {name: [] for name in values[0]}
    random = np.random.default_rng([bootstrap.seed, _STREAM])
    for weights in resample(first[0].patients, first[0].strata, bootstrap):
        drawn = [_by_seed(model, weights) for model in (first, second)]
        seeds = random.multinomial(len(first), np.full(len(first), 1 / len(first)), size=len(weights)).T / len(first)
        for name, parts in differences.items():
            apart = drawn[0][name] - drawn[1][name]
            parts.append((seeds * np.where(seeds > 0, apart, 0.0)).sum(0))
    found = {}
    for name, parts in differences.items():
        one, other = (float(model[name].mean()) for model in values)
        drawn_differences = np.concatenate(parts)
        interval = Interval(one - other, *bounds(drawn_differences, bootstrap.confidence))
        found[name] = Comparison(one, other, interval, _p(drawn_differences), BOOTSTRAP)
    exact = _by_delong(first, second, bootstrap.confidence)
    return found if exact is None else found | {"auc": exact}


def delong(labels: Bool[np.ndarray, " slide"], scores: Float[np.ndarray, "model slide"]) -> Paired:
    r"""AUCs and their covariance from ranks, in time n log n.

    With $\psi$ 1 where a positive slide is above a negative one, 1/2 where equal, else 0:

    $$ V_i = \frac{1}{n}\sum_j \psi(x_i, y_j), \quad W_j = \frac{1}{m}\sum_i \psi(x_i, y_j), \quad
       \mathrm{cov} = \frac{1}{m}\mathrm{cov}(V) + \frac{1}{n}\mathrm{cov}(W) $$

    for m positive and n negative slides. Where a class has one slide only, the covariance is NaN; where it has none, the
    AUC too.

    Args:
        labels: Whether each slide is positive.
        scores: Of each model.

    Source:
        DeLong, DeLong and Clarke-Pearson, 1988, equations 3 to 6. Sun and Xu, Fast implementation of DeLong's algorithm
        for comparing the areas under correlated receiver operating characteristic curves, 2014: V is the midrank among
        all slides less the midrank among positive ones, over n; W alike.
    """
    positive, negative = int(labels.sum()), int((~labels).sum())
    unknown = np.full((len(scores), len(scores)), np.nan)
    if min(positive, negative) == 0:
        return Paired(unknown[0], unknown)
    among_all = rankdata(scores, axis=1)
    above = (among_all[:, labels] - rankdata(scores[:, labels], axis=1)) / negative
    below = 1 - (among_all[:, ~labels] - rankdata(scores[:, ~labels], axis=1)) / positive
    if min(positive, negative) == 1:
        return Paired(above.mean(1), unknown)
    apart = [np.atleast_2d(np.cov(part)) / part.shape[1] for part in (above, below)]
    return Paired(above.mean(1), apart[0] + apart[1])


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of several comparisons, raised so that the chance of any false finding stays what each one says.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source:
        Holm, A simple sequentially rejective multiple test procedure, 1979. NaN stays and does not count.
    """
    values = np.asarray(ps, dtype=float)
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    raised = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return values.tolist()


class _Ranking(NamedTuple):
    """Scores of which only the order is judged."""

    labels: Bool[np.ndarray, " slide"]
    probabilities: Float[np.ndarray, " slide"]
    patients: Sequence[str]

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        return self.labels.astype(int)

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        return {"auc": weighted_auc(self.labels, self.probabilities, weights)}


def _by_delong(first: Sequence[Scores], second: Sequence[Scores], confidence: float) -> Comparison | None:
    """None where patients have several slides, the models several seeds, or the scores no AUC."""
    one, other = first[0], second[0]
    if len(first) > 1 or len(set(one.patients)) < len(one.patients):
        return None
    if not (isinstance(one, SlideScores | _Ranking) and isinstance(other, SlideScores | _Ranking)):
        return None
    aucs, covariance = delong(one.labels, np.stack([one.probabilities, other.probabilities]))
    difference = float(aucs[0] - aucs[1])
    error = float(np.sqrt(np.maximum(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    reach = float(norm.ppf((1 + confidence) / 2)) * error
    interval = Interval(difference, difference - reach, difference + reach)
    return Comparison(float(aucs[0]), float(aucs[1]), interval, _p_of_normal(difference, error), DELONG)


def _p_of_normal(difference: float, error: float) -> float:
    if np.isfinite(error) and error < _ROUNDING:
        return 1.0 if abs(difference) < _ROUNDING else np.nan
    return float(2 * norm.sf(abs(difference) / error))


def _p(differences: Float[np.ndarray, " draw"]) -> float:
    known = differences[np.isfinite(differences)]
    if not len(known):
        return np.nan
    sides = [(1 + np.sum(side * known <= _ROUNDING)) / (len(known) + 1) for side in (1, -1)]
    return float(min(1.0, 2 * min(sides)))


def _by_seed(model: Sequence[Scores], weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, "seed draw"]]:
    drawn = [scores.drawn(weights) for scores in model]
    return {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}


def _check(first: Sequence[Scores], second: Sequence[Scores]) -> None:
    if not first or len(first) != len(second):
        raise refuse("seeds", "as many of the first model as of the second, at least one", f"{len(first)} and {len(second)}",
                     "Train both with the same seeds.")
    for other in (*first[1:], *second):
        if list(other.patients) != list(first[0].patients) or not np.array_equal(other.strata, first[0].strata):
            raise refuse("scores", "of the same slides with the same labels, in the same order", "others",
                         "Predict the same slide table with both models.")
