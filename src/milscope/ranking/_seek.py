"""Order cells by what positive slides have and normal ones have not, whatever it is: many plain views of cells, weighed."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from milscope.progress import progress
from milscope.ranking._crossfit import Lesson, Scorer, check_slides, cross_fitted
from milscope.ranking._measures import measure_cells
from milscope.ranking._seen import Seen
from milscope.ranking._tails import excess, surprise

CLIP = 8.0
"""Measures count at most so many deviations, and surprises so many nats."""
STRENGTH = 0.001
"""Inverse strength of the penalty on weights (`C` of scikit-learn)."""
WIDEST = 60
"""Most directions of squared measures."""
NATS = 3.0
"""A view with so many nats less gain than the best counts 1/e of it."""


def seek(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""The mean surprise of a cell over many views, weighed by what each view explains of the slides' labels.

    $$ s(c) = \sum_v w_v \, u_v(c), \quad w_v \propto e^{g_v / 3} $$

    Plain measures of cells come in groups: outline, the body in the middle, its chromatin, spots, texture, colour, rings,
    and all together. In each group three learners of different sorts tell cells of positive from cells of normal slides. No
    slide is scored by a model that learned from it, so that the gain g_v of a view, how much the slides' labels are explained
    by its highest cells, is honest, and may choose: no kind of abnormality is taken for granted, and no label of a cell is
    read. u_v is the surprise of the view's score among cells of normal slides.

    Args:
        seen: Cells and slide labels; only pixels are looked at.

    Raises:
        InputError: If there are fewer than two normal or positive slides.

    Source:
        Ours. What else was tried stands in docs/experiments.md.
    """
    check_slides(seen, positives=True)
    groups = dict(measure_cells(seen.pixels))
    groups["all"] = np.concatenate(list(groups.values()), 1)
    labelled = ~np.isnan(seen.label)
    known, number = labelled[seen.slide], (np.cumsum(labelled) - 1)[seen.slide]
    scores, gains = [], []
    with progress("seek", len(groups) * len(LEARNERS), "views") as advance:
        for score in _views(seen, groups):
            scores.append(surprise(score, score[seen.normal]))
            gains.append(excess(score[known], number[known], seen.label[labelled] == 1).nats)
            advance(1)
    if not scores:  # all cells look alike
        return np.zeros(len(seen.slide))
    return np.stack(scores, 1) @ shares(np.array(gains))


def shares(gains: Float[np.ndarray, " view"]) -> Float[np.ndarray, " view"]:
    """How much each view counts, 1 in all; `NATS` more gain count e times as much."""
    weights = np.exp((gains - gains.max()) / NATS)
    return weights / weights.sum()


def _views(seen: Seen, groups: Mapping[str, Float[np.ndarray, "cell _"]]) -> Iterator[Float[np.ndarray, " cell"]]:
    """The cross-fitted scores of every learner on every group; what is the same for nearly all normal cells is no measure."""
    for values in groups.values():
        own = values[seen.normal]
        varied = (np.abs(own - np.median(own, 0)) > 1e-6).mean(0) > 0.3
        if varied.any():
            given = seen._replace(features=np.ascontiguousarray(values[:, varied]))
            for learn in LEARNERS:
                yield cross_fitted(given, learn, positives=True)


def _by_surprise(lesson: Lesson) -> Scorer:
    """A line through the surprises of each measure, upwards and downwards, and of all at once: what lies in tails counts."""
    usual = _clipped(lesson.features[lesson.normal])
    inverse = np.linalg.inv(np.atleast_2d(np.cov(usual.T)) + 0.05 * np.eye(usual.shape[1]))
    reference = _sides(usual, inverse)
    centre = 0.0

    def view(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row side"]:
        sides = _sides(_clipped(features), inverse)
        columns = [surprise(own, normal) for own, normal in zip(sides.T, reference.T, strict=True)]
        return np.minimum(np.column_stack(columns), CLIP) - centre

    centre = view(lesson.features[lesson.normal]).mean(0)
    return _line(lesson, view)


def _by_squares(lesson: Lesson) -> Scorer:
    """A line through the measures and their squares, in directions in which normal cells vary alike."""
    usual = _squares(lesson.features[lesson.normal])
    middle = usual.mean(0)
    _, spread, directions = np.linalg.svd(usual - middle, full_matrices=False)
    spread = spread / np.sqrt(len(usual))
    scale = (directions[:WIDEST] / (spread[:WIDEST] + 0.1 * spread[0])[:, None]).T
    return _line(lesson, lambda features: (_squares(features) - middle) @ scale)


def _by_trees(lesson: Lesson) -> Scorer:
    """Small trees, each mending the ones before: what is told by two or three measures together."""
    model = HistGradientBoostingClassifier(max_iter=40, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=8,
                                           l2_regularization=1.0, early_stopping=False, random_state=lesson.seed)
    model.fit(_clipped(lesson.features), ~lesson.normal)
    return lambda features: model.decision_function(_clipped(features)).astype(float)


LEARNERS: tuple[Callable[[Lesson], Scorer], ...] = (_by_surprise, _by_squares, _by_trees)


def _line(lesson: Lesson, view: Callable[[Float[np.ndarray, "row feature"]], Float[np.ndarray, "row value"]]) -> Scorer:
    """A heavily penalised logistic regression on a view of the measures."""
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=60, tol=1e-3)
    model.fit(view(lesson.features), ~lesson.normal)
    return lambda features: model.decision_function(view(features)).astype(float)


def _sides(measures: Float[np.ndarray, "row feature"], inverse: Float[np.ndarray, "feature feature"]
           ) -> Float[np.ndarray, "row side"]:
    """Each measure, its negative, and the distance of all from the normal mean."""
    return np.column_stack([((measures @ inverse) * measures).sum(1), measures, -measures])


def _squares(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row value"]:
    clipped = _clipped(features)
    return np.column_stack([clipped, clipped**2 - 1])


def _clipped(features: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row feature"]:
    return np.clip(features.astype(np.float64), -CLIP, CLIP)
