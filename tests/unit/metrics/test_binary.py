import math

import numpy as np
import pytest
from sklearn import metrics as reference
from tests.unit.metrics.drawn_scores import repeated
from tests.unit.metrics.drawn_scores import slide_scores as example

from milscope.metrics import (
    SLIDE_METRICS,
    Bootstrap,
    Levels,
    SlideScores,
    intervals,
    slide_metrics,
    weighted_auc,
    weighted_slide_metrics,
)

CALIBRATION = {"calibration_error", "calibration_slope", "calibration_intercept"}
LEVELS = {"sensitivity_at_specificity", "specificity_at_sensitivity"}


def by_scikit(scores, weights):
    labels, probabilities, called = scores[:3]
    sensitivity = reference.recall_score(labels, called, sample_weight=weights)
    specificity = reference.recall_score(~labels, ~called, sample_weight=weights)
    curve = reference.roc_curve(labels, probabilities, sample_weight=weights, drop_intermediate=False)[:2]
    false_positive, true_positive = (rate + 1e-12 for rate in curve)
    return {
        "auc": reference.roc_auc_score(labels, probabilities, sample_weight=weights),
        "average_precision": reference.average_precision_score(labels, probabilities, sample_weight=weights),
        "f1": reference.f1_score(labels, called, sample_weight=weights),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "brier": np.average((probabilities - labels) ** 2, weights=weights),
        "sensitivity_at_specificity": true_positive[1 - false_positive >= scores.at.specificity - 1e-9].max(),
        "specificity_at_sensitivity": (1 - false_positive[true_positive >= scores.at.sensitivity]).max(),
    }


@pytest.mark.parametrize("levels", [Levels(), Levels(0.5, 0.5), Levels(1.0, 1.0), Levels(0.01, 0.01)])
def test_every_draw_is_what_scikit_learn_says_of_the_drawn_slides(levels):
    scores = example()._replace(at=levels)
    weights = np.random.default_rng(1).integers(0, 4, (20, 40)).astype(float)
    ours = weighted_slide_metrics(scores, weights)
    assert tuple(ours) == SLIDE_METRICS
    for draw, row in enumerate(weights):
        theirs = by_scikit(scores, row)
        assert set(theirs) == set(SLIDE_METRICS) - CALIBRATION
        for name, value in theirs.items():
            assert ours[name][draw] == pytest.approx(value, abs=1e-9), name


def test_a_weight_is_a_repetition():
    scores = example()
    weights = np.random.default_rng(2).integers(0, 4, (5, 40)).astype(float)
    ours = weighted_slide_metrics(scores, weights)
    for draw, row in enumerate(weights):
        again = repeated(scores, row)
        once = weighted_slide_metrics(again, np.ones((1, len(again.labels))))
        for name in set(SLIDE_METRICS) - {"calibration_error"}:  # whose number of bins is that of the rows
            assert ours[name][draw] == pytest.approx(once[name][0], rel=1e-6), name


def test_values_are_those_of_the_undrawn_slides():
    scores = example()
    plain = weighted_slide_metrics(scores, np.ones((1, 40)))
    figures = slide_metrics(scores, Bootstrap(50))
    assert set(figures) == {*SLIDE_METRICS, "calibration_error_if_true"}
    for name in SLIDE_METRICS:
        assert figures[name].value == pytest.approx(plain[name][0])
        assert figures[name].low <= figures[name].high
        if name != "calibration_error":  # which is biased upwards
            assert figures[name].low <= figures[name].value <= figures[name].high


def test_auc_is_the_share_of_ordered_pairs_with_ties_as_half():
    scores = example()
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a in scores.probabilities[scores.labels]
        for b in scores.probabilities[~scores.labels]
    ]
    assert slide_metrics(scores, Bootstrap(1))["auc"].value == pytest.approx(np.mean(pairs))


def test_perfect_scores_are_perfect_and_reversed_ones_are_not():
    labels = np.arange(20) % 2 == 0
    perfect = slide_metrics(SlideScores(labels, labels * 1.0, labels, [str(i) for i in range(20)]), Bootstrap(20))
    for name in {*SLIDE_METRICS[:6], *LEVELS}:
        assert perfect[name] == (1, 1, 1), name
    assert perfect["brier"] == perfect["calibration_error"] == (0, 0, 0)
    assert all(map(math.isnan, perfect["calibration_slope"])), "the classes are separated"
    assert perfect["calibration_intercept"] == pytest.approx((0, 0, 0), abs=1e-3)
    wrong = slide_metrics(SlideScores(labels, 1.0 - labels, ~labels, [str(i) for i in range(20)]), Bootstrap(20))
    assert wrong["auc"].value == wrong["f1"].value == wrong["sensitivity_at_specificity"].value == 0
    assert wrong["brier"].value == wrong["calibration_error"].value == 1


@pytest.mark.parametrize(("label", "defined"), [(True, {"average_precision", "f1", "sensitivity"}), (False, {"specificity"})])
def test_figures_that_need_an_absent_class_are_nan(label, defined):
    scores = example()._replace(labels=np.full(40, label))
    figures = slide_metrics(scores, Bootstrap(5))
    always = {"brier", "calibration_error", "calibration_error_if_true"}
    assert {name for name, figure in figures.items() if not math.isnan(figure.value)} == defined | always
    assert {name for name, figure in figures.items() if not math.isnan(figure.low)} == defined | always


def test_f1_without_a_call_is_zero():
    assert slide_metrics(example()._replace(called=np.zeros(40, dtype=bool)), Bootstrap(5))["f1"] == (0, 0, 0)


def test_a_level_reached_but_for_rounding_counts_as_reached():
    """9 of 10 negative slides below the only positive one: 1 - 0.9 is a little less than 1 / 10."""
    labels, probabilities = np.arange(11) == 9, np.arange(11) / 20
    figures = slide_metrics(SlideScores(labels, probabilities, labels, [str(i) for i in range(11)]), Bootstrap(2))
    assert figures["sensitivity_at_specificity"].value == 1
    assert figures["specificity_at_sensitivity"].value == pytest.approx(0.9)


class OnlyAuc(SlideScores):
    def drawn(self, weights):
        return {"auc": weighted_auc(self.labels, self.probabilities, weights)}


def test_interval_covers_the_true_auc_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    true = 0.7602499389065233  # two unit normals one apart: Phi(1 / sqrt 2)
    covered = []
    for repeat in range(200):
        labels = np.arange(80) % 2 == 0
        logits = random.normal(size=80) + labels
        scores = OnlyAuc(labels, 1 / (1 + np.exp(-logits)), labels, [str(i) for i in range(80)])
        interval = intervals(scores, Bootstrap(200, 0.9, repeat))["auc"]
        covered.append(interval.low <= true <= interval.high)
    assert 0.82 <= np.mean(covered) <= 0.96


def test_slides_of_one_patient_do_not_narrow_the_interval():
    once = example(slides=30, per_patient=1)
    thrice = SlideScores(*(np.repeat(part, 3) for part in once[:3]), np.repeat(once.patients, 3).tolist())
    assert slide_metrics(once, Bootstrap(200))["auc"] == pytest.approx(slide_metrics(thrice, Bootstrap(200))["auc"])
