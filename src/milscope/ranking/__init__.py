"""Scores that order the cells of a slide, by the name `retrieve --rank` knows them by."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from milscope.configs import LEARNED as NAMES
from milscope.lazy import import_on_use
from milscope.ranking._attention import attention
from milscope.ranking._column import column
from milscope.ranking._evidence import evidence
from milscope.ranking._gradient import gradient
from milscope.ranking._routing import routing
from milscope.ranking._scores import Ranking, find_scores, order, other_tasks, rank_slides, scores_of, slide_groups
from milscope.ranking._seen import Learned, Seen
from milscope.ranking._tails import Excess, excess
from milscope.types import refuse

if TYPE_CHECKING:
    from milscope.ranking._classifier import Classify, fit_classifier
    from milscope.ranking._corrected import Corrector, Examples, Gain, learn_corrections, measure_gain
    from milscope.ranking._corrections import Asked, Correction
    from milscope.ranking._crossfit import Lesson, Scorer, cross_fitted
    from milscope.ranking._learned import LEARNED, ON_FEATURES, ON_PIXELS
    from milscope.ranking._looks import FOLDER, Looks

import_on_use(__name__, {  # these need scikit-learn and torch, which those who read columns do not
    **dict.fromkeys(("Classify", "fit_classifier"), "milscope.ranking._classifier"),
    **dict.fromkeys(("Corrector", "Examples", "Gain", "learn_corrections", "measure_gain"), "milscope.ranking._corrected"),
    **dict.fromkeys(("Asked", "Correction"), "milscope.ranking._corrections"),
    **dict.fromkeys(("FOLDER", "Looks"), "milscope.ranking._looks"),
    **dict.fromkeys(("Lesson", "Scorer", "cross_fitted"), "milscope.ranking._crossfit"),
    **dict.fromkeys(("LEARNED", "ON_FEATURES", "ON_PIXELS"), "milscope.ranking._learned"),
})

RANKINGS: dict[str, Ranking] = {"attention": attention, "evidence": evidence, "gradient": gradient, "routing": routing,
                                **{name: column(name) for name in NAMES}}
"""Those that read what stands in the cells of a `scores` artifact."""
SHARES = ("attention", "gradient", "routing")
"""Those whose scores are shares of their slide, and cannot be compared between slides."""


def find_ranking(name: str) -> Ranking:
    """The ranking of that name.

    Raises:
        InputError: If there is none.
    """
    if name not in RANKINGS:
        raise refuse("rank", "one of " + ", ".join(RANKINGS), name, "Choose one.")
    return RANKINGS[name]


def rank_scores(directory: str | Path, name: str) -> pd.DataFrame:
    """All cells of a `scores` artifact (slide, cell, x, y, width, height, score), in stored order.

    Args:
        directory: A `scores` artifact.
        name: A key of `RANKINGS`.
    """
    frames = [cells for _, cells in rank_slides(directory, find_ranking(name))]
    columns = ["slide", "cell", "x", "y", "width", "height", "score"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


__all__ = [
    "FOLDER",
    "LEARNED",
    "ON_FEATURES",
    "ON_PIXELS",
    "RANKINGS",
    "SHARES",
    "Asked",
    "Classify",
    "Correction",
    "Corrector",
    "Examples",
    "Excess",
    "Gain",
    "Learned",
    "Lesson",
    "Looks",
    "Ranking",
    "Scorer",
    "Seen",
    "attention",
    "cross_fitted",
    "evidence",
    "excess",
    "find_ranking",
    "find_scores",
    "fit_classifier",
    "gradient",
    "learn_corrections",
    "measure_gain",
    "order",
    "other_tasks",
    "rank_scores",
    "rank_slides",
    "routing",
    "scores_of",
    "slide_groups",
]
