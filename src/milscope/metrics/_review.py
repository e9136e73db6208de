"""How good decisions are where some slides are left to a person."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from milscope.metrics._bootstrap import Bootstrap, Interval, intervals, ratio

REVIEW_METRICS = ("reviewed", "sensitivity", "specificity", "caught")
"""The figures of a review band."""


class Decisions(NamedTuple):
    """What is known of each slide, whether it is left to a person, and what is decided of the others."""

    labels: Bool[np.ndarray, " slide"]
    reviewed: Bool[np.ndarray, " slide"]
    positive: Bool[np.ndarray, " slide"]
    patients: Sequence[str]

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """1 for positive slides, 0 for negative ones."""
        return self.labels.astype(int)

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The figures of many draws at once."""
        labels, reviewed, positive = self.labels, self.reviewed, self.positive & ~self.reviewed
        negative = ~self.positive & ~reviewed
        return {
            "reviewed": ratio(weights @ reviewed, weights.sum(1)),
            "sensitivity": ratio(weights @ (labels & positive), weights @ (labels & ~reviewed)),
            "specificity": ratio(weights @ (~labels & negative), weights @ (~labels & ~reviewed)),
            "caught": ratio(weights @ (labels & ~negative), weights @ labels),
        }


def review_metrics(decisions: Decisions, bootstrap: Bootstrap | None = None) -> dict[str, Interval]:
    """The share left to a person, sensitivity and specificity among the others, and the share of positive slides not missed.

    `caught` counts positive slides that are decided positive or left to a person, over all positive slides.
    """
    return intervals(decisions, bootstrap or Bootstrap())
