import math

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from milscope.metrics import Bootstrap, bins_for, calibration_error, error_if_true, recalibration, reliability


def drawn(rows=120, seed=0, slope=1.0, shift=0.0):
    """Probabilities, and labels drawn from them after their logits were stretched and moved."""
    random = np.random.default_rng(seed)
    told = random.normal(size=rows) * 1.5
    return expit(told), random.random(rows) < expit(shift + slope * told)


def test_bins_of_whole_rows_are_those_of_sorted_rows():
    probabilities, labels = drawn(125)
    bins = reliability(probabilities, labels[None], np.ones((1, 125)), 5)
    parts = np.argsort(probabilities).reshape(5, 25)
    assert bins.told[0] == pytest.approx(probabilities[parts].mean(1))
    assert bins.found[0] == pytest.approx(labels[parts].mean(1))
    assert bins_for(125) == 5
    error = calibration_error(probabilities, labels * 1.0, np.ones((1, 125)))
    assert error[0] == pytest.approx(np.abs(probabilities[parts].mean(1) - labels[parts].mean(1)).mean())


def test_a_weight_is_a_repetition_and_the_order_of_equal_probabilities_does_not_matter():
    probabilities, labels = drawn(50)
    probabilities = probabilities.round(1)
    weights = np.random.default_rng(1).integers(0, 4, (3, 50)).astype(float)
    bins = reliability(probabilities, labels[None], weights, 4)
    for draw, row in enumerate(weights):
        often = np.random.default_rng(2).permutation(np.repeat(np.arange(50), row.astype(int)))
        again = reliability(probabilities[often], labels[None, often], np.ones((1, len(often))), 4)
        assert bins.told[draw] == pytest.approx(again.told[0])
        assert bins.found[draw] == pytest.approx(again.found[0])


def test_rows_at_a_border_count_in_both_bins():
    bins = reliability(np.array([0.1, 0.5, 0.9]), np.array([[0, 1, 1]]), np.ones((1, 3)), 2)
    assert bins.told[0] == pytest.approx([(0.1 + 0.5 / 2) / 1.5, (0.9 + 0.5 / 2) / 1.5])
    assert bins.found[0] == pytest.approx([(1 / 2) / 1.5, 1])


@pytest.mark.parametrize(("rows", "bins"), [(1, 1), (7, 1), (8, 2), (26, 2), (27, 3), (1000, 10)])
def test_the_number_of_bins_is_the_cube_root(rows, bins):
    assert bins_for(rows) == bins


def test_one_probability_errs_by_its_distance_from_the_share():
    assert calibration_error(np.full(40, 0.9), (np.arange(40) % 2) * 1.0, np.ones((1, 40)))[0] == pytest.approx(0.4)


def test_the_error_of_true_probabilities_is_what_its_formula_says():
    """All probabilities p: the error is that of a mean of n / B draws."""
    rows, share = 1000, 0.3
    expected = math.sqrt(2 * bins_for(rows) * share * (1 - share) / (math.pi * rows))
    spread = 1e-6 * np.arange(rows)
    assert error_if_true(share + spread, Bootstrap(400)).value == pytest.approx(expected, rel=0.05)


def test_true_probabilities_err_within_the_bounds_as_often_as_these_say():
    inside = []
    for seed in range(150):
        probabilities, labels = drawn(60, seed)
        error = calibration_error(probabilities, labels * 1.0, np.ones((1, 60)))[0]
        _, low, high = error_if_true(probabilities, Bootstrap(200, 0.9, seed))
        inside.append(low <= error <= high)
    assert 0.82 <= np.mean(inside) <= 0.97


def test_no_rows_have_no_error():
    assert all(map(math.isnan, error_if_true(np.empty(0), Bootstrap(3))))
    assert np.isnan(calibration_error(np.empty(0), np.empty(0), np.empty((2, 0)))).all()


def test_slope_is_that_of_scikit_learn_for_every_draw():
    probabilities, labels = drawn(60, slope=0.4, shift=1)
    weights = np.random.default_rng(0).integers(0, 4, (10, 60)).astype(float)
    slopes, intercepts = recalibration(probabilities, labels, weights)
    told = logit(probabilities)
    for slope, intercept, row in zip(slopes, intercepts, weights, strict=True):
        model = LogisticRegression(C=np.inf, tol=1e-10, solver="newton-cholesky").fit(told[:, None], labels, row)
        assert slope == pytest.approx(model.coef_[0, 0], rel=1e-6)
        assert row @ expit(intercept + told) == pytest.approx(row @ labels)


def test_slope_and_intercept_are_found_again():
    slope, intercept = recalibration(*drawn(40_000, slope=0.5), np.ones((1, 40_000)))
    assert slope[0] == pytest.approx(0.5, abs=0.03)
    assert intercept[0] == pytest.approx(0, abs=0.05)
    slope, intercept = recalibration(*drawn(40_000, slope=1, shift=0.7), np.ones((1, 40_000)))
    assert slope[0] == pytest.approx(1, abs=0.05)
    assert intercept[0] == pytest.approx(0.7, abs=0.05)


def test_slopes_of_nearly_separated_classes_are_found():
    """Where plain Newton steps from 0 do not arrive."""
    told = np.concatenate([np.linspace(-3, -0.03, 28), [0.0601], [0.06], np.linspace(0.09, 2, 12)])
    labels = np.arange(42) > 28
    slope = recalibration(expit(told), labels, np.ones((1, 42)))[0][0]
    assert slope > 30
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(told[:, None], labels)
    assert slope == pytest.approx(model.coef_[0, 0], rel=1e-4)


@pytest.mark.parametrize(("probabilities", "labels"), [
    ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]), ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]), ([0.9, 0.8, 0.2], [0, 0, 1]),
    ([0.3, 0.3, 0.3], [0, 1, 1]),
])
def test_separated_classes_have_no_slope(probabilities, labels):
    slope, intercept = recalibration(np.array(probabilities), np.array(labels) == 1, np.ones((1, len(labels))))
    assert math.isnan(slope[0])
    assert math.isfinite(intercept[0])


def test_one_class_has_neither():
    slope, intercept = recalibration(np.array([0.2, 0.4, 0.6]), np.array([True, True, False]), np.array([[1.0, 1.0, 0.0]]))
    assert math.isnan(slope[0])
    assert math.isnan(intercept[0])
