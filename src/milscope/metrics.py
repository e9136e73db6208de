"""How good slide scores and rankings of cells are, with intervals by bootstrap over patients."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from sklearn import metrics as sklearn

DEPTHS = (10, 20, 50, 100, 400)
"""How many top cells of a slide are looked at when recall and precision are told."""
SLIDE_METRICS = ("auc", "average_precision", "f1", "sensitivity", "specificity", "balanced_accuracy", "brier")
"""The slide figures, in the order in which they are told."""

_BLOCK = 2_000_000  # numbers in one array of the bootstrap: keeps each under 16 MB


class Interval(NamedTuple):
    """A figure and the bounds between which it would mostly fall with other patients; NaN where undefined."""

    value: float
    low: float
    high: float


class Bootstrap(NamedTuple):
    """How intervals are made: the draws of patients, the coverage of the interval, the seed."""

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0


class SlideScores(NamedTuple):
    """What is known and what was said of each slide."""

    labels: Bool[np.ndarray, " slide"]
    probabilities: Float[np.ndarray, " slide"]
    called: Bool[np.ndarray, " slide"]
    patients: Sequence[str]


class Thresholds(NamedTuple):
    """Positive and negative slides at or above each distinct probability, highest first; a first entry of none."""

    positive: Float[np.ndarray, "draw threshold"]
    negative: Float[np.ndarray, "draw threshold"]


def slide_metrics(scores: SlideScores, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    """The figures of `SLIDE_METRICS`, each with its interval: percentiles of the draws.

    Slides of equal probability count half in the AUC and are one threshold in the average precision. F1 is 0 where
    no slide is called. A figure that needs a class which no slide has is NaN; draws in which a figure is undefined
    are left out of its interval. At its limit (an AUC of 1) the interval has no width: it cannot show what these
    patients do not contain.

    Args:
        scores: Labels, probabilities, calls and patients of the slides.
        bootstrap: How intervals are made.

    Source:
        Values: scikit-learn. Intervals: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13,
        with the patient as unit.
    """
    bootstrap = bootstrap or Bootstrap()
    drawn = [weighted_slide_metrics(scores, weights) for weights in resample(scores.patients, scores.labels, bootstrap)]
    return {
        name: Interval(value, *bounds(np.concatenate([block[name] for block in drawn]), bootstrap.confidence))
        for name, value in _slide_values(scores).items()
    }


def weighted_slide_metrics(
    scores: SlideScores, weights: Float[np.ndarray, "draw slide"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """The slide figures of many draws at once, each slide counting as often as its weight in the draw says."""
    labels, called = scores.labels, scores.called
    true_positive, positive = weights @ (labels & called), weights @ labels
    true_negative, negative = weights @ (~labels & ~called), weights @ ~labels
    counts = thresholds(scores, weights)
    hits, misses = counts.positive, counts.negative
    precision = _ratio(hits, hits + misses, empty=0.0)
    area = (np.diff(misses) * (hits[:, 1:] + hits[:, :-1])).sum(1) / 2
    sensitivity, specificity = _ratio(true_positive, positive), _ratio(true_negative, negative)
    return {
        "auc": _ratio(area, positive * negative),
        "average_precision": _ratio((np.diff(hits) * precision[:, 1:]).sum(1), positive),
        "f1": np.where(positive > 0, _ratio(2 * true_positive, positive + weights @ called), np.nan),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "brier": _ratio(weights @ (scores.probabilities - labels) ** 2, weights.sum(1)),
    }


def thresholds(scores: SlideScores, weights: Float[np.ndarray, "draw slide"]) -> Thresholds:
    """How many positive and negative slides reach each distinct probability, in each draw."""
    order = np.argsort(-scores.probabilities, kind="stable")
    ends = _group_ends(scores.probabilities[order])
    sorted_weights, positive = weights[:, order], scores.labels[order]
    none = np.zeros((len(weights), 1))
    counts = [np.cumsum(sorted_weights * kind, axis=1)[:, ends] for kind in (positive, ~positive)]
    return Thresholds(*(np.concatenate([none, count], axis=1) for count in counts))


def cell_metrics(
    scores: Float[np.ndarray, " cell"], witness: Bool[np.ndarray, " cell"], depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    r"""How well one slide's cells are ordered: the witnesses should come first.

    $$ recall@k = E[found(k)] / W, \quad precision@k = E[found(k)] / \min(k, n), \quad
       enrichment@k = precision@k / (W / n) $$

    found(k) is the number of witnesses among the min(k, n) best cells; W the witnesses, n the cells of the slide.
    Where cells of equal score straddle the cut, its expectation over a random order among them is taken, in closed
    form; equal scores count half in the AUC and are one threshold in the average precision. `recall_at_witnesses` is
    taken at k = W, where it equals the precision. Without a witness only the precision is defined (0); the AUC also
    needs a normal cell. What is undefined is NaN.

    Args:
        scores: Higher is more suspicious.
        witness: Whether each cell is one.
        depths: The k of recall, precision and enrichment.
    """
    cells, witnesses = len(scores), int(witness.sum())
    hits = found(scores, witness, np.array([*depths, witnesses]))
    both = 0 < witnesses < cells
    values = {
        "auc": float(sklearn.roc_auc_score(witness, scores)) if both else np.nan,
        "average_precision": float(sklearn.average_precision_score(witness, scores)) if witnesses else np.nan,
    }
    for depth, hit in zip(depths, hits, strict=False):
        precision = hit / min(depth, cells) if cells else np.nan
        values[f"recall_at_{depth}"] = hit / witnesses if witnesses else np.nan
        values[f"precision_at_{depth}"] = precision
        values[f"enrichment_at_{depth}"] = precision * cells / witnesses if witnesses else np.nan
    values["recall_at_witnesses"] = hits[-1] / witnesses if witnesses else np.nan
    return {name: float(value) for name, value in values.items()}


def found(
    scores: Float[np.ndarray, " cell"], witness: Bool[np.ndarray, " cell"], depths: Shaped[np.ndarray, " depth"]
) -> Float[np.ndarray, " depth"]:
    """The expected number of witnesses among the best `depths` cells, over random orders among equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = _group_ends(scores[order])
    reached = np.cumsum(witness[order], dtype=float)[ends]
    return np.interp(depths, np.concatenate([[0], ends + 1]), np.concatenate([[0.0], reached]))


def mean_over_slides(
    values: Mapping[str, Float[np.ndarray, " slide"]], patients: Sequence[str], bootstrap: Bootstrap | None = None
) -> dict[str, Interval]:
    """The mean of per-slide figures over the slides for which each is defined, with its interval over patients."""
    bootstrap = bootstrap or Bootstrap()
    table = np.stack([np.asarray(column, dtype=float) for column in values.values()], axis=1)
    means, low, high = mean_curve(table, patients, bootstrap)
    return {name: Interval(*map(float, row)) for name, *row in zip(values, means, low, high, strict=True)}


def mean_curve(
    table: Float[np.ndarray, "slide point"], patients: Sequence[str], bootstrap: Bootstrap
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Means over slides, and the lower and upper bounds of each, point by point; NaN entries are left out."""
    defined = np.isfinite(table)
    filled = np.where(defined, table, 0.0)
    blocks = resample(patients, np.ones(len(table), dtype=bool), bootstrap)
    drawn = np.concatenate([_ratio(weights @ filled, weights @ defined) for weights in blocks])
    low, high = np.array([bounds(column, bootstrap.confidence) for column in drawn.T]).T
    return _ratio(filled.sum(0), defined.sum(0).astype(float)), low, high


def resample(
    patients: Sequence[str], positive: Bool[np.ndarray, " row"], bootstrap: Bootstrap
) -> Iterator[Float[np.ndarray, "draw row"]]:
    """How often each row counts in each draw, in blocks of draws that are small in memory.

    Patients are drawn with replacement, as many as there are: positive ones (any of their rows is positive) and
    negative ones apart, so that each draw has both. All rows of a drawn patient come along each time.

    Args:
        patients: The patient of each row.
        positive: Whether each row is positive.
        bootstrap: Draws and seed.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    kinds = np.zeros(len(names), dtype=bool)
    np.logical_or.at(kinds, owner, positive)
    strata = [np.flatnonzero(kinds == kind) for kind in (False, True)]
    generators = [np.random.default_rng([bootstrap.seed, stratum]) for stratum in range(len(strata))]
    size = max(1, _BLOCK // max(1, len(owner)))
    for start in range(0, bootstrap.draws, size):
        counts = np.zeros((min(size, bootstrap.draws - start), len(names)))
        for members, generator in zip(strata, generators, strict=True):
            if len(members):
                shares = np.full(len(members), 1 / len(members))
                counts[:, members] = generator.multinomial(len(members), shares, size=len(counts))
        yield counts[:, owner]


def bounds(drawn: Float[np.ndarray, " draw"], confidence: float) -> tuple[float, float]:
    """The percentiles between which `confidence` of the defined draws lie; NaN if none is defined."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _slide_values(scores: SlideScores) -> dict[str, float]:
    labels, probabilities, called, _ = scores
    positive, negative = bool(labels.any()), not labels.all()
    both = positive and negative
    recall = {kind: np.mean(called[labels == kind] == kind) for kind in (True, False) if (labels == kind).any()}
    values = {
        "auc": sklearn.roc_auc_score(labels, probabilities) if both else np.nan,
        "average_precision": sklearn.average_precision_score(labels, probabilities) if positive else np.nan,
        "f1": sklearn.f1_score(labels, called) if positive else np.nan,
        "sensitivity": recall.get(True, np.nan),
        "specificity": recall.get(False, np.nan),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, called) if both else np.nan,
        "brier": np.mean((probabilities - labels) ** 2) if len(labels) else np.nan,
    }
    return {name: float(values[name]) for name in SLIDE_METRICS}


def _group_ends(descending: Float[np.ndarray, " row"]) -> Int[np.ndarray, " group"]:
    """The last place of each run of equal scores."""
    last = np.arange(len(descending)) == len(descending) - 1
    last[:-1] |= descending[1:] != descending[:-1]
    return np.flatnonzero(last)


def _ratio(
    numerator: Float[np.ndarray, "*shape"], denominator: Shaped[np.ndarray, "*shape"], *, empty: float = np.nan
) -> Float[np.ndarray, "*shape"]:
    """Elementwise quotient; `empty` where the denominator is zero."""
    quotient = np.full(np.shape(numerator), empty)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)
