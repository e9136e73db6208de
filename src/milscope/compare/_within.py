"""Figures of slides that models of several folds scored: who is above whom is asked within a fold only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from milscope.metrics import Bootstrap, Interval, Scores, SlideScores, bounds, joined, resample, thresholds, weighted_auc

_STREAM = (1 << 20) + 2  # of random numbers: draws of repetitions


class GradedScores(NamedTuple):
    """What is known and what was said of each slide in a task of classes, and whose model said it.

    Attributes:
        labels: The number of the class.
        probabilities: Of each class.
        predicted: The number of the class that was told.
        patients: Of each slide.
        folds: The number of the model that scored the slide; it knew nobody of its fold.
    """

    labels: Int[np.ndarray, " slide"]
    probabilities: Float[np.ndarray, "slide class"]
    predicted: Int[np.ndarray, " slide"]
    patients: Sequence[str]
    folds: Int[np.ndarray, " slide"]

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """The class of each slide."""
        return self.labels

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        r"""The figures of many draws at once: `auc` and `average_precision`, or `macro_auc`; `balanced_accuracy`, `brier`.

        Models of two folds may err by different offsets, which says nothing of either. So a slide is compared with slides
        of its own fold f only, of n pairs or m positive slides:

        $$ AUC = \frac{\sum_f n_f AUC_f}{\sum_f n_f}, \qquad AP = \frac{\sum_f m_f AP_f}{\sum_f m_f} $$

        What depends on no order, calls and the error of probabilities, is taken over all slides at once.

        Source:
            Forman and Scholz, Apples-to-apples in cross-validation studies, 2010, who average the folds alike; here each
            counts as many times as it has pairs, so that a fold without any is no hole.
        """
        classes = self.probabilities.shape[1]
        truth = np.eye(classes)[self.labels]
        told = np.eye(classes)[self.predicted]
        hits = _quotient(weights @ (truth * told), weights @ truth)
        errors = ((self.probabilities - truth) ** 2).sum(1) / (2 if classes == 2 else 1)
        shared = {"balanced_accuracy": _mean(hits), "brier": _quotient(weights @ errors, weights.sum(1))}
        if classes == 2:
            positive, scores = self.labels == 1, self.probabilities[:, 1]
            return {"auc": self._auc(positive, scores, weights), "average_precision": self._precision(weights), **shared}
        areas = [self._auc(self.labels == place, self.probabilities[:, place], weights) for place in range(classes)]
        return {"macro_auc": _mean(np.stack(areas, axis=1)), **shared}

    def _auc(self, positive: Bool[np.ndarray, " slide"], scores: Float[np.ndarray, " slide"],
             weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, " draw"]:
        parts = []
        for own in _parts(self.folds):
            part, kind = weights[:, own], positive[own]
            parts.append((weighted_auc(kind, scores[own], part), (part @ kind) * (part @ ~kind)))
        return _joined(parts)

    def _precision(self, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, " draw"]:
        parts = []
        for own in _parts(self.folds):
            positive = self.labels[own] == 1
            found = thresholds(SlideScores(positive, self.probabilities[own, 1], positive, ()), weights[:, own])
            precision = _quotient(found.positive, found.positive + found.negative)[:, 1:]
            gained = np.diff(found.positive, axis=1)
            count = found.positive[:, -1]
            parts.append((_quotient((gained * np.nan_to_num(precision)).sum(1), count), count))
        return _joined(parts)


class RiskScores(NamedTuple):
    """What is known and what was said of each slide in a task of survival, and whose model said it; see `SurvivalScores`."""

    times: Float[np.ndarray, " slide"]
    events: Bool[np.ndarray, " slide"]
    risks: Float[np.ndarray, " slide"]
    patients: Sequence[str]
    folds: Int[np.ndarray, " slide"]

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """1 where the event was seen, else 0."""
        return self.events.astype(int)

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """`c_index` of many draws at once: Harrell's C over the comparable pairs within folds."""
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for own in _parts(self.folds):
            times, risks, part, seen = self.times[own], self.risks[own], weights[:, own], self.events[own]
            later = (times[seen, None] < times) | ((times[seen, None] == times) & ~seen)
            order = (risks[seen, None] > risks) + 0.5 * (risks[seen, None] == risks)
            right += (part[:, seen] * (part @ (later * order).T)).sum(1)
            pairs += (part[:, seen] * (part @ later.T)).sum(1)
        return {"c_index": _quotient(right, pairs)}


def over_repetitions(repetitions: Sequence[Scores], bootstrap: Bootstrap) -> dict[str, Interval]:
    """Every figure, the mean over repetitions; its interval is of draws of patients and of repetitions, as in `compare`.

    Args:
        repetitions: One model's scores of the same slides.
        bootstrap: How intervals are made.
    """
    count = len(repetitions)
    once = [scores.drawn(np.ones((1, len(scores.patients)))) for scores in repetitions]
    random = np.random.default_rng([bootstrap.seed, _STREAM])
    blocks = []
    for weights in resample(repetitions[0].patients, repetitions[0].strata, bootstrap):
        shares = random.multinomial(count, np.full(count, 1 / count), size=len(weights)).T / count
        drawn = [scores.drawn(weights) for scores in repetitions]
        values = {name: np.stack([one[name] for one in drawn]) for name in drawn[0]}
        blocks.append({name: (shares * np.where(shares > 0, value, 0.0)).sum(0) for name, value in values.items()})
    return {name: Interval(float(np.mean([one[name][0] for one in once])),
                           *bounds(joined(blocks, name), bootstrap.confidence)) for name in once[0]}


def _parts(folds: Int[np.ndarray, " slide"]) -> list[Bool[np.ndarray, " slide"]]:
    return [folds == fold for fold in np.unique(folds)]


def _joined(parts: Sequence[tuple[Float[np.ndarray, " draw"], Float[np.ndarray, " draw"]]]) -> Float[np.ndarray, " draw"]:
    """The mean over folds, each as heavy as it is said; NaN if all together weigh nothing."""
    values, weights = np.stack([value for value, _ in parts]), np.stack([weight for _, weight in parts])
    return _quotient((np.where(weights > 0, values, 0.0) * weights).sum(0), weights.sum(0))


def _mean(values: Float[np.ndarray, "draw class"]) -> Float[np.ndarray, " draw"]:
    """The mean over the classes of which the figure is defined."""
    defined = np.isfinite(values)
    return _quotient(np.where(defined, values, 0.0).sum(1), defined.sum(1).astype(float))


def _quotient(numerator: Float[np.ndarray, "*shape"], denominator: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Elementwise; NaN where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator != 0)
