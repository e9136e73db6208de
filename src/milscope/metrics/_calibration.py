"""Whether probabilities mean what they say: of slides told 0.8, eight in ten should be so."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import expit, logit

from milscope.metrics._bootstrap import Bootstrap, Interval, bounds, group_ends, ratio

_STREAM = 1 << 20  # of random numbers, apart from those that draw patients
_NEAREST = 1e-7  # probabilities closer to 0 or 1 have no usable logit
_STEPS, _STRIDE, _CLOSE, _FARTHEST = 100, 2.0, 1e-9, 40.0


class Reliability(NamedTuple):
    """The mean probability and the share of outcomes in each bin of equal mass, lowest probabilities first."""

    told: Float[np.ndarray, "draw bin"]
    found: Float[np.ndarray, "draw bin"]


def bins_for(rows: int) -> int:
    """The number of bins for so many rows: the cube root, rounded down, at least 1.

    Source:
        Futami and Fujisawa, Information-theoretic generalization analysis for expected calibration error, 2024: the
        bound on the total bias is least at a number of bins of the order of the cube root of the rows.
    """
    return max(1, int(np.cbrt(rows) + 1e-9))


def reliability(
    probabilities: Float[np.ndarray, " row"], outcomes: Shaped[np.ndarray, "outcome row"],
    weights: Float[np.ndarray, "weight row"], bins: int,
) -> Reliability:
    """Told and found in bins of exactly equal mass, for many draws of weights or of outcomes.

    Rows at a border count in both bins, with the share that falls on each side. Rows of equal probability are spread
    evenly, so that their order does not matter.

    Args:
        probabilities: Of the outcome of each row.
        outcomes: 1 where it came about, else 0; one row for all draws, or one a draw.
        weights: How often each row counts; one row for all draws, or one a draw.
        bins: Their number.
    """
    order = np.argsort(probabilities, kind="stable")
    ends = group_ends(probabilities[order])
    heavy = weights[:, order]
    parts = (heavy, heavy * probabilities[order], heavy * outcomes[:, order])
    mass, told, found = (np.cumsum(part, axis=1)[:, ends] for part in parts)
    draws = max(len(mass), len(found))
    told_in, found_in = np.full((draws, bins), np.nan), np.full((draws, bins), np.nan)
    for draw in range(draws):
        reached = np.concatenate([[0.0], mass[draw % len(mass)]])
        if reached[-1] > 0:
            edges = np.linspace(0, reached[-1], bins + 1)
            for into, sums in ((told_in, told[draw % len(told)]), (found_in, found[draw % len(found)])):
                into[draw] = np.diff(np.interp(edges, reached, np.concatenate([[0.0], sums]))) * bins / reached[-1]
    return Reliability(told_in, found_in)


def calibration_error(
    probabilities: Float[np.ndarray, " row"], outcomes: Float[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    r"""The expected calibration error with bins of equal mass: the mean over bins of |told − found|, from 0 to 1.

    $$ ECE = \frac{1}{B} \sum_b |\bar p_b - \bar y_b|, \quad B = \lfloor n^{1/3} \rfloor $$

    It is biased. Upwards, since chance moves found away from told: even true probabilities p show about
    √(2 B p(1 − p) / (π n)), the more the fewer the rows; `error_if_true` says how much. Bootstrap draws repeat rows and add
    this bias a second time, so the interval lies high. Downwards, since within a bin errors of opposite sign cancel.

    Args:
        probabilities: Of the outcome of each row.
        outcomes: 1 where it came about, else 0.
        weights: How often each row counts in each draw.

    Source:
        Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language processing models, 2015
        (equal mass); Roelofs et al., Mitigating bias in calibration error estimation, 2022 (bias).
    """
    bins = reliability(probabilities, outcomes[None], weights, bins_for(len(probabilities)))
    return np.abs(bins.told - bins.found).mean(1)


def error_if_true(probabilities: Float[np.ndarray, " row"], bootstrap: Bootstrap) -> Interval:
    """The calibration error that these probabilities would show if each were true: its mean, and percentiles.

    Outcomes are drawn from the probabilities, each row for itself. An error within these bounds is no sign of bad
    calibration.

    Source:
        Bröcker and Smith, Increasing the reliability of reliability diagrams, 2007 (consistency resampling).
    """
    if not len(probabilities):
        return Interval(np.nan, np.nan, np.nan)
    random = np.random.default_rng([bootstrap.seed, _STREAM])
    errors = []
    size = max(1, 2_000_000 // len(probabilities))
    for start in range(0, bootstrap.draws, size):
        outcomes = random.random((min(size, bootstrap.draws - start), len(probabilities))) < probabilities
        bins = reliability(probabilities, outcomes, np.ones((1, len(probabilities))), bins_for(len(probabilities)))
        errors.append(np.abs(bins.told - bins.found).mean(1))
    drawn = np.concatenate(errors)
    return Interval(float(drawn.mean()), *bounds(drawn, bootstrap.confidence))


def recalibration(
    probabilities: Float[np.ndarray, " row"], labels: Bool[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]:
    r"""The calibration slope and intercept, 1 and 0 where probabilities are true.

    $$ logit\,P(y) = a + b \, logit\,p \;\text{(slope b)}, \qquad logit\,P(y) = a + logit\,p \;\text{(intercept a)} $$

    A slope below 1: probabilities too extreme; an intercept above 0: too low on the whole. Maximum likelihood. The
    slope is NaN where it would be infinite (a threshold separates the classes) or anything (one probability only), the
    intercept where all labels are alike. Probabilities are kept 1e-7 away from 0 and 1.

    Source:
        Cox, Two further applications of a model for binary regression, 1958; Van Calster et al., Calibration: the
        Achilles heel of predictive analytics, 2019 (intercept with the slope fixed at 1).
    """
    told = logit(np.clip(probabilities, _NEAREST, 1 - _NEAREST))
    positive, negative = weights @ labels, weights @ ~labels
    both = (positive > 0) & (negative > 0)
    highest = [np.where(weights * kind > 0, told, -np.inf).max(1, initial=-np.inf) for kind in (labels, ~labels)]
    lowest = [np.where(weights * kind > 0, told, np.inf).min(1, initial=np.inf) for kind in (labels, ~labels)]
    mixed = both & (lowest[0] < highest[1]) & (lowest[1] < highest[0])
    slope, intercept = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    slope[mixed] = _slope(told, labels, weights[mixed])
    intercept[both] = _intercept(told, labels, weights[both])
    return slope, intercept


def _slope(
    told: Float[np.ndarray, " row"], labels: Bool[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    """Newton's method in both parameters for all draws side by side, on standardised logits, with bounded steps."""
    spread = told.std() if len(weights) else 1.0
    x = (told - told.mean()) / spread if len(weights) else told
    start, slope, done = np.zeros(len(weights)), np.zeros(len(weights)), np.zeros(len(weights), dtype=bool)
    stride, last = np.full(len(weights), _STRIDE), np.full(len(weights), np.inf)
    for _ in range(_STEPS):
        share = expit(start[:, None] + slope[:, None] * x)
        off, bend = weights * (labels - share), weights * share * (1 - share)
        gradient, gradient_x = off.sum(1), off @ x
        one, with_x, with_xx = bend.sum(1), bend @ x, bend @ x**2
        determinant = one * with_xx - with_x**2
        step = ratio(with_xx * gradient - with_x * gradient_x, determinant, empty=0.0)
        step_x = ratio(one * gradient_x - with_x * gradient, determinant, empty=0.0)
        left = np.hypot(gradient, gradient_x)
        stride, last = np.where(left > last, stride / 2, 1.5 * stride), left
        shorter = np.minimum(1, ratio(stride, np.hypot(step, step_x), empty=1.0))
        start, slope = start + shorter * step, slope + shorter * step_x
        done = left < _CLOSE * weights.sum(1)
        if done.all():
            break
    return np.where(done, slope / spread, np.nan)


def _intercept(
    told: Float[np.ndarray, " row"], labels: Bool[np.ndarray, " row"], weights: Float[np.ndarray, "draw row"]
) -> Float[np.ndarray, " draw"]:
    """Newton's method between bounds: the expected number of positives grows with the intercept."""
    low, high, middle = (np.full(len(weights), start) for start in (-_FARTHEST, _FARTHEST, 0.0))
    wanted = weights @ labels
    for _ in range(_STEPS):
        share = expit(middle[:, None] + told)
        off, bend = wanted - (weights * share).sum(1), (weights * share * (1 - share)).sum(1)
        low, high = np.where(off > 0, middle, low), np.where(off > 0, high, middle)
        if (np.abs(off) < _CLOSE * weights.sum(1)).all():
            break
        newton = middle + ratio(off, bend, empty=np.inf)
        middle = np.where((low < newton) & (newton < high), newton, (low + high) / 2)
    return middle
