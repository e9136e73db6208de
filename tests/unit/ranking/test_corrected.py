"""Few verdicts, some of them wrong, put abnormal cells of other slides first; the gain is that of slides not learned from."""

import numpy as np
import pytest

from milscope.ranking import Examples, _corrected, learn_corrections, measure_gain
from milscope.ranking._corrected import _trust
from milscope.types import InputError

WIDTH = 40


def planted(seed, *, shift=4.0, verdicts=4, slides=10, known_normal=True, wrong=()):
    """Slides of 40 cells, 8 of them abnormal on odd slides; the first `verdicts` of each kind of odd slides judged."""
    random = np.random.default_rng(seed)
    slide = np.repeat(np.arange(slides), 40)
    abnormal = (slide % 2 == 1) & (np.arange(len(slide)) % 40 < 8)
    looks = random.normal(size=(len(slide), WIDTH))
    looks[abnormal, :3] += shift
    place = np.arange(len(slide)) % 40
    judged = (slide % 2 == 1) & ((place < verdicts) | ((place >= 20) & (place < 20 + verdicts)))
    verdict = np.where(judged, abnormal.astype(float), np.nan)
    rows = np.flatnonzero(judged)[list(wrong)]
    verdict[rows] = 1 - verdict[rows]
    return Examples(looks, random.normal(size=len(slide)), slide, verdict, (slide % 2 == 0) & known_normal), abnormal


def new_cells(seed, count=400, shift=4.0):
    random = np.random.default_rng([seed, 1])
    looks, abnormal = random.normal(size=(count, WIDTH)), np.arange(count) < count // 20
    looks[abnormal, :3] += shift
    return looks, random.normal(size=count), abnormal


def first(scores, abnormal):
    """The share of abnormal cells among as many first ones."""
    return abnormal[np.argsort(-scores)[: abnormal.sum()]].mean()


@pytest.mark.parametrize("known_normal", [True, False])
@pytest.mark.parametrize("wrong", [(), (0, 17)], ids=["right", "5 % wrong"])
def test_abnormal_cells_of_slides_nobody_judged_come_first_though_the_order_before_knew_nothing(known_normal, wrong):
    shares = []
    for seed in range(4):
        corrector = learn_corrections(planted(seed, known_normal=known_normal, wrong=wrong)[0])
        looks, prior, abnormal = new_cells(seed)
        shares.append(first(corrector(looks, prior), abnormal))
    assert np.mean(shares) > 0.85, shares
    assert first(prior, abnormal) < 0.3


def test_what_was_called_abnormal_and_looks_like_any_other_cell_counts_less():
    random = np.random.default_rng(0)
    ordinary, odd, usual = random.normal(size=(10, WIDTH)), random.normal(size=(3, WIDTH)), random.normal(size=(900, WIDTH))
    odd[:, :3] += 6
    trust = _trust(np.concatenate([odd, ordinary]), usual)
    assert trust[:3].min() > 2 * trust[3:].mean()
    assert trust.max() < 1
    assert _trust(odd, usual).min() > 0.95, "where all stand out they weigh alike"
    np.testing.assert_array_equal(_trust(ordinary, usual[:3]), np.ones(10))


def test_one_abnormal_cell_is_heard_better_among_ordinary_ones_that_were_called_abnormal_by_mistake(monkeypatch):
    shares = []
    for trusting in (_trust, lambda judged, others: np.ones(len(judged))):
        monkeypatch.setattr(_corrected, "_trust", trusting)
        for seed in range(3):
            examples, abnormal = planted(seed, shift=8.0, verdicts=20, slides=20)
            verdict = np.where(abnormal, np.nan, examples.verdict)
            verdict[np.flatnonzero(abnormal & examples.judged)[0]] = 1
            verdict[np.flatnonzero(examples.judged & ~abnormal)[::20]] = 1
            looks, prior, sought = new_cells(seed, shift=8.0)
            shares.append(first(learn_corrections(examples._replace(verdict=verdict))(looks, prior), sought))
    assert np.mean(shares[:3]) > np.mean(shares[3:]) + 0.1, shares


def test_where_looks_say_nothing_the_order_before_stays_to_be_seen():
    examples, abnormal = planted(0, shift=0.0)
    looks, _, _ = new_cells(0, shift=0.0)
    scores = learn_corrections(examples._replace(prior=examples.prior + 3 * abnormal))(looks, np.linspace(-3, 3, len(looks)))
    assert np.corrcoef(scores, np.arange(len(scores)))[0, 1] > 0.8


def test_many_cells_of_normal_slides_do_not_drown_what_was_judged_normal():
    """What all judged cells share, and no other cell, is not what is sought; all others together weigh as much as verdicts."""
    few, _ = planted(0)
    few.looks[few.judged, 5:8] += 6
    many = Examples(*(np.concatenate([part, *[part[few.normal]] * 40]) for part in few))
    sought, shared = np.zeros((1, WIDTH)), np.zeros((1, WIDTH))
    sought[0, :3], shared[0, 5:8] = 4, 6
    corrector = learn_corrections(many)
    assert corrector(sought, np.zeros(1)) > corrector(shared, np.zeros(1)) + 1


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_one_kind_of_verdicts_is_refused(kind):
    examples, _ = planted(0)
    alone = examples._replace(verdict=np.where(examples.verdict == kind, kind, np.nan))
    with pytest.raises(InputError, match="of both kinds of cells"):
        learn_corrections(alone)


def test_the_gain_is_counted_on_cells_that_were_not_learned_from():
    found = measure_gain(planted(0)[0])
    assert (found.judged, found.abnormal, found.chance) == (40, 20, 10)
    assert found.after >= 18 > 14 > found.before


def test_verdicts_without_sense_gain_nothing():
    """In the cells that are learned from even these would be told apart: there are as many looks as verdicts."""
    gains = []
    for seed in range(12):
        examples, _ = planted(seed, shift=0.0)
        gains.append(measure_gain(examples, seed))
    after, chance = (np.mean([getattr(gain, name) for gain in gains]) for name in ("after", "chance"))
    assert after == pytest.approx(chance, abs=1.6)
    learned, known = examples.of(examples.judged), examples.judged
    scores = learn_corrections(examples)(learned.looks, learned.prior)
    assert first(scores, examples.verdict[known] == 1) > 0.8


def test_with_one_slide_there_is_nothing_to_hold_out():
    examples, _ = planted(0)
    assert measure_gain(examples._replace(verdict=np.where(examples.slide == 1, examples.verdict, np.nan))) is None
