"""Figures over seeds with their intervals: each draw draws seeds, and of each seed slides, alike for all methods."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.stats import norm

from milscope.benchmark._measure import CELL_MEASURES, SLIDE_MEASURES
from milscope.metrics import Bootstrap, Interval, SlideScores, bounds, resample, thresholds, weighted_auc

MEASURES = (*SLIDE_MEASURES, *CELL_MEASURES)
"""All figures that are told over seeds."""
Each = Sequence[Mapping[str, Any]]
"""The test slides of one result, see `measure`."""
_STREAM = (1 << 20) + 3  # of random numbers: draws of seeds
_TINY = 1e-9


def slide_weights(each: Each, bootstrap: Bootstrap, seed: int) -> Float[np.ndarray, "draw slide"]:
    """How often each slide counts: once in the first draw, which is the data themselves, then as it is drawn.

    Positive slides and normal ones are drawn apart, all slides of a patient together.
    """
    patients, labels = [row["patient"] for row in each], np.array([row["label"] for row in each])
    blocks = resample(patients, labels, bootstrap._replace(seed=bootstrap.seed * 100_003 + seed))
    return np.concatenate([np.ones((1, len(each))), *blocks])


def seed_shares(seeds: int, bootstrap: Bootstrap) -> Float[np.ndarray, "seed draw"]:
    """How much each seed counts: alike in the first draw, then as it is drawn."""
    random = np.random.default_rng([bootstrap.seed, _STREAM])
    drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=bootstrap.draws)
    return np.concatenate([np.ones((1, seeds)), drawn]).T / seeds


def drawn_figures(each: Each, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
    """The figures of `MEASURES` of one result in each draw; NaN where undefined."""
    labels = np.array([row["label"] == 1 for row in each])
    said = np.array([row["probability"] for row in each], dtype=float)
    called = np.array([row["called"] == 1 for row in each])
    true, positive, negative = weights @ (labels & called), weights @ labels, weights @ ~labels
    counts = thresholds(SlideScores(labels, said, called, ()), weights)
    precision = _quotient(counts.positive, counts.positive + counts.negative)[:, 1:]
    figures = {
        "auc": weighted_auc(labels, said, weights),
        "average_precision": _quotient((np.diff(counts.positive) * np.nan_to_num(precision)).sum(1), positive),
        "f1": np.where(positive > 0, _quotient(2 * true, positive + weights @ called), np.nan),
        "sensitivity": _quotient(true, positive),
        "specificity": _quotient(weights @ (~labels & ~called), negative),
    }
    for name in CELL_MEASURES:
        figures[name] = drawn_mean(np.array([[row.get(name)] for row in each], dtype=float), weights)[:, 0]
    return figures


def drawn_mean(
    table: Float[np.ndarray, "slide point"], weights: Float[np.ndarray, "draw slide"]
) -> Float[np.ndarray, "draw point"]:
    """The mean over slides in each draw, point by point; NaN entries are left out."""
    defined = np.isfinite(table)
    return _quotient(weights @ np.where(defined, table, 0.0), weights @ defined.astype(float))


def over_seeds(values: Float[np.ndarray, "seed draw"], shares: Float[np.ndarray, "seed draw"]) -> Float[np.ndarray, " draw"]:
    """The mean over the seeds of a draw in which a figure is defined; NaN where there is none."""
    defined = np.isfinite(values)
    return _quotient((np.where(defined, values, 0.0) * shares).sum(0), (defined * shares).sum(0))


def interval(drawn: Float[np.ndarray, " draw"], confidence: float) -> Interval:
    """The figure, which is the first draw, and the percentiles of the others."""
    return Interval(float(drawn[0]), *bounds(drawn[1:], confidence))


def auc_interval(own: Interval, positive: int, negative: int, confidence: float) -> Interval:
    r"""An interval of an AUC made no narrower than the score interval, which has a width even where the AUC is 1.

    The score interval holds all $A$ that the value is not too far from, by the variance that $A$ itself would have:

    $$ |value - A| \le z \sqrt{V(A)}, \quad
       V(A) = \frac{A(1-A)}{mn}\left(1 + (M-1)\frac{1-A}{2-A} + (M-1)\frac{A}{1+A}\right), \quad M = \frac{m+n}{2} $$

    Args:
        own: The AUC and its percentiles.
        positive: Positive slides m, those of all seeds together.
        negative: Normal slides n, the same.
        confidence: Coverage.

    Source:
        Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2, 2006, method 5.
    """
    if not (np.isfinite(own.value) and positive and negative):
        return own
    z, mean = norm.ppf((1 + confidence) / 2), (positive + negative) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + mean * (1 - area) / (2 - area) + mean * area / (1 + area)
        return abs(own.value - area) - z * np.sqrt(area * (1 - area) / (positive * negative) * spread)

    value = float(own.value)
    low = brentq(beyond, 0.0, value - _TINY) if value > 2 * _TINY else 0.0
    high = brentq(beyond, value + _TINY, 1.0) if value < 1 - 2 * _TINY else 1.0
    return Interval(value, float(np.fmin(own.low, low)), float(np.fmax(own.high, high)))


def _quotient(numerator: Float[np.ndarray, "*shape"], denominator: Float[np.ndarray, "*_shape"]) -> Float[np.ndarray, "*shape"]:
    """Elementwise; NaN where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
