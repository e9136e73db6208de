import numpy as np
import pytest

from milscope.benchmark._over_seeds import MEASURES, auc_interval, drawn_figures, over_seeds, seed_shares, slide_weights
from milscope.metrics import Bootstrap, Interval, SlideScores

EACH = [{"slide": f"s{row}", "patient": f"p{row // 2}", "label": row % 2, "probability": (row * 7 % 10) / 10,
         "called": row % 3 == 0, **({"cell_auc": row / 10, "recall_at_10": row / 20} if row % 2 else {})} for row in range(10)]
BOOTSTRAP = Bootstrap(30)


def test_every_draw_has_the_figures_of_metrics():
    weights = slide_weights(EACH, BOOTSTRAP, 1)
    own = drawn_figures(EACH, weights)
    scores = SlideScores(np.array([row["label"] == 1 for row in EACH]), np.array([row["probability"] for row in EACH]),
                         np.array([row["called"] for row in EACH]), [row["patient"] for row in EACH])
    expected = scores.drawn(weights)
    assert set(own) == set(MEASURES)
    for name in ("auc", "average_precision", "f1", "sensitivity", "specificity"):
        np.testing.assert_allclose(own[name], expected[name])
    assert own["cell_auc"][0] == pytest.approx(np.mean([0.1, 0.3, 0.5, 0.7, 0.9]))
    assert np.isnan(own["precision_at_10"]).all()


def test_the_first_draw_is_the_data_and_patients_stay_together():
    weights = slide_weights(EACH, BOOTSTRAP, 1)
    assert (weights[0] == 1).all()
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (slide_weights(EACH, BOOTSTRAP, 2)[1:] != weights[1:]).any()


def test_seeds_without_a_value_are_left_out():
    shares = seed_shares(3, BOOTSTRAP)
    np.testing.assert_allclose(shares.sum(0), 1)
    values = np.full((3, 31), np.nan)
    values[0], values[1] = 1.0, 3.0
    drawn = over_seeds(values, shares)
    assert drawn[0] == pytest.approx(2)
    assert np.isnan(drawn).any() == bool((shares[:2].sum(0) == 0).any())
    assert ((drawn >= 1) | np.isnan(drawn)).all()


def test_an_auc_of_one_has_a_lower_bound_that_rises_with_the_slides():
    few, many = (auc_interval(Interval(1.0, 1.0, 1.0), slides, slides, 0.95) for slides in (4, 40))
    assert few.high == many.high == 1
    assert 0.4 < few.low < 0.7 < 0.9 < many.low < 0.97


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.85])
def test_the_score_interval_solves_its_equation_and_never_narrows(value):
    low, high = auc_interval(Interval(value, value, value), 20, 30, 0.95)[1:]
    mean = 25 - 1
    for bound in {low, high} - {0.0}:
        spread = 1 + mean * (1 - bound) / (2 - bound) + mean * bound / (1 + bound)
        assert abs(value - bound) == pytest.approx(1.959964 * np.sqrt(bound * (1 - bound) / 600 * spread), abs=1e-5)
    assert auc_interval(Interval(value, -1.0, 2.0), 20, 30, 0.95) == Interval(value, -1.0, 2.0)
