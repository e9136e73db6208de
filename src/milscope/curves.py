"""The curves of an evaluation as plain values: what a page draws, with bootstrap bands."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn import metrics as sklearn

from milscope.metrics import (
    Bootstrap,
    SlideScores,
    Thresholds,
    bins_for,
    bounds,
    mean_curve,
    reliability,
    resample,
    thresholds,
)

GRID = np.linspace(0, 1, 101)
"""Where the bands of the slide curves are told: false positive rates, recalls."""
BINS = 20


def slide_curves(scores: SlideScores, bootstrap: Bootstrap) -> dict[str, Any]:
    """Receiver operating and precision-recall points and calibration with bands, confusion, histogram of probabilities.

    With one class only, the two curves are None: they do not exist.
    """
    labels, probabilities, called = scores[:3]
    both = 0 < labels.sum() < len(labels)
    edges = np.linspace(0, 1, BINS + 1)
    histogram = {
        name: np.histogram(probabilities[labels == kind], edges)[0].tolist()
        for name, kind in (("positive", True), ("negative", False))
    }
    return {
        "roc": _roc(scores, bootstrap) if both else None,
        "precision_recall": _precision_recall(scores, bootstrap) if both else None,
        "confusion": {
            "true_positive": int((labels & called).sum()), "false_negative": int((labels & ~called).sum()),
            "false_positive": int((~labels & called).sum()), "true_negative": int((~labels & ~called).sum()),
        },
        "histogram": {"edges": edges.tolist(), **histogram},
        "calibration": _calibration(scores, bootstrap),
    }


def depth_curve(
    reached: Float[np.ndarray, "slide depth"], patients: Sequence[str], bootstrap: Bootstrap
) -> dict[str, list[float]]:
    """The mean over slides of a figure told for k = 1, 2, …, with its band."""
    mean, low, high = mean_curve(reached, patients, bootstrap)
    depths = np.arange(1, reached.shape[1] + 1)
    return {"k": depths.tolist(), "value": mean.tolist(), "low": low.tolist(), "high": high.tolist()}


def _roc(scores: SlideScores, bootstrap: Bootstrap) -> dict[str, Any]:
    false_positive, sensitivity, threshold = sklearn.roc_curve(scores.labels, scores.probabilities)
    return {
        "false_positive_rate": false_positive.tolist(), "sensitivity": sensitivity.tolist(),
        "threshold": threshold.tolist(),
        "band": {"false_positive_rate": GRID.tolist(), **_band(scores, bootstrap, _sensitivity_at)},
    }


def _precision_recall(scores: SlideScores, bootstrap: Bootstrap) -> dict[str, Any]:
    precision, recall, threshold = sklearn.precision_recall_curve(scores.labels, scores.probabilities)
    return {
        "recall": recall[::-1].tolist(), "precision": precision[::-1].tolist(), "threshold": threshold[::-1].tolist(),
        "prevalence": float(scores.labels.mean()),
        "band": {"recall": GRID[1:].tolist(), **_band(scores, bootstrap, _precision_at)},
    }


def _calibration(scores: SlideScores, bootstrap: Bootstrap) -> dict[str, Any]:
    """Mean probability and share of positive slides in bins of equal mass; the band is of the share, bin by bin."""
    labels, probabilities, bins = scores.labels[None].astype(float), scores.probabilities, bins_for(len(scores.labels))
    told, found = reliability(probabilities, labels, np.ones((1, len(probabilities))), bins)
    blocks = resample(scores.patients, scores.labels, bootstrap)
    drawn = np.concatenate([reliability(probabilities, labels, weights, bins).found for weights in blocks])
    limits = [bounds(column, bootstrap.confidence) for column in drawn.T]
    return {"probability": told[0].tolist(), "share": found[0].tolist(), "low": [low for low, _ in limits],
            "high": [high for _, high in limits]}


def _band(
    scores: SlideScores, bootstrap: Bootstrap, curve: Callable[[Thresholds], Float[np.ndarray, "draw point"]]
) -> dict[str, list[float]]:
    blocks = resample(scores.patients, scores.labels, bootstrap)
    drawn = np.concatenate([curve(thresholds(scores, weights)) for weights in blocks])
    limits = [bounds(column, bootstrap.confidence) for column in drawn.T]
    return {"low": [low for low, _ in limits], "high": [high for _, high in limits]}


def _sensitivity_at(counts: Thresholds) -> Float[np.ndarray, "draw point"]:
    """The sensitivity at each false positive rate of the grid; the upper end where the curve rises straight."""
    with np.errstate(invalid="ignore"):  # a draw without one class: NaN, left out by `bounds`
        rates = [count / count[:, -1:] for count in (counts.negative, counts.positive)]
    return np.array([np.interp(GRID, *draw) for draw in zip(*rates, strict=True)])


def _precision_at(counts: Thresholds) -> Float[np.ndarray, "draw point"]:
    """The precision at the highest threshold that reaches each recall of the grid."""
    wanted = GRID[1:] - 1e-9  # a recall reached but for rounding
    rows = np.full((len(counts.positive), len(wanted)), np.nan)
    for row, positive, negative in zip(rows, *counts, strict=True):
        if positive[-1]:
            first = np.searchsorted(positive / positive[-1], wanted)
            row[:] = positive[first] / (positive[first] + negative[first])
    return rows
