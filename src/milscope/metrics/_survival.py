"""How well the time to an event is told: the order of risks, and probabilities to be without the event."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.integrate import trapezoid

from milscope.metrics._bootstrap import Bootstrap, Interval, group_ends, intervals, ratio

_PAIRS = 4_000_000  # pairs of slides looked at together: 32 MB


class SurvivalScores(NamedTuple):
    """What is known and what was said of each slide.

    Attributes:
        times: Until the event, or until the slide's patient was last known to be without it; any unit.
        events: Whether the event was seen.
        risks: Higher is earlier.
        patients: Of each slide.
        grid: The times for which `survival` is told, increasing, in the unit of `times`.
        survival: The probability to be without the event at each of them.
    """

    times: Float[np.ndarray, " slide"]
    events: Bool[np.ndarray, " slide"]
    risks: Float[np.ndarray, " slide"]
    patients: Sequence[str]
    grid: Float[np.ndarray, " time"] | None = None
    survival: Float[np.ndarray, "slide time"] | None = None

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """1 where the event was seen, else 0."""
        return self.events.astype(int)

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The figures of many draws at once."""
        figures = {"c_index": weighted_c_index(self, weights)}
        if self.grid is None or self.survival is None or not len(self.times):
            return figures
        within = self.grid < self.times.max()
        errors = weighted_brier(self, weights)[:, within]
        if within.sum() == 1:
            return figures | {"brier": errors[:, 0]}
        if within.sum() > 1:
            grid = self.grid[within]
            figures["integrated_brier"] = trapezoid(errors, grid, axis=1) / (grid[-1] - grid[0])
        return figures


def survival_metrics(scores: SurvivalScores, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    r"""The C-index and, where survival probabilities are told, their squared error, with intervals.

    Of probabilities for several times the error is averaged over time (`integrated_brier`, by trapezoids), of those for
    one time it is that of this time (`brier`); times at which nobody is followed any more are left out.

    $$ IBS = \frac{1}{t_m - t_1} \int_{t_1}^{t_m} B(t)\,dt $$

    Args:
        scores: What is known and what was said.
        bootstrap: How intervals are made; patients with and without the event are drawn apart.
    """
    return intervals(scores, bootstrap or Bootstrap())


def c_index(
    times: Float[np.ndarray, " slide"], events: Bool[np.ndarray, " slide"], risks: Float[np.ndarray, " slide"]
) -> float:
    """Harrell's C of plain arrays, see `weighted_c_index`; NaN if no two slides can be compared."""
    scores = SurvivalScores(times, events, risks, [""] * len(times))
    return float(weighted_c_index(scores, np.ones((1, len(times))))[0])


def weighted_c_index(scores: SurvivalScores, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, " draw"]:
    r"""Harrell's C: of the pairs that can be compared, the share in which the slide with the earlier event has the higher risk.

    A pair can be compared if the event of one was seen before the time of the other, or at its very time if the other's
    event was not seen (it came later). Two events at the same time cannot be compared, so slides of one patient never
    are. Equal risks count half.

    $$ C = \frac{\sum_{ij} w_i w_j\, c_{ij} ([r_i > r_j] + [r_i = r_j] / 2)}{\sum_{ij} w_i w_j\, c_{ij}} $$

    Args:
        scores: Times, events and risks.
        weights: How often each slide counts in each draw.

    Source:
        Harrell, Lee and Mark, Multivariable prognostic models, 1996, section 5.5.
    """
    times, events, risks = scores[:3]
    right, all_pairs = np.zeros(len(weights)), np.zeros(len(weights))
    earlier = np.flatnonzero(events)
    size = max(1, _PAIRS // max(1, len(times)))
    for start in range(0, len(earlier), size):
        chosen = earlier[start:start + size]
        later = times[chosen, None] < times
        later |= (times[chosen, None] == times) & ~events
        order = (risks[chosen, None] > risks) + 0.5 * (risks[chosen, None] == risks)
        right += (weights[:, chosen] * (weights @ (later * order).T)).sum(1)
        all_pairs += (weights[:, chosen] * (weights @ later.T)).sum(1)
    return ratio(right, all_pairs)


def weighted_brier(scores: SurvivalScores, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, "draw time"]:
    r"""The squared error of the survival probabilities at each told time; slides lost from sight are made up for.

    $$ B(t) = \frac{1}{n} \sum_i \frac{S_i(t)^2 [T_i \le t, event_i]}{G(T_i-)} + \frac{(1 - S_i(t))^2 [T_i > t]}{G(t)} $$

    G is the Kaplan–Meier estimate of not being lost by then, from the very slides of the draw. 0 is perfect; 0.25 is
    what always saying a half gives, if G is right.

    Args:
        scores: With `grid` and `survival`.
        weights: How often each slide counts in each draw.

    Source:
        Graf, Schmoor, Sauerbrei and Schumacher, Assessment and comparison of prognostic classification schemes for
        survival data, 1999, section 4.
    """
    if scores.grid is None or scores.survival is None:
        return np.full((len(weights), 0), np.nan)
    kept = _Kept.of(scores, weights)
    at_event = ratio(weights * scores.events, kept.before(scores.times), empty=0.0)
    errors = []
    for time, told in zip(scores.grid, scores.survival.T, strict=True):
        had = (at_event * (scores.times <= time)) @ told**2
        still = ratio((weights * (scores.times > time)) @ (1 - told) ** 2, kept.until(time), empty=0.0)
        errors.append(ratio(had + still, weights.sum(1)))
    return np.stack(errors, axis=1)


class _Kept(NamedTuple):
    """The share not lost from sight just after each known time, per draw; events come before losses of the same time."""

    times: Float[np.ndarray, " known"]
    share: Float[np.ndarray, "draw known+1"]

    @classmethod
    def of(cls, scores: SurvivalScores, weights: Float[np.ndarray, "draw slide"]) -> "_Kept":
        order = np.argsort(scores.times, kind="stable")
        ends = group_ends(scores.times[order])
        sums = [np.cumsum(weights[:, order] * kind, axis=1)[:, ends] for kind in (scores.events[order], ~scores.events[order])]
        event, lost = (np.diff(part, axis=1, prepend=0) for part in sums)
        there = weights.sum(1, keepdims=True) - np.cumsum(event + lost, axis=1) + lost
        share = np.cumprod(1 - ratio(lost, there, empty=0.0), axis=1)
        return cls(scores.times[order][ends], np.concatenate([np.ones((len(weights), 1)), share], axis=1))

    def until(self, time: float) -> Float[np.ndarray, " draw"]:
        return self.share[:, np.searchsorted(self.times, time, side="right")]

    def before(self, times: Float[np.ndarray, " slide"]) -> Float[np.ndarray, "draw slide"]:
        return self.share[:, np.searchsorted(self.times, times, side="left")]
