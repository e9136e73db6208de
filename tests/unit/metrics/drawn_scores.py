"""Scores of every kind with many ties, several slides a patient."""

import numpy as np

from milscope.metrics import ClassScores, SlideScores, SurvivalScores


def slide_scores(seed=0, slides=40, per_patient=2, digits=1):
    """Slides with many equal probabilities, two a patient."""
    random = np.random.default_rng(seed)
    labels = np.arange(slides) % 3 == 0
    probabilities = np.clip(0.3 * labels + 0.7 * random.random(slides), 0, 1).round(digits)
    return SlideScores(labels, probabilities, probabilities >= 0.5, [f"p{i // per_patient}" for i in range(slides)])


def class_scores(seed=0, slides=60, classes=4, *, ordered=True):
    """Classes told right more often than not; few of the last class."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, slides, p=np.arange(classes, 0, -1) / np.arange(1, classes + 1).sum())
    logits = random.normal(size=(slides, classes)) + 2 * np.eye(classes)[labels]
    shares = np.exp(logits.round(1))
    shares /= shares.sum(1, keepdims=True)
    return ClassScores(labels, shares, shares.argmax(1), [f"p{i // 2}" for i in range(slides)], ordered)


def survival_scores(seed=0, slides=60):
    """Exponential times, of which a third is lost before, risks that tell something, one slide a patient, no ties."""
    random = np.random.default_rng(seed)
    times, lost = random.exponential(10, slides), random.exponential(14, slides)
    risks = -np.log(times) + random.normal(0, 1, slides)
    grid = np.array([2.0, 4.0, 7.0, 11.0])
    survival = np.exp(-np.outer(np.exp(0.5 * (risks - risks.mean())) / 10, grid))
    return SurvivalScores(np.minimum(times, lost), times <= lost, risks, [f"p{i}" for i in range(slides)], grid, survival)


def repeated(scores, row):
    """The scores with every slide as often as the row says."""
    often = row.astype(int)
    return scores._replace(**{name: np.repeat(value, often, axis=0) for name, value in scores._asdict().items()
                              if name not in ("grid", "ordered", "at") and value is not None})
