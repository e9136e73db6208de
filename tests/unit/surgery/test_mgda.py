from itertools import combinations

import numpy as np
import pytest
import torch
from tests.unit.surgery.drawn_gradients import at_odds, draw, flat, pair, rows_of, scaled

from milscope.surgery import MGDA, gramian
from milscope.surgery._mgda import nearest_to_zero


def slow_mgda(rows: torch.Tensor) -> torch.Tensor:
    """The shortest of all points that are nearest to zero on the planes through some of the vectors, and between them."""
    found = []
    for count in range(1, len(rows) + 1):
        for some in combinations(range(len(rows)), count):
            corner, edges = rows[some[0]], rows[list(some[1:])] - rows[some[0]]
            if count == 1:
                found.append(corner)
                continue
            along = torch.linalg.lstsq(edges.T, -corner[:, None]).solution[:, 0]
            if (along >= 0).all() and along.sum() <= 1:
                found.append(corner + along @ edges)
    return min(found, key=lambda point: float(point.norm()))


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_search(tasks: int, seed: int) -> None:
    for gradients in (draw(seed, tasks), at_odds(seed, tasks)):
        torch.testing.assert_close(flat(MGDA()(gradients)[0]), slow_mgda(rows_of(gradients)), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tasks", [2, 3, 6])
@pytest.mark.parametrize("scales", [(1.0,), (1e-3, 1e3), (1e-20, 1e20)], ids=str)
def test_conditions_of_the_minimum(tasks: int, scales: tuple[float, ...]) -> None:
    for seed in range(10):
        each = [scales[i % len(scales)] for i in range(tasks)]
        products = gramian(scaled(at_odds(seed, tasks), *each))
        weights = MGDA().combination(products)
        lengths = products.diagonal().sqrt()
        against = (products @ weights - weights @ products @ weights) / (lengths * lengths.min())
        assert weights.sum().item() == pytest.approx(1)
        assert (weights >= 0).all()
        assert (against >= -1e-9).all()
        assert (against * weights * lengths / lengths.min()).abs().max() < 1e-9


@pytest.mark.parametrize(("cosine", "ratio", "weights"), [
    (0.0, 1.0, (0.5, 0.5)), (0.0, 2.0, (0.2, 0.8)), (0.9, 2.0, (0.0, 1.0)), (-1.0, 3.0, (0.25, 0.75)), (1.0, 1.0, (0.5, 0.5))])
def test_two_in_closed_form(cosine: float, ratio: float, weights: tuple[float, float]) -> None:
    assert MGDA().combination(gramian(pair(cosine, ratio))).tolist() == pytest.approx(weights, abs=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_closed_form_and_solver_agree(seed: int) -> None:
    products = gramian(pair(-0.5 + seed / 10, 2.0, seed))
    assert nearest_to_zero(products.numpy()) == pytest.approx(MGDA().combination(products).numpy(), abs=1e-12)


def test_a_zero_gradient_stops_all() -> None:
    for tasks in (2, 3):
        gradients = scaled(draw(0, tasks), *[1.0, 0.0, 1.0][:tasks])
        assert (flat(MGDA()(gradients)[0]) == 0).all()


def test_nothing_is_left_where_no_step_improves_all() -> None:
    rows = rows_of(draw(0, 3))
    centred = rows - rows.mean(0)
    assert nearest_to_zero((centred @ centred.T).numpy()) @ centred.numpy() == pytest.approx(np.zeros(31), abs=1e-10)


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_equals_torchjd(tasks: int) -> None:
    weighting = pytest.importorskip("torchjd.aggregation").MGDAWeighting(epsilon=1e-12, max_iters=3000)
    for seed in range(5):
        products = gramian(draw(seed, tasks))
        torch.testing.assert_close(MGDA().combination(products), weighting(products), rtol=0, atol=1e-3)
