import numpy as np
import pytest

from milscope.ranking._tails import FURTHEST, TAIL, excess, surprise

NORMAL = np.random.default_rng(0).normal(size=2000)
SLIDE = np.repeat(np.arange(8), 100)
POSITIVE = np.arange(8) < 4


def test_the_median_surprises_by_log_two():
    assert surprise(np.array([np.median(NORMAL)]), NORMAL)[0] == pytest.approx(np.log(2), abs=0.01)


def test_a_higher_score_is_never_less_surprising():
    assert (np.diff(surprise(np.linspace(-5, 30, 400), NORMAL)) >= 0).all()


def test_beyond_all_normal_cells_the_tail_is_exponential_and_ends():
    edge = np.quantile(NORMAL, 1 - TAIL)
    beyond = (NORMAL[edge <= NORMAL] - edge).mean()
    near, far = surprise(np.array([edge + 3 * beyond, edge + 1e6]), NORMAL)
    assert near == pytest.approx(-np.log(TAIL) + 3)
    assert far == pytest.approx(-np.log(TAIL) + FURTHEST)


def test_each_score_surprises_by_itself_in_counts_of_normal_cells():
    scores = np.array([-9.0, 0.3, 0.3, 2.0, 50.0])
    found = surprise(scores, NORMAL)
    np.testing.assert_array_equal(found, np.concatenate([surprise(part, NORMAL[::-1]) for part in np.split(scores, 5)]))
    assert found[:2] == pytest.approx(-np.log((np.array([2000, (NORMAL >= 0.3).sum()]) + 0.5) / 2001))
    assert surprise(np.array([50.0]), np.arange(100.0)) == pytest.approx(np.log(2))  # a normal cell as high counts


def test_normal_cells_that_are_all_alike_give_finite_surprise():
    assert np.isfinite(surprise(np.array([-1.0, 0.0, 1.0]), np.zeros(50))).all()


def test_perfect_separation_gains_log_two_a_witness():
    scores = np.random.default_rng(1).random(800)
    found = POSITIVE[SLIDE] & (np.arange(800) % 100 < 4)
    scores[found] += 10
    assert excess(scores, SLIDE, POSITIVE) == pytest.approx((found.sum() * np.log(2), 16, 16, 8))


def test_no_excess_no_gain_and_an_excess_on_normal_slides_none_either():
    scores = np.random.default_rng(1).random(800)
    scores[~POSITIVE[SLIDE] & (np.arange(800) % 100 < 20)] += 10
    assert excess(scores, SLIDE, POSITIVE) == (0, 0, 0, 0)


def test_chance_gains_little():
    gains = [excess(np.random.default_rng(seed).random(800), SLIDE, POSITIVE).nats for seed in range(40)]
    assert np.mean(gains) < 2


def test_highest_cells_that_crowd_one_normal_slide_make_all_less_sure():
    scores, cell = np.random.default_rng(1).random(800), np.arange(800) % 100
    scores[POSITIVE[SLIDE] & (cell < 8)] += 10
    spread, crowded = scores.copy(), scores.copy()
    spread[~POSITIVE[SLIDE] & (cell < 3)] += 10
    crowded[(SLIDE == 6) & (cell < 12)] += 10
    assert excess(crowded, SLIDE, POSITIVE).nats < 0.5 * excess(spread, SLIDE, POSITIVE).nats
