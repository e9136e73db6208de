"""How well one of several classes is told of slides, in any order or with one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn import metrics as sklearn

from milscope.metrics._binary import weighted_auc
from milscope.metrics._bootstrap import Bootstrap, Interval, intervals, mean_of_defined, ratio
from milscope.metrics._calibration import calibration_error, error_if_true

CLASS_METRICS = ("accuracy", "balanced_accuracy", "macro_auc", "macro_f1", "brier", "calibration_error")
"""The figures of several classes."""
ORDINAL_METRICS = ("quadratic_kappa", "mean_absolute_error")
"""Those that need the classes to have an order."""


class ClassScores(NamedTuple):
    """What is known and what was said of each slide; `ordered`: the classes are steps, lowest first."""

    labels: Int[np.ndarray, " slide"]
    probabilities: Float[np.ndarray, "slide class"]
    predicted: Int[np.ndarray, " slide"]
    patients: Sequence[str]
    ordered: bool = False

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """The class of each slide."""
        return self.labels

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The figures of many draws at once."""
        return weighted_class_metrics(self, weights)


def class_metrics(scores: ClassScores, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    """The figures of `CLASS_METRICS`, with an order those of `ORDINAL_METRICS`, and `calibration_error_if_true`.

    Balanced accuracy and macro AUC (each class against the rest) are means over the classes that slides have, macro F1
    over those that slides have or are told to have. The Brier score is the sum over classes, from 0 to 2. The
    calibration error is that of the probability of the predicted class. The absolute error is in steps.

    Args:
        scores: Classes, probabilities, predictions and patients of the slides.
        bootstrap: How intervals are made; patients of different classes are drawn apart.

    Source:
        Values: scikit-learn. Kappa: Cohen, Weighted kappa, 1968, with squared weights. Brier, Verification of
        forecasts expressed in terms of probability, 1950.
    """
    bootstrap = bootstrap or Bootstrap()
    confidence = scores.probabilities[np.arange(len(scores.labels)), scores.predicted]
    figures = intervals(scores, bootstrap, _values(scores))
    return figures | {"calibration_error_if_true": error_if_true(confidence, bootstrap)}


def weighted_class_metrics(
    scores: ClassScores, weights: Float[np.ndarray, "draw slide"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """The class figures of many draws at once, each slide counting as often as its weight in the draw says."""
    table = confusion(scores, weights)
    right, truly, told = np.diagonal(table, axis1=1, axis2=2), table.sum(2), table.sum(1)
    total = weights.sum(1)
    slides = np.arange(len(scores.labels))
    known = np.eye(scores.probabilities.shape[1])[scores.labels]
    confidence = scores.probabilities[slides, scores.predicted]
    figures = {
        "accuracy": ratio(right.sum(1), total),
        "balanced_accuracy": mean_of_defined(ratio(right, truly)),
        "macro_auc": mean_of_defined(_aucs(scores, weights)),
        "macro_f1": mean_of_defined(ratio(2 * right, truly + told)),
        "brier": ratio(weights @ ((scores.probabilities - known) ** 2).sum(1), total),
        "calibration_error": calibration_error(confidence, (scores.labels == scores.predicted).astype(float), weights),
    }
    return figures | _ordinal(table) if scores.ordered else figures


def confusion(scores: ClassScores, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, "draw class class"]:
    """How many slides of each class (rows) are told to be of each (columns), in each draw."""
    classes = scores.probabilities.shape[1]
    cells = np.eye(classes * classes)[scores.labels * classes + scores.predicted]
    return (weights @ cells).reshape(len(weights), classes, classes)


def _aucs(scores: ClassScores, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, "draw class"]:
    aucs = [weighted_auc(scores.labels == place, told, weights) for place, told in enumerate(scores.probabilities.T)]
    return np.stack(aucs, axis=1)


def _ordinal(table: Float[np.ndarray, "draw class class"]) -> dict[str, Float[np.ndarray, " draw"]]:
    places = np.arange(table.shape[1])
    apart = np.abs(places[:, None] - places)
    truly, told, total = table.sum(2), table.sum(1), table.sum((1, 2))
    squares = (table * apart**2).sum((1, 2))
    by_chance = ratio(np.einsum("dt,tp,dp->d", truly, (apart**2).astype(float), told), total)
    return {
        "quadratic_kappa": 1 - ratio(squares, by_chance),
        "mean_absolute_error": ratio((table * apart).sum((1, 2)), total),
    }


def _values(scores: ClassScores) -> dict[str, float]:
    labels, probabilities, predicted = scores[:3]
    own = scores.drawn(np.ones((1, len(labels))))
    values = {name: float(value[0]) for name, value in own.items()}
    if not len(labels):
        return values
    present = [number for number in range(probabilities.shape[1]) if 0 < (labels == number).sum() < len(labels)]
    aucs = [float(sklearn.roc_auc_score(labels == number, probabilities[:, number])) for number in present]
    return values | {
        "accuracy": float(sklearn.accuracy_score(labels, predicted)),
        "macro_auc": float(np.mean(aucs)) if aucs else np.nan,
        "macro_f1": float(sklearn.f1_score(labels, predicted, average="macro")),
    }
