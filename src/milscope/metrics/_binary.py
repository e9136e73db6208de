"""How well a yes or no is told of slides."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import metrics as sklearn

from milscope.metrics._bootstrap import Bootstrap, Interval, group_ends, intervals, ratio
from milscope.metrics._calibration import calibration_error, error_if_true, recalibration

SLIDE_METRICS = (
    "auc", "average_precision", "f1", "sensitivity", "specificity", "balanced_accuracy", "brier",
    "sensitivity_at_specificity", "specificity_at_sensitivity",
    "calibration_error", "calibration_slope", "calibration_intercept",
)
"""The slide figures, in the order in which they are told."""

_ROUNDING = 1e-9


class Levels(NamedTuple):
    """The specificity at which the sensitivity is told, and the sensitivity at which the specificity is."""

    specificity: float = 0.9
    sensitivity: float = 0.95


class SlideScores(NamedTuple):
    """What is known and what was said of each slide."""

    labels: Bool[np.ndarray, " slide"]
    probabilities: Float[np.ndarray, " slide"]
    called: Bool[np.ndarray, " slide"]
    patients: Sequence[str]
    at: Levels = Levels()

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """1 for positive slides, 0 for negative ones."""
        return self.labels.astype(int)

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The figures of many draws at once."""
        return weighted_slide_metrics(self, weights)


class Thresholds(NamedTuple):
    """Positive and negative slides at or above each distinct probability, highest first; a first entry of none."""

    positive: Float[np.ndarray, "draw threshold"]
    negative: Float[np.ndarray, "draw threshold"]


def slide_metrics(scores: SlideScores, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    """The figures of `SLIDE_METRICS` with their intervals, and `calibration_error_if_true`.

    Slides of equal probability count half in the AUC and are one threshold in the average precision. F1 is 0 where
    no slide is called. The sensitivity at a specificity is the best of all thresholds that reach the specificity on
    these very slides, and the reverse; it is that of no threshold fixed beforehand. A figure that needs a class
    which no slide has is NaN; draws in which a figure is undefined are left out of its interval. At its limit (an AUC
    of 1) the interval has no width: it cannot show what these patients do not contain. What the calibration figures
    mean is said in `calibration_error` and `recalibration`.

    Args:
        scores: Labels, probabilities, calls and patients of the slides.
        bootstrap: How intervals are made.

    Source:
        Values: scikit-learn. Intervals: Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13,
        with the patient as unit.
    """
    bootstrap = bootstrap or Bootstrap()
    figures = intervals(scores, bootstrap, _slide_values(scores))
    return figures | {"calibration_error_if_true": error_if_true(scores.probabilities, bootstrap)}


def weighted_slide_metrics(
    scores: SlideScores, weights: Float[np.ndarray, "draw slide"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """The slide figures of many draws at once, each slide counting as often as its weight in the draw says."""
    labels, probabilities, called = scores[:3]
    true_positive, positive = weights @ (labels & called), weights @ labels
    true_negative, negative = weights @ (~labels & ~called), weights @ ~labels
    counts = thresholds(scores, weights)
    hits, misses = counts.positive, counts.negative
    precision = ratio(hits, hits + misses, empty=0.0)
    sensitivity, specificity = ratio(true_positive, positive), ratio(true_negative, negative)
    slope, intercept = recalibration(probabilities, labels, weights)
    return {
        "auc": _area(counts),
        "average_precision": ratio((np.diff(hits) * precision[:, 1:]).sum(1), positive),
        "f1": np.where(positive > 0, ratio(2 * true_positive, positive + weights @ called), np.nan),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "brier": ratio(weights @ (probabilities - labels) ** 2, weights.sum(1)),
        **_at_levels(counts, scores.at),
        "calibration_error": calibration_error(probabilities, labels.astype(float), weights),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def thresholds(scores: SlideScores, weights: Float[np.ndarray, "draw slide"]) -> Thresholds:
    """How many positive and negative slides reach each distinct probability, in each draw."""
    order = np.argsort(-scores.probabilities, kind="stable")
    ends = group_ends(scores.probabilities[order])
    sorted_weights, positive = weights[:, order], scores.labels[order]
    none = np.zeros((len(weights), 1))
    counts = [np.cumsum(sorted_weights * kind, axis=1)[:, ends] for kind in (positive, ~positive)]
    return Thresholds(*(np.concatenate([none, count], axis=1) for count in counts))


def weighted_auc(
    labels: Bool[np.ndarray, " row"], values: Float[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    """The AUC of many draws at once; higher values are for positive rows."""
    return _area(thresholds(SlideScores(labels, values, labels, ()), weights))


def _area(counts: Thresholds) -> Float[np.ndarray, " draw"]:
    hits, misses = counts
    area = (np.diff(misses) * (hits[:, 1:] + hits[:, :-1])).sum(1) / 2
    return ratio(area, hits[:, -1] * misses[:, -1])


def _at_levels(counts: Thresholds, at: Levels) -> dict[str, Float[np.ndarray, " draw"]]:
    """The last threshold with few enough false positives, and the first with enough true ones."""
    positive, negative = counts.positive[:, -1], counts.negative[:, -1]
    draws = np.arange(len(positive))
    allowed = negative * (1 - at.specificity) + _ROUNDING
    last = (counts.negative <= allowed[:, None]).sum(1) - 1
    wanted = positive * at.sensitivity - _ROUNDING
    first = (counts.positive >= wanted[:, None]).argmax(1)
    both = np.where((positive > 0) & (negative > 0), 1.0, np.nan)
    return {
        "sensitivity_at_specificity": both * ratio(counts.positive[draws, last], positive),
        "specificity_at_sensitivity": both * (1 - ratio(counts.negative[draws, first], negative)),
    }


def _slide_values(scores: SlideScores) -> dict[str, float]:
    labels, probabilities, called = scores[:3]
    positive, negative = bool(labels.any()), not labels.all()
    both = positive and negative
    recall = {kind: np.mean(called[labels == kind] == kind) for kind in (True, False) if (labels == kind).any()}
    own = scores.drawn(np.ones((1, len(labels))))
    values = {name: value[0] for name, value in own.items()} | {
        "auc": sklearn.roc_auc_score(labels, probabilities) if both else np.nan,
        "average_precision": sklearn.average_precision_score(labels, probabilities) if positive else np.nan,
        "f1": sklearn.f1_score(labels, called) if positive else np.nan,
        "sensitivity": recall.get(True, np.nan),
        "specificity": recall.get(False, np.nan),
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, called) if both else np.nan,
        "brier": np.mean((probabilities - labels) ** 2) if len(labels) else np.nan,
    }
    return {name: float(values[name]) for name in SLIDE_METRICS}
