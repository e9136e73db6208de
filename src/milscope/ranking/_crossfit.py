"""What learned rankings share: every slide is scored by models that did not learn from it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from milscope.ranking._seen import Seen
from milscope.types import refuse

FOLDS = 5
"""Most models, each of which leaves out its part of the slides to learn from."""
MOST = 20_000
"""Most cells of normal slides, and of positive ones, that a model learns from."""
CHUNK = 8192
"""Cells scored at a time."""

Scorer = Callable[[Float[np.ndarray, "row feature"]], Float[np.ndarray, " row"]]
"""Standardised features in, a score for each cell out."""


class Lesson(NamedTuple):
    """What one model learns from; slides are left out of it, and features are standardised by its normal cells.

    Attributes:
        features: The cells, normal ones and others, in an order that does not depend on that of the store.
        rows: Which cells of `Seen` they are.
        normal: Whether a cell lies on a normal slide.
        seed: Of this model.
    """

    features: Float[np.ndarray, "row feature"]
    rows: Int[np.ndarray, " row"]
    normal: Bool[np.ndarray, " row"]
    seed: int


def cross_fitted(seen: Seen, learn: Callable[[Lesson], Scorer], *, positives: bool) -> Float[np.ndarray, " cell"]:
    """The mean score of each cell by the models that did not learn from its slide.

    The labelled slides are dealt out to parts, those of each class evenly; each model learns from all parts but one and scores
    that one, counted in deviations of its own normal cells, so that the scores of several models compare. A slide without a
    label is scored by all models.

    Args:
        seen: The cells and the slides' labels.
        learn: Makes a model of a lesson.
        positives: Whether lessons hold cells of positive slides, too.

    Raises:
        InputError: If there are no features, or fewer than two slides of a class that is learned from.
    """
    check_seen(seen, positives=positives)
    part = _parts(seen, positives=positives)
    total, times = np.zeros(len(seen.slide)), np.zeros(len(seen.slide), dtype=int)
    for number in range(int(part.max()) + 1):
        kept, own = ((part >= 0) & (part != number))[seen.slide], [seen.normal, seen.positive][: 1 + positives]
        chosen = np.concatenate([_drawn(seen, np.flatnonzero(kept & each), number) for each in own])
        normal = seen.normal[chosen]
        centre, spread = standard(seen.features[chosen[normal]])
        lesson = Lesson((seen.features[chosen] - centre) / spread, chosen, normal, seen.seed * 1000 + number)
        score = _steady(learn(lesson), lesson.features[normal])
        others = np.flatnonzero(~kept)
        for start in range(0, len(others), CHUNK):
            rows = others[start : start + CHUNK]
            total[rows] += score((seen.features[rows] - centre) / spread)
            times[rows] += 1
    return total / times


def check_seen(seen: Seen, *, positives: bool) -> None:
    """Refuses what no ranking on features can learn from."""
    if not seen.features.shape[1]:
        raise refuse("features", "given for rankings that learn from them", "none", "Encode the cells and give `--features`.")
    check_slides(seen, positives=positives)


def check_slides(seen: Seen, *, positives: bool) -> None:
    """Refuses too few slides to learn from."""
    for label, kind in ((0, "normal"), (1, "positive")):
        found = int((seen.label == label).sum())
        if found < 2 and (positives or label == 0):
            raise refuse("slides", f"at least two {kind} ones to learn from", found, "Add slides, or divide them otherwise.")


def standard(features: Float[np.ndarray, "row feature"]) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """Mean and deviation of each feature; a feature that is always the same has deviation 1."""
    spread = features.std(0)
    return features.mean(0), np.where(spread > 1e-6 * (np.abs(features).max(0) + 1e-12), spread, 1.0).astype(features.dtype)


def settled(features: Float[np.ndarray, "row feature"]) -> Int[np.ndarray, " row"]:
    """An order of cells by what they are, so that models do not depend on the order of the store."""
    raw = np.ascontiguousarray(features)
    return np.argsort(raw.view(np.dtype((np.void, raw.dtype.itemsize * raw.shape[1])))[:, 0], kind="stable")


def _parts(seen: Seen, *, positives: bool) -> Int[np.ndarray, " slide"]:
    """The part of each labelled slide, -1 for others; each has slides of every class that is learned from."""
    random = np.random.default_rng([seen.seed, 7])
    classes = [np.flatnonzero(seen.label == label) for label in (0, 1)]
    count = min(FOLDS, *map(len, classes[: 1 + positives]))
    part = np.full(len(seen.label), -1)
    for slides in classes:
        part[random.permutation(slides)] = np.arange(len(slides)) % count
    return part


def _drawn(seen: Seen, rows: Int[np.ndarray, " row"], number: int) -> Int[np.ndarray, " drawn"]:
    """At most `MOST` of those cells, in their settled order."""
    rows = rows[settled(seen.features[rows])]
    if len(rows) > MOST:
        rows = rows[np.sort(np.random.default_rng([seen.seed, number]).choice(len(rows), MOST, replace=False))]
    return rows


def _steady(scorer: Scorer, normal: Float[np.ndarray, "row feature"]) -> Scorer:
    """The same scorer in deviations from the mean of its normal cells."""
    own = scorer(normal)
    mean, spread = float(own.mean()), max(float(own.std()), 1e-12)
    return lambda features: (scorer(features) - mean) / spread
