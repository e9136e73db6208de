"""Order cells by a classifier that takes its own surest cells for abnormal, more of them from round to round."""

import numpy as np
from jaxtyping import Bool, Float

from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
from milscope.ranking._density import classifier
from milscope.ranking._mahalanobis import mahalanobis
from milscope.ranking._pu import excess
from milscope.ranking._seen import Seen

SHARES = (0.3, 0.6, 1.0)
"""Round by round, the share of the cells thought abnormal that is learned from, the surest first."""


def selfpaced(seen: Seen) -> Float[np.ndarray, " cell"]:
    """The logit of a classifier of pseudo-labels, after rounds in which they were made anew.

    A round takes the surest cells of positive slides for abnormal (at least one of each slide), cells of normal slides for
    normal, and leaves the others out. The first goes by distance from normal cells, each later one by the classifier before.
    How many are abnormal is told by how many more of the cells of positive slides than of normal ones score high. No slide is
    scored by a classifier that learned from its pseudo-labels.

    Args:
        seen: Cells and slide labels; only features are looked at.

    Raises:
        InputError: If there are no features, or fewer than two normal or positive slides.

    Source:
        Liu et al., Multiple instance learning via iterative self-paced supervised contrastive learning (ItS2CLR), 2023,
        section 3, on fixed features, with a classifier in place of the contrast. Normal cells of positive slides are not
        learned from: normal slides have enough.
    """
    scores = mahalanobis(seen)
    for share in SHARES:
        abnormal = _pseudo(seen, scores, share)
        scores = cross_fitted(seen, lambda lesson, own=abnormal: _learn(lesson, own), positives=True)
    return scores


def _pseudo(seen: Seen, scores: Float[np.ndarray, " cell"], share: float) -> Bool[np.ndarray, " cell"]:
    """The cells of positive slides that are taken for abnormal: the surest of all, and the surest of each slide."""
    rows = np.flatnonzero(seen.positive)
    rate = excess(scores[seen.normal], scores[rows])
    sure = np.sort(scores[rows])[-max(1, round(share * rate * len(rows)))]
    highest = np.full(len(seen.label), -np.inf)
    np.maximum.at(highest, seen.slide, scores)
    return seen.positive & ((scores >= sure) | (scores >= highest[seen.slide]))


def _learn(lesson: Lesson, abnormal: Bool[np.ndarray, " cell"]) -> Scorer:
    own: Bool[np.ndarray, " row"] = abnormal[lesson.rows]
    return classifier(lesson, own, own | lesson.normal)
