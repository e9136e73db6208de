import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from tests.unit.metrics.drawn_scores import class_scores, slide_scores, survival_scores

from milscope.comparison import BOOTSTRAP, DELONG, compare, compare_auc, delong, holm
from milscope.metrics import Bootstrap, slide_metrics
from milscope.types import InputError

QUICK = Bootstrap(300)


def two_models(seed=0, slides=60, better=1.5, worse=1.0, shared=0.8):
    """Labels, and scores of two models that err alike to some degree; normal, so that true AUCs are known."""
    random = np.random.default_rng(seed)
    labels = np.arange(slides) % 2 == 0
    common = random.normal(size=slides)
    parts = [math.sqrt(shared) * common + math.sqrt(1 - shared) * random.normal(size=slides) for _ in range(2)]
    return labels, parts[0] + better * labels, parts[1] + worse * labels


def one_each(slides):
    return [f"p{i}" for i in range(slides)]


def slow_delong(labels, scores):
    """AUCs and covariance from their definition, pair by pair."""
    psi = [[[1.0 if x > y else 0.5 if x == y else 0.0 for y in row[~labels]] for x in row[labels]] for row in scores]
    above, below = np.mean(psi, axis=2), np.mean(psi, axis=1)
    m, n = labels.sum(), (~labels).sum()
    covariance = np.array([[
        sum((above[a] - above[a].mean()) * (above[b] - above[b].mean())) / (m - 1) / m
        + sum((below[a] - below[a].mean()) * (below[b] - below[b].mean())) / (n - 1) / n
        for b in range(len(scores))] for a in range(len(scores))])
    return np.mean(psi, axis=(1, 2)), covariance


@pytest.mark.parametrize("digits", [1, 12])
def test_delong_is_its_slow_definition_with_ties_and_without(digits):
    labels, first, second = two_models()
    labels[7] = not labels[7]
    scores = np.stack([first, second, first - second]).round(digits)
    aucs, covariance = slow_delong(labels, scores)
    found = delong(labels, scores)
    assert found.aucs == pytest.approx(aucs)
    assert found.aucs == pytest.approx([roc_auc_score(labels, row) for row in scores])
    assert found.covariance == pytest.approx(covariance)


def test_the_difference_and_its_p_value_by_delong():
    labels, first, second = two_models()
    found = compare_auc(labels, first, second, one_each(60), Bootstrap(confidence=0.9))
    aucs, covariance = slow_delong(labels, np.stack([first, second]))
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert (found.first, found.second) == pytest.approx(tuple(aucs))
    assert found.method == DELONG
    assert found.difference.value == pytest.approx(aucs[0] - aucs[1])
    assert found.difference.high - found.difference.low == pytest.approx(2 * 1.6448536269514722 * error)
    assert found.p == pytest.approx(2 * norm.cdf(-abs(aucs[0] - aucs[1]) / error))


def test_delong_and_bootstrap_agree():
    labels, first, second = two_models(slides=200)
    exact = compare_auc(labels, first, second, one_each(200))
    drawn = compare_auc(labels, np.stack([first] * 2), np.stack([second] * 2), one_each(200), Bootstrap(2000))
    assert drawn.method == BOOTSTRAP
    assert drawn.difference == pytest.approx(tuple(exact.difference), abs=0.01)
    assert drawn.p == pytest.approx(exact.p, abs=0.02)


def test_intervals_cover_and_p_values_are_even():
    """300 tests of two equally good models, and of two of known difference."""
    true = norm.cdf(1.5 / math.sqrt(2)) - norm.cdf(1 / math.sqrt(2))
    covered, found = [], []
    for seed in range(300):
        labels, first, second = two_models(seed)
        interval = compare_auc(labels, first, second, one_each(60)).difference
        covered.append(interval.low <= true <= interval.high)
        labels, first, second = two_models(seed, better=1.0)
        found.append(compare_auc(labels, first, second, one_each(60)).p)
    assert 0.91 <= np.mean(covered) <= 0.98
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert np.quantile(found, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)


def test_bootstrap_p_values_are_even_for_patients_of_several_slides():
    """Where slides of a patient are copies, DeLong on slides would find differences that are none."""
    few = []
    for seed in range(150):
        labels, first, second = two_models(seed, slides=40, better=1.0)
        many = [np.repeat(part, 4) for part in (labels, first, second)]
        few.append(compare_auc(*many, np.repeat(one_each(40), 4).tolist(), Bootstrap(200)).p < 0.1)
    assert 0.05 <= np.mean(few) <= 0.17


def test_swapping_models_turns_the_sign_and_nothing_else():
    labels, first, second = two_models()
    for patients in (one_each(60), [f"p{i // 2}" for i in range(60)]):
        there, back = (compare_auc(labels, *pair, patients, QUICK) for pair in ((first, second), (second, first)))
        assert there.difference.value == -back.difference.value
        assert there.difference.low == pytest.approx(-back.difference.high)
        assert there.difference.high == pytest.approx(-back.difference.low)
        assert there.p == pytest.approx(back.p)


@pytest.mark.parametrize("patients", [one_each(60), [f"p{i // 3}" for i in range(60)]])
def test_equal_models_do_not_differ(patients):
    labels, first, _ = two_models()
    found = compare_auc(labels, first, 3 * first + 1, patients, QUICK)
    assert found.difference == (0, 0, 0)
    assert found.p == 1


def test_perfect_against_reversed_is_a_difference_of_which_nothing_is_known():
    labels = np.arange(10) % 2 == 0
    found = compare_auc(labels, labels * 1.0, 1.0 - labels, one_each(10))
    assert found.difference == (1, 1, 1)
    assert math.isnan(found.p)


@pytest.mark.parametrize(("positives", "known"), [(0, False), (1, True)])
def test_too_few_slides_of_a_class_have_no_p_value(positives, known):
    labels = np.arange(10) < positives
    found = compare_auc(labels, np.arange(10.0), -np.arange(10.0), one_each(10))
    assert math.isnan(found.p)
    assert math.isfinite(found.difference.value) == known
    assert math.isnan(found.difference.low)


def test_all_figures_are_compared_on_the_same_draws():
    first, second = slide_scores(0), slide_scores(1)
    found = compare([first], [second], QUICK)
    one, other = slide_metrics(first, QUICK), slide_metrics(second, QUICK)
    assert set(found) == set(one) - {"calibration_error_if_true"}
    for name, comparison in found.items():
        assert comparison.method == BOOTSTRAP, "two slides a patient"
        assert (comparison.first, comparison.second) == pytest.approx((one[name].value, other[name].value))
        assert 2 / 301 <= comparison.p <= 1
        assert comparison.difference.low <= comparison.difference.high
    assert compare([first], [first], QUICK)["brier"][2:4] == ((0, 0, 0), 1)


def test_pairing_makes_the_interval_narrower_than_either_models_own():
    labels, first, second = two_models(shared=0.95, better=1.0)
    found = compare_auc(np.repeat(labels, 2), np.repeat(first, 2), np.repeat(second, 2), np.repeat(one_each(60), 2).tolist())
    own = slide_metrics(slide_scores(slides=60)._replace(labels=labels, probabilities=1 / (1 + np.exp(-first))))["auc"]
    assert found.difference.high - found.difference.low < 0.7 * (own.high - own.low)


def test_a_clear_difference_is_found_and_no_p_is_zero():
    labels, good, bad = two_models(better=4, worse=0)
    found = compare_auc(np.repeat(labels, 2), np.repeat(good, 2), np.repeat(bad, 2), np.repeat(one_each(60), 2).tolist(), QUICK)
    assert found.p == pytest.approx(2 / 301)
    assert found.difference.low > 0


def test_several_seeds_are_averaged_and_widen_the_interval():
    labels, first, second = two_models(slides=100)
    patients, noise = one_each(100), np.random.default_rng(0).normal(size=(6, 1, 100))
    wild = compare_auc(labels, first + 2 * noise[:3, 0], second + 2 * noise[3:, 0], patients, Bootstrap(1000))
    means = [np.mean([roc_auc_score(labels, row) for row in model + 2 * part[:, 0]])
             for model, part in ((first, noise[:3]), (second, noise[3:]))]
    assert (wild.first, wild.second) == pytest.approx(tuple(means))
    assert wild.difference.value == pytest.approx(means[0] - means[1])
    calm = compare_auc(labels, np.stack([first] * 3), np.stack([second] * 3), patients, Bootstrap(1000))
    assert wild.difference.high - wild.difference.low > calm.difference.high - calm.difference.low


def test_seeds_are_drawn_too():
    """All patients alike: what is left to vary is the seeds."""
    labels = np.arange(40) % 2 == 0
    perfect, useless = labels * 1.0, np.zeros(40)
    found = compare_auc(labels, np.stack([perfect, perfect, useless]), np.stack([useless] * 3), one_each(40), Bootstrap(2000))
    assert found.difference.value == pytest.approx(1 / 3)
    assert found.difference[1:] == pytest.approx((0, 0.5))


def test_classes_and_survival_are_compared():
    first, second = class_scores(), class_scores()._replace(probabilities=class_scores().probabilities[:, ::-1].copy())
    assert compare([first], [second], QUICK)["macro_auc"].difference.low > 0
    good = survival_scores()
    bad = good._replace(risks=-good.risks)
    found = compare([good], [bad], QUICK)
    assert found["c_index"].first == pytest.approx(1 - found["c_index"].second)
    assert found["c_index"].p == pytest.approx(2 / 301)
    assert found["integrated_brier"].p == 1


def test_undefined_figures_stay_undefined():
    scores = slide_scores()._replace(labels=np.ones(40, dtype=bool))
    found = compare([scores], [scores], Bootstrap(5))["specificity"]
    assert all(map(math.isnan, (found.first, found.difference.value, found.difference.low, found.p)))


def test_other_slides_and_unlike_numbers_of_seeds_are_refused():
    first = slide_scores()
    with pytest.raises(InputError, match="of the same slides with the same labels"):
        compare([first], [first._replace(labels=~first.labels)])
    with pytest.raises(InputError, match="of the same slides"):
        compare([first], [first._replace(patients=first.patients[::-1])])
    with pytest.raises(InputError, match="Found 2 and 1"):
        compare([first, first], [first])
    with pytest.raises(InputError, match="Found 0 and 0"):
        compare([], [])
    labels, one, other = two_models()
    with pytest.raises(InputError, match="Found 1 and 2"):
        compare_auc(labels, one, np.stack([other] * 2), one_each(60))


def test_draws_do_not_depend_on_the_size_of_blocks(monkeypatch):
    labels, first, second = two_models()
    models = np.stack([first, second]), np.stack([second, second])
    whole = compare_auc(labels, *models, one_each(60), QUICK)
    monkeypatch.setattr("milscope.metrics._bootstrap._BLOCK", 1000)
    assert compare_auc(labels, *models, one_each(60), QUICK).difference == whole.difference


def test_p_values_of_many_comparisons():
    assert holm([0.01, 0.04, math.nan, 0.03]) == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
