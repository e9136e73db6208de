import math

import numpy as np
import pytest
from tests.unit.metrics.drawn_scores import repeated, survival_scores

from milscope.metrics import Bootstrap, SurvivalScores, c_index, survival_metrics, weighted_brier, weighted_c_index


def tied(scores):
    return scores._replace(times=np.ceil(scores.times / 2), risks=scores.risks.round())


def slow_c_index(times, events, risks):
    right = pairs = 0.0
    for i in range(len(times)):
        for j in range(len(times)):
            if events[i] and (times[i] < times[j] or (times[i] == times[j] and not events[j])):
                pairs += 1
                right += 1 if risks[i] > risks[j] else 0.5 if risks[i] == risks[j] else 0
    return right / pairs


def slow_brier(scores, time):
    """Graf's score from its formula: of each slide what it counts, from the chance of still being followed."""
    times, events = scores.times, scores.events

    def followed(until, *, itself):
        share = 1.0
        for moment in sorted(set(times)):
            if moment < until or (itself and moment == until):
                lost = np.sum((times == moment) & ~events)
                share *= 1 - lost / max(1, np.sum(times > moment) + lost)
        return share

    told = scores.survival[:, list(scores.grid).index(time)]
    total = 0.0
    for i in range(len(times)):
        if times[i] > time:
            total += (1 - told[i]) ** 2 / followed(time, itself=True)
        elif events[i]:
            total += told[i] ** 2 / followed(times[i], itself=False)
    return total / len(times)


@pytest.mark.parametrize("change", [lambda scores: scores, tied])
def test_c_index_of_every_draw_is_a_slow_count_of_the_drawn_slides(change):
    scores = change(survival_scores())
    assert c_index(*scores[:3]) == pytest.approx(slow_c_index(*scores[:3]))
    weights = np.random.default_rng(0).integers(0, 4, (5, 60)).astype(float)
    for drawn, row in zip(weighted_c_index(scores, weights), weights, strict=True):
        assert drawn == pytest.approx(slow_c_index(*repeated(scores, row)[:3]))


def test_figures_are_those_of_scikit_survival():
    """From scikit-survival 0.28.0, concordance_index_censored and integrated_brier_score, on these scores."""
    scores = survival_scores()
    assert c_index(*scores[:3]) == pytest.approx(0.83399209486166)
    assert c_index(*tied(scores)[:3]) == pytest.approx(0.806580259222333)
    assert weighted_brier(scores, np.ones((1, 60)))[0] == pytest.approx(
        [0.07540826, 0.10914933, 0.14138185, 0.18148972])
    assert survival_metrics(scores, Bootstrap(2))["integrated_brier"].value == pytest.approx(0.13401083316513845)


def test_pairs_are_counted_alike_in_parts(monkeypatch):
    scores, weights = tied(survival_scores()), np.random.default_rng(0).integers(0, 4, (5, 60)).astype(float)
    whole = weighted_c_index(scores, weights)
    monkeypatch.setattr("milscope.metrics._survival._PAIRS", 300)
    assert weighted_c_index(scores, weights) == pytest.approx(whole)


@pytest.mark.parametrize("change", [lambda scores: scores, tied])
def test_brier_of_every_draw_is_a_slow_sum_over_the_drawn_slides(change):
    scores = change(survival_scores())
    weights = np.concatenate([np.ones((1, 60)), np.random.default_rng(0).integers(0, 4, (4, 60))])
    ours = weighted_brier(scores, weights)
    for row, drawn in zip(weights, ours, strict=True):
        again = repeated(scores, row)
        assert drawn == pytest.approx([slow_brier(again, time) for time in scores.grid])


def test_without_losses_the_brier_score_is_a_plain_mean():
    scores = survival_scores()._replace(events=np.ones(60, dtype=bool))
    plain = [np.mean((scores.survival[:, place] - (scores.times > time)) ** 2) for place, time in enumerate(scores.grid)]
    assert weighted_brier(scores, np.ones((1, 60)))[0] == pytest.approx(plain)


def test_risk_tells_the_order_of_events():
    times, events = np.arange(1.0, 9.0), np.arange(8) % 3 != 1
    assert c_index(times, events, -times) == 1
    assert c_index(times, events, times) == 0
    assert c_index(times, events, np.zeros(8)) == 0.5


def test_ties_in_time():
    both = np.array([True, True])
    assert math.isnan(c_index(np.array([3.0, 3.0]), both, np.array([1.0, 2.0])))
    assert c_index(np.array([3.0, 3.0]), np.array([True, False]), np.array([2.0, 1.0])) == 1
    assert c_index(np.array([3.0, 3.0]), np.array([True, False]), np.array([1.0, 2.0])) == 0


def test_without_events_nothing_is_defined():
    scores = survival_scores()._replace(events=np.zeros(60, dtype=bool), grid=None, survival=None)
    assert all(map(math.isnan, survival_metrics(scores, Bootstrap(3))["c_index"]))


def test_of_one_time_the_error_is_that_of_this_time():
    scores = survival_scores()
    one = scores._replace(grid=scores.grid[1:2], survival=scores.survival[:, 1:2])
    figures = survival_metrics(one, Bootstrap(50))
    assert set(figures) == {"c_index", "brier"}
    assert figures["brier"].value == pytest.approx(weighted_brier(scores, np.ones((1, 60)))[0, 1])
    assert figures["brier"].low < figures["brier"].value < figures["brier"].high


def test_times_when_nobody_is_followed_are_left_out():
    scores = survival_scores()
    longer = scores._replace(grid=np.append(scores.grid, [500.0]), survival=np.pad(scores.survival, ((0, 0), (0, 1))))
    assert survival_metrics(longer, Bootstrap(20)) == survival_metrics(scores, Bootstrap(20))
    late = scores._replace(grid=np.array([500.0]), survival=scores.survival[:, :1])
    assert set(survival_metrics(late, Bootstrap(2))) == {"c_index"}


def test_slides_of_one_patient_are_not_compared_and_do_not_narrow_the_interval():
    once = survival_scores(slides=30)
    thrice = SurvivalScores(*(np.repeat(part, 3, axis=0) for part in once[:3]), np.repeat(once.patients, 3).tolist())
    plain = survival_metrics(once._replace(grid=None, survival=None), Bootstrap(100))
    assert survival_metrics(thrice, Bootstrap(100))["c_index"] == pytest.approx(plain["c_index"])
