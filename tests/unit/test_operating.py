"""Operating points: the promises hold over redraws, at the price theory says; the band and the temperature do what they say."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax

from milscope.operating import (
    Band,
    Operating,
    fit_temperature,
    operating_point,
    patients_highest,
    patients_needed,
    rank_for,
    threshold_for_sensitivity,
    threshold_for_specificity,
)
from milscope.types import InputError

DRAWS = 1000
LAWS = {"normal": stats.norm(2, 1.5), "heavy tails": stats.cauchy(1, 1), "skewed, between 0 and 1": stats.beta(0.6, 3)}
STEP = 0.5
"""Ties: normal scores rounded to this."""
PAGE = Path(__file__).parents[2] / "docs" / "operating.md"


def redraw(law, patients, choose, seed=0):
    """The true shares at or above the thresholds chosen on redrawn calibration sets; `ties` rounds the normal law."""
    random = np.random.default_rng(seed)
    scores = LAWS["normal" if law == "ties" else law].rvs((DRAWS, patients), random_state=random)
    if law != "ties":
        return LAWS[law].sf([choose(row) for row in scores])
    thresholds = np.array([choose(row) for row in np.round(scores / STEP) * STEP])
    return LAWS["normal"].sf(np.ceil(thresholds / STEP) * STEP - STEP / 2)


def simulated(law, patients, sensitivity, confidence, guarantee):
    return redraw(law, patients, lambda scores: threshold_for_sensitivity(scores, sensitivity, confidence, guarantee))


def table(heading):
    """The rows of the docs' table below a heading."""
    lines = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[0], rows[2:]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("patients", "sensitivity", "confidence"), [
    (149, 0.98, 0.95), (400, 0.98, 0.95), (29, 0.9, 0.95), (100, 0.9, 0.8), (2, 0.5, 0.75)])
def test_exact_holds_at_its_confidence_and_is_not_needlessly_low(law, patients, sensitivity, confidence):
    found = simulated(law, patients, sensitivity, confidence, "exact")
    rank = rank_for(patients, sensitivity, confidence, "exact")
    theory = stats.beta(patients - rank + 1, rank)
    assert theory.sf(sensitivity) >= confidence - 1e-9
    if rank < patients:
        assert stats.beta(patients - rank, rank + 1).sf(sensitivity) < confidence, "one rank higher would promise too much"
    assert stats.binomtest(int((found >= sensitivity).sum()), DRAWS, confidence, "less").pvalue > 0.001
    assert stats.kstest(found, theory.cdf).pvalue > 0.001


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("patients", "sensitivity"), [(49, 0.98), (200, 0.98), (9, 0.9), (25, 0.9), (1, 0.5)])
def test_expected_holds_on_average_and_is_not_needlessly_low(law, patients, sensitivity):
    found = simulated(law, patients, sensitivity, 0.5, "expected")
    rank = rank_for(patients, sensitivity, 0.5, "expected")
    assert 1 - rank / (patients + 1) >= sensitivity - 1e-9 > 1 - (rank + 1) / (patients + 1)
    assert found.mean() >= sensitivity - 3 * found.std() / DRAWS**0.5
    assert stats.kstest(found, stats.beta(patients - rank + 1, rank).cdf).pvalue > 0.001


@pytest.mark.parametrize(("guarantee", "patients"), [("exact", 60), ("exact", 200), ("expected", 20), ("expected", 200)])
def test_ties_raise_the_sensitivity_only(guarantee, patients):
    found = simulated("ties", patients, 0.95, 0.95, guarantee)
    if guarantee == "exact":
        assert (found >= 0.95).mean() > 0.95
    else:
        assert found.mean() > 0.95


def test_all_scores_alike_are_all_called_positive():
    assert threshold_for_sensitivity(np.full(59, 1.5), 0.95) == 1.5
    upper = threshold_for_specificity(np.full(59, 1.5), 0.95)
    assert 1.5 < upper < 1.5 + 1e-15


@pytest.mark.parametrize("law", LAWS)
def test_specificity_is_the_mirror(law):
    found = 1 - redraw(law, 100, lambda scores: threshold_for_specificity(scores, 0.9))
    rank = rank_for(100, 0.9, 0.95, "exact")
    assert stats.kstest(found, stats.beta(100 - rank + 1, rank).cdf).pvalue > 0.001
    assert (found >= 0.9).mean() >= 0.93


@given(patients=st.integers(1, 400), missed=st.integers(0, 400), confidence=st.floats(0.5, 0.999))
def test_exact_is_clopper_and_pearson(patients, missed, confidence):
    missed = min(missed, patients - 1)
    lowest = stats.binomtest(patients - missed, patients).proportion_ci(2 * confidence - 1, "exact").low
    if 1e-6 < lowest < 1:
        assert rank_for(patients, lowest - 1e-7, confidence, "exact") >= missed + 1
        assert rank_for(patients, lowest + 1e-7, confidence, "exact") <= missed


@given(share=st.integers(1, 999), confidence=st.integers(1, 999), guarantee=st.sampled_from(["exact", "expected"]))
def test_patients_needed_are_just_enough(share, confidence, guarantee):
    share, confidence = share / 1000, confidence / 1000
    needed = patients_needed(share, confidence, guarantee)
    assert rank_for(needed, share, confidence, guarantee) >= 1
    assert rank_for(needed - 1, share, confidence, guarantee) == 0


@pytest.mark.parametrize(("share", "confidence", "guarantee", "needed"), [
    (0.98, 0.95, "exact", 149), (0.95, 0.95, "exact", 59), (0.9, 0.271, "exact", 3),
    (0.98, 0.95, "expected", 49), (0.9, 0.95, "expected", 9), (0.5, 0.95, "expected", 1)])
def test_patients_needed_by_hand(share, confidence, guarantee, needed):
    assert patients_needed(share, confidence, guarantee) == needed
    assert [rank_for(patients, share, confidence, guarantee) for patients in (needed - 1, needed)] == [0, 1]


@given(patients=st.integers(1, 148), share=st.integers(500, 999), confidence=st.integers(500, 999),
       guarantee=st.sampled_from(["exact", "expected"]))
def test_too_few_are_refused_with_ways_out_that_work(patients, share, confidence, guarantee):
    share, confidence, scores = share / 1000, confidence / 1000, np.arange(float(patients))
    if rank_for(patients, share, confidence, guarantee):
        return
    with pytest.raises(InputError) as told:
        threshold_for_sensitivity(scores, share, confidence, guarantee)
    line = str(told.value)
    assert "\n" not in line
    more = int(re.search(r"Set aside at least (\d+) positive patients", line)[1])
    lower = float(re.search(r"lower the sensitivity to ([\d.]+\d)", line)[1])
    threshold_for_sensitivity(np.arange(float(more)), share, confidence, guarantee)
    assert threshold_for_sensitivity(scores, lower, confidence, guarantee) == 0
    if less := re.search(r"lower the confidence to ([\d.]+\d)", line):
        threshold_for_sensitivity(scores, share, float(less[1]), guarantee)
    if 'guarantee "expected"' in line:
        threshold_for_sensitivity(scores, share, confidence, "expected")


@pytest.mark.parametrize(("patients", "guarantee", "line"), [
    (100, "exact", "`positive patients` should be at least 149 to promise sensitivity 0.98 with confidence 0.95. Found 100. "
     "Set aside at least 149 positive patients, lower the sensitivity to 0.97, lower the confidence to 0.867, or take the "
     "guarantee \"expected\"."),
    (0, "exact", "`positive patients` should be at least 149 to promise sensitivity 0.98 with confidence 0.95. Found 0. Set "
     "aside at least 149 positive patients."),
    (20, "expected", "`positive patients` should be at least 49 to promise sensitivity 0.98 on average. Found 20. Set aside at "
     "least 49 positive patients, or lower the sensitivity to 0.952."),
])
def test_the_line_for_too_few(patients, guarantee, line):
    with pytest.raises(InputError) as told:
        threshold_for_sensitivity(np.zeros(patients), 0.98, 0.95, guarantee)
    assert str(told.value) == line


def test_too_few_negatives_are_told_as_such():
    with pytest.raises(InputError, match=r"`negative patients` should be at least 59 to promise specificity 0.95 with"):
        threshold_for_specificity(np.zeros(12), 0.95)


@pytest.mark.parametrize(("settings", "line"), [
    ({"sensitivity": 1.0}, "`sensitivity` should be above 0 and below 1. Found 1.0"),
    ({"sensitivity": 0.0}, "`sensitivity`"),
    ({"sensitivity": float("nan")}, "`sensitivity`"),
    ({"confidence": 1.0}, "`confidence`"),
    ({"scores": np.array([0.0, np.nan])}, "`scores` should be finite. Found 1 of 2"),
    ({"scores": np.array([0.0, -np.inf])}, "`scores` should be finite"),
])
def test_refuses_what_no_threshold_can_be_chosen_from(settings, line):
    with pytest.raises(InputError, match=line):
        threshold_for_sensitivity(**{"scores": np.zeros(500), "sensitivity": 0.95, **settings})


def test_the_band_keeps_both_promises():
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(2, 1, 300), random.normal(0, 1, 300)])
    targets = np.repeat([1, 0], 300)
    found = operating_point(scores, targets, 0.95, specificity=0.95)
    decided = found.band.decide(scores)
    assert found.threshold < found.upper
    assert set(decided) == {"negative", "review", "positive"}
    assert (decided[targets == 1] == "negative").sum() == found.missed == rank_for(300, 0.95, 0.95, "exact") - 1
    assert (decided[targets == 0] == "negative").sum() == found.cleared
    assert (decided[targets == 0] == "positive").mean() < 0.05
    assert (found.positives, found.negatives) == (300, 300)


def test_where_one_threshold_keeps_both_promises_nothing_is_left_to_review():
    scores = np.concatenate([np.linspace(5, 6, 100), np.linspace(0, 1, 100)])
    found = operating_point(scores, np.repeat([1, 0], 100), 0.95, specificity=0.95)
    assert found.upper < found.threshold
    edge = np.array([found.upper, found.threshold - 1e-9, found.threshold])
    assert found.band.decide(edge).tolist() == ["negative", "negative", "positive"]


def test_without_review_there_is_one_threshold():
    found = operating_point(np.arange(60.0), np.ones(60, dtype=int), 0.95)
    assert (found.upper, found.specificity, found.negatives, found.cleared) == (None, None, 0, 0)
    assert found.band == Band(0.0, 0.0)
    assert found.band.decide(np.array([-0.1, 0.0, np.inf])).tolist() == ["negative", "positive", "positive"]


def test_a_score_that_is_no_number_is_not_decided():
    with pytest.raises(InputError, match=r"`scores` should be numbers. Found nan for 1 of 2"):
        Band(0.0, 1.0).decide(np.array([np.nan, 3.0]))


@pytest.mark.parametrize("guarantee", ["exact", "expected"])
def test_it_goes_into_json_and_comes_back(guarantee):
    scores, targets = np.random.default_rng(1).normal(size=300), np.arange(300) % 2
    found = operating_point(scores, targets, 0.9, guarantee, specificity=0.9, temperature=1.7)
    back = Operating(**json.loads(json.dumps(found._asdict(), allow_nan=False)))
    assert back == found
    assert back.confidence == (0.95 if guarantee == "exact" else None)
    assert (back.band.decide(scores) == found.band.decide(scores)).all()


def test_a_patient_scores_as_its_highest_slide():
    names, scores, targets = patients_highest(
        ["b", "a", "b", "c", "c"], np.array([3.0, 4.0, 1.0, 9.0, -2.0]), np.array([1.0, 0.0, 0.0, np.nan, 0.0]))
    assert (names, scores.tolist(), targets.tolist()) == (["a", "b", "c"], [4.0, 3.0, -2.0], [0, 1, 0])


def sample(slides, classes, steepness, seed=0):
    """Logits, and classes drawn from the softmax of the logits divided by the steepness."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (slides, classes))
    chance = softmax(logits / steepness, axis=1).cumsum(1)
    return logits, (random.random((slides, 1)) > chance).sum(1).clip(max=classes - 1)


@pytest.mark.parametrize("steepness", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_temperature_is_found_again(classes, steepness):
    logits, targets = sample(20_000, classes, steepness)
    assert fit_temperature(logits, targets) == pytest.approx(steepness, rel=0.06)


def test_the_temperature_is_the_least_of_a_fine_grid():
    logits, targets = sample(60, 3, 2.0)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    losses = [-np.log(softmax(logits / each, axis=1)[np.arange(60), targets]).mean() for each in grid]
    assert fit_temperature(logits, targets) == pytest.approx(grid[np.argmin(losses)], rel=1e-3)


def test_one_logit_a_slide_is_two_classes():
    logits, targets = sample(300, 2, 2.0)
    assert fit_temperature(logits[:, 1] - logits[:, 0], targets) == pytest.approx(fit_temperature(logits, targets), rel=1e-4)


@pytest.mark.parametrize(("logits", "targets"), [
    ([-3.0, -1.0, 2.0], [0, 0, 1]), ([-3.0, 1.0], [1, 1]), ([0.0, 0.0], [0, 1]), ([], [])])
def test_slides_that_cannot_tell_the_temperature_change_nothing(logits, targets):
    assert fit_temperature(np.array(logits), np.array(targets, dtype=int)) == 1.0


def test_a_model_that_is_always_wrong_gets_the_highest_temperature():
    assert fit_temperature(np.array([-3.0, 3.0]), np.array([1, 0])) == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize(("logits", "targets", "line"), [
    (np.array([1.0, np.inf]), np.array([0, 1]), "`logits` should be finite"),
    (np.zeros((2, 3)), np.array([0, 3]), "`targets` should be classes 0 to 2. Found 0 to 3"),
])
def test_refuses_what_no_temperature_can_be_fitted_on(logits, targets, line):
    with pytest.raises(InputError, match=line):
        fit_temperature(logits, targets)


def test_the_documented_simulation_is_the_simulation():
    _, rows = table("Shown by simulation")
    assert len(rows) >= 10
    for law, sensitivity, confidence, guarantee, patients, share, theory, mean, lowest in rows:
        found = simulated(law, int(patients), float(sensitivity), float(confidence or "0.5"), guarantee)
        if theory:
            rank = rank_for(int(patients), float(sensitivity), float(confidence or "0.5"), guarantee)
            exact = stats.beta(int(patients) - rank + 1, rank).sf(float(sensitivity))
            assert float(theory) == pytest.approx(exact, abs=0.0006)
        shown = [(found >= float(sensitivity)).mean(), found.mean(), np.quantile(found, 0.05)]
        assert [float(share), float(mean), float(lowest)] == pytest.approx(shown, abs=0.0006), (law, guarantee, patients)


def test_the_documented_numbers_of_patients_are_right():
    header, rows = table("How many positive patients it takes")
    for sensitivity, *counts in rows:
        for title, count in zip(header[1:], counts, strict=True):
            guarantee, _, confidence = title.partition(" ")
            needed = patients_needed(float(sensitivity), float(confidence or "0.5"), guarantee)
            assert int(count) == needed, (sensitivity, title)
