"""What is particular to each ranking that learns from slide labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from tests.planted_cells import planted

from milscope.ranking import RANKINGS, Lesson
from milscope.ranking import _density as density_of
from milscope.ranking import _mahalanobis as mahalanobis_of
from milscope.ranking import _selfpaced as selfpaced_of
from milscope.ranking import _svdd as svdd_of
from milscope.ranking._neighbours import neighbours
from milscope.ranking._pu import excess, risk
from milscope.types import InputError


def lesson(features, normal=None):
    features = np.asarray(features, dtype=np.float32)
    normal = np.ones(len(features), bool) if normal is None else np.asarray(normal)
    return Lesson(features, np.arange(len(features)), normal, 0)


def test_mahalanobis_is_the_distance_in_the_deviations_of_normal_cells():
    random = np.random.default_rng(0)
    mix = np.array([[2.0, 0.0], [1.5, 0.5]])
    cells = random.normal(size=(20_000, 2)) @ mix.T
    asked = np.array([[2.0, 1.5], [0.0, 0.5], [0.0, 0.0]], dtype=np.float32)
    true = np.linalg.norm(np.linalg.solve(mix, asked.T), axis=0)
    assert mahalanobis_of._learn(lesson(cells))(asked) == pytest.approx(true, rel=0.03, abs=0.03)


def test_neighbours_are_a_slow_loop_over_the_normal_cells_of_other_slides():
    seen = planted(slides=6, new=2, cells=5, width=3).seen
    normal = seen.features[seen.normal]
    features = (seen.features - normal.mean(0)) / normal.std(0)
    found = []
    for row, slide in zip(features, seen.slide, strict=True):
        others = features[seen.normal & (seen.slide != slide)]
        found.append(np.sort(np.linalg.norm(others - row, axis=1))[:5].mean())
    assert neighbours(seen) == pytest.approx(np.array(found), rel=1e-4)


def test_svdd_draws_normal_cells_to_its_centre_and_leaves_the_global_generator_alone():
    random = np.random.default_rng(0)
    normal = torch.from_numpy(random.normal(size=(600, 5)).astype(np.float32))
    before = torch.random.get_rng_state()
    score = svdd_of._member(normal, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert score(normal.numpy()).mean() == pytest.approx(1)
    assert score(np.full((1, 5), 5, np.float32)) > 2
    assert (score(normal.numpy()) == svdd_of._member(normal, 3)(normal.numpy())).all()
    assert (score(normal.numpy()) != svdd_of._member(normal, 4)(normal.numpy())).any()


def test_density_tells_the_ratio_of_two_gaussians_up_to_shrinkage(monkeypatch):
    random, monkey = np.random.default_rng(0), monkeypatch
    monkey.setattr(density_of, "STRENGTH", 1.0)
    cells = np.concatenate([random.normal(0, 1, (4000, 1)), random.normal(1, 1, (1000, 1))])
    score = density_of.classifier(lesson(cells, np.arange(5000) < 4000), np.arange(5000) >= 4000)
    asked = np.array([[-1.0], [0.5], [2.0]], dtype=np.float32)
    assert score(asked) == pytest.approx(asked[:, 0] - 0.5, abs=0.15)  # log N(x; 1, 1) / N(x; 0, 1)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.4])
def test_the_share_of_abnormal_cells_is_told(rate):
    random = np.random.default_rng(0)
    count = round(20_000 * rate)
    mixed = np.concatenate([random.normal(4, 1, count), random.normal(0, 1, 20_000 - count)])
    found = excess(random.normal(0, 1, 20_000), mixed)
    assert 0.75 * rate < found < 1.3 * rate


def test_without_abnormal_cells_the_least_share_is_told():
    random = np.random.default_rng(0)
    assert excess(random.normal(size=5000), random.normal(size=5000)) < 0.01


def test_the_risk_is_the_formula_and_its_hidden_part_is_never_below_zero():
    logits, normal = torch.tensor([0.3, -1.0, 2.0, -0.5]), torch.tensor([True, True, False, False])
    abnormal, other = -np.log(expit(logits.numpy())), -np.log(expit(-logits.numpy()))
    hidden = abnormal[2:].mean() - 0.9 * abnormal[:2].mean()
    assert hidden < 0
    assert float(risk(logits, normal, 0.1)) == pytest.approx(other[:2].mean() / 2)
    hidden = abnormal[:2].mean() - 0.9 * abnormal[2:].mean()
    assert float(risk(logits, ~normal, 0.1)) == pytest.approx(other[2:].mean() / 2 + hidden / 0.2)


def test_pseudo_labels_are_the_surest_cells_of_positive_slides_and_one_of_each():
    seen = planted(slides=6, new=2, cells=50).seen
    scores = np.random.default_rng(0).normal(size=300)
    scores[50:55] += 20  # of the first positive slide
    found = selfpaced_of._pseudo(seen, scores, 1.0)
    rows = np.flatnonzero(found)
    assert set(seen.slide[rows]) == {1, 3}
    assert {50, 51, 52, 53, 54} <= set(rows)
    assert np.argmax(np.where(seen.slide == 3, scores, -np.inf)) in rows
    assert selfpaced_of._pseudo(seen, scores, 0.1).sum() < found.sum()


def test_a_column_that_is_not_there_is_refused_with_a_way_out():
    cells = pd.DataFrame({"evidence": [1.0, 2.0], "svdd": np.float32([0.5, 0.25])})
    assert RANKINGS["svdd"](cells).tolist() == [0.5, 0.25]
    with pytest.raises(InputError, match=r"Found pu, which they do not hold. Run `milscope seek` with `--rankings pu`"):
        RANKINGS["pu"](cells)
