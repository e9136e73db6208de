import math

import numpy as np
import pytest
from tests.unit.metrics.drawn_scores import slide_scores as example

from milscope.metrics import Bootstrap, bounds, intervals, resample, slide_metrics
from milscope.metrics._bootstrap import mean_of_defined


def test_patients_are_drawn_whole_and_in_their_strata():
    patients, positive = list("aabbbcdde"), np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=bool)
    draws = np.concatenate(list(resample(patients, positive, Bootstrap(200, seed=3))))
    assert draws.shape == (200, 9)
    for slides in ([0, 1], [2, 3, 4], [6, 7]):
        assert (draws[:, slides] == draws[:, slides[:1]]).all()
    one_each = draws[:, [0, 2, 5, 6, 8]]
    assert (one_each[:, [0, 3, 4]].sum(1) == 3).all()
    assert (one_each[:, [1, 2]].sum(1) == 2).all()
    assert one_each.mean(0) == pytest.approx(1, abs=0.2)


def test_draws_do_not_depend_on_the_size_of_blocks(monkeypatch):
    scores = example()
    whole = np.concatenate(list(resample(scores.patients, scores.labels, Bootstrap(50))))
    monkeypatch.setattr("milscope.metrics._bootstrap._BLOCK", 300)
    blocks = list(resample(scores.patients, scores.labels, Bootstrap(50)))
    assert len(blocks) > 1
    assert (np.concatenate(blocks) == whole).all()


def test_same_seed_same_interval_other_seed_another():
    first, again, other = (slide_metrics(example(), Bootstrap(100, seed=seed))["auc"] for seed in (1, 1, 2))
    assert first == again != other


def test_every_stratum_keeps_its_number_of_patients_in_every_draw():
    strata = np.array([0, 0, 0, 2, 2, 5, 1])
    draws = next(resample(list("abcdefe"), strata, Bootstrap(100)))
    for members in ([0, 1, 2], [3, 4], [5]):
        assert (draws[:, members].sum(1) == len(members)).all()
    assert (draws[:, 6] == draws[:, 4]).all(), "a patient is of its highest stratum"


def test_without_values_the_figure_is_that_of_every_slide_once():
    scores = example()
    given = intervals(scores, Bootstrap(20))
    assert given["auc"].value == pytest.approx(slide_metrics(scores, Bootstrap(20))["auc"].value)
    assert given["auc"][1:] == slide_metrics(scores, Bootstrap(20))["auc"][1:]


def test_the_mean_of_defined_parts():
    parts = np.array([[1.0, np.nan, 3.0], [np.nan] * 3])
    assert mean_of_defined(parts)[0] == 2
    assert math.isnan(mean_of_defined(parts)[1])


def test_bounds_are_percentiles_of_what_is_defined():
    assert bounds(np.array([np.nan, *np.arange(101.0)]), 0.9) == pytest.approx((5, 95))
    assert all(map(math.isnan, bounds(np.array([np.nan]), 0.9)))
