import math

import numpy as np
import pytest
from sklearn import metrics as reference
from tests.unit.metrics.drawn_scores import class_scores, repeated

from milscope.metrics import (
    CLASS_METRICS,
    ORDINAL_METRICS,
    Bootstrap,
    ClassScores,
    calibration_error,
    class_metrics,
    confusion,
    slide_metrics,
    weighted_class_metrics,
)
from milscope.metrics._binary import SlideScores


def by_scikit(scores):
    labels, shares, predicted = scores[:3]
    classes = list(range(shares.shape[1]))
    return {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_auc": reference.roc_auc_score(labels, shares, multi_class="ovr", average="macro"),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "brier": reference.brier_score_loss(labels, shares, labels=classes, scale_by_half=False),
        "quadratic_kappa": reference.cohen_kappa_score(labels, predicted, labels=classes, weights="quadratic"),
        "mean_absolute_error": np.mean(np.abs(labels - predicted)),
    }


def test_every_draw_is_what_scikit_learn_says_of_the_drawn_slides():
    scores = class_scores()
    weights = np.random.default_rng(1).integers(1, 4, (10, 60)).astype(float)
    ours = weighted_class_metrics(scores, weights)
    assert tuple(ours) == CLASS_METRICS + ORDINAL_METRICS
    for draw, row in enumerate(weights):
        theirs = by_scikit(repeated(scores, row))
        assert set(theirs) == set(ours) - {"calibration_error"}
        for name, value in theirs.items():
            assert ours[name][draw] == pytest.approx(value), name


def test_values_are_those_of_the_undrawn_slides_and_lie_in_their_intervals():
    scores = class_scores()
    figures = class_metrics(scores, Bootstrap(100))
    assert set(figures) == {*CLASS_METRICS, *ORDINAL_METRICS, "calibration_error_if_true"}
    for name, value in by_scikit(scores).items():
        assert figures[name].value == pytest.approx(value)
        assert figures[name].low < value < figures[name].high


def test_the_calibration_error_is_that_of_what_was_predicted():
    scores = class_scores()
    right, confidence = scores.labels == scores.predicted, scores.probabilities.max(1)
    assert class_metrics(scores, Bootstrap(2))["calibration_error"].value == calibration_error(
        confidence, right * 1.0, np.ones((1, 60)))[0]


def test_classes_without_an_order_have_no_steps():
    assert set(class_metrics(class_scores(ordered=False), Bootstrap(3))) == {*CLASS_METRICS, "calibration_error_if_true"}


def test_means_are_over_the_classes_that_slides_have():
    scores = class_scores()
    wide = ClassScores(scores.labels, np.pad(scores.probabilities, ((0, 0), (0, 1))), scores.predicted, scores.patients, True)
    narrow, padded = class_metrics(scores, Bootstrap(30)), class_metrics(wide, Bootstrap(30))
    for name in narrow:
        assert padded[name] == pytest.approx(narrow[name]), name


def test_a_class_told_but_not_there_lowers_f1_only():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    scores = ClassScores(labels, np.eye(3)[predicted], predicted, list("abcd"))
    figures, drawn = class_metrics(scores, Bootstrap(2)), weighted_class_metrics(scores, np.ones((1, 4)))
    for name, value in (("macro_f1", (1 + 2 / 3 + 0) / 3), ("balanced_accuracy", (1 + 1 / 2) / 2)):
        assert figures[name].value == drawn[name][0] == pytest.approx(value), name


def test_one_class_alone():
    labels = np.zeros(6, dtype=int)
    figures = class_metrics(ClassScores(labels, np.eye(3)[labels], labels, list("abcdef"), True), Bootstrap(5))
    assert {name for name, figure in figures.items() if math.isnan(figure.value)} == {"macro_auc", "quadratic_kappa"}
    assert figures["accuracy"] == (1, 1, 1)
    assert figures["mean_absolute_error"] == (0, 0, 0)


def test_no_slides_have_no_figures():
    empty = ClassScores(np.empty(0, dtype=int), np.empty((0, 3)), np.empty(0, dtype=int), [], True)
    assert all(math.isnan(figure.value) for figure in class_metrics(empty, Bootstrap(2)).values())


def test_two_classes_agree_with_yes_and_no():
    positive = class_scores(classes=2).probabilities[:, 1].round(2)
    scores = class_scores(classes=2)._replace(probabilities=np.stack([1 - positive, positive], axis=1))
    yes = SlideScores(scores.labels == 1, scores.probabilities[:, 1], scores.predicted == 1, scores.patients)
    several, binary = class_metrics(scores, Bootstrap(50)), slide_metrics(yes, Bootstrap(50))
    assert several["macro_auc"] == pytest.approx(binary["auc"])
    assert several["balanced_accuracy"] == pytest.approx(binary["balanced_accuracy"])
    assert several["brier"].value == pytest.approx(2 * binary["brier"].value)


def test_the_confusion_counts_every_slide():
    scores = class_scores()
    assert (confusion(scores, np.ones((1, 60)))[0] == reference.confusion_matrix(scores.labels, scores.predicted)).all()
