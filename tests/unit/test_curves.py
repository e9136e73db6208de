import numpy as np
import pytest
from sklearn import metrics as reference

from milscope.curves import GRID, depth_curve, slide_curves
from milscope.metrics import Bootstrap, SlideScores


def scores(slides=60):
    random = np.random.default_rng(0)
    labels = np.arange(slides) % 2 == 0
    probabilities = np.clip(0.3 * labels + 0.7 * random.random(slides), 0, 1)
    return SlideScores(labels, probabilities, probabilities > 0.5, [str(i) for i in range(slides)])


def test_the_areas_under_the_points_are_the_metrics():
    given = scores()
    curves = slide_curves(given, Bootstrap(20))
    roc, precision_recall = curves["roc"], curves["precision_recall"]
    assert reference.auc(roc["false_positive_rate"], roc["sensitivity"]) == pytest.approx(
        reference.roc_auc_score(given.labels, given.probabilities))
    steps = np.diff(precision_recall["recall"]) * precision_recall["precision"][1:]
    assert steps.sum() == pytest.approx(reference.average_precision_score(given.labels, given.probabilities))


def test_bands_hold_the_curve_at_most_places():
    curves = slide_curves(scores(), Bootstrap(200))
    roc = curves["roc"]
    inside = np.interp(GRID, roc["false_positive_rate"], roc["sensitivity"])
    assert np.mean((roc["band"]["low"] <= inside + 1e-9) & (inside - 1e-9 <= roc["band"]["high"])) > 0.9
    band = curves["precision_recall"]["band"]
    assert len(band["low"]) == len(band["recall"]) == 100
    assert all(0 <= low <= high <= 1 for low, high in zip(band["low"], band["high"], strict=True))


def test_perfect_scores_have_perfect_bands():
    labels = np.arange(10) % 2 == 0
    curves = slide_curves(SlideScores(labels, labels * 1.0, labels, [str(i) for i in range(10)]), Bootstrap(10))
    for name in ("roc", "precision_recall"):
        assert set(curves[name]["band"]["low"]) == set(curves[name]["band"]["high"]) == {1.0}


def test_confusion_and_histogram_count_every_slide():
    given = scores()
    curves = slide_curves(given, Bootstrap(5))
    assert curves["confusion"]["true_positive"] == (given.labels & given.called).sum()
    assert curves["confusion"]["false_positive"] == (~given.labels & given.called).sum()
    assert sum(curves["histogram"]["positive"]) == sum(curves["histogram"]["negative"]) == 30


def test_calibration_points_are_means_of_bins_and_lie_in_their_band():
    given = scores(64)
    curve = slide_curves(given, Bootstrap(200))["calibration"]
    parts = np.argsort(given.probabilities).reshape(4, 16)
    assert curve["probability"] == pytest.approx(given.probabilities[parts].mean(1))
    assert curve["share"] == pytest.approx(given.labels[parts].mean(1))
    assert all(low <= share <= high for share, low, high in zip(curve["share"], curve["low"], curve["high"], strict=True))
    assert curve["low"] != curve["high"]


def test_one_class_has_no_curve():
    given = scores()._replace(labels=np.ones(60, dtype=bool))
    curves = slide_curves(given, Bootstrap(5))
    assert curves["roc"] is None
    assert curves["precision_recall"] is None


def test_depth_curve_is_the_mean_over_slides():
    curve = depth_curve(np.array([[0.0, 0.5, 1.0], [np.nan] * 3, [0.5, 0.5, 1.0]]), list("abc"), Bootstrap(50))
    assert curve["k"] == [1, 2, 3]
    assert curve["value"] == [0.25, 0.5, 1]
    assert curve["low"][0] == 0
    assert curve["high"][0] == 0.5
