import numpy as np
import pytest
import torch
from tests.unit.surgery.drawn_gradients import at_odds, draw, flat, pair, rows_of, scaled

from milscope.surgery import PCGrad, UPGrad, gramian
from milscope.surgery._upgrad import dual_cone


def slow_upgrad(rows: torch.Tensor, rounds: int = 2_000) -> torch.Tensor:
    """Each flat vector projected on the dual cone by Hildreth's method: push off one half-space after the other."""
    total = torch.zeros_like(rows[0])
    for i in range(len(rows)):
        x, pushes = rows[i].clone(), torch.zeros(len(rows), dtype=rows.dtype)
        for turn in range(rounds):
            j = turn % len(rows)
            push = max(0.0, float(pushes[j] - rows[j] @ x / (rows[j] @ rows[j])))
            x, pushes[j] = x + (push - pushes[j]) * rows[j], push
        total = total + x
    return total / len(rows)


@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_equals_the_slow_loop(tasks: int) -> None:
    gradients = scaled(draw(1, tasks), *[2.0, 1.0, 0.5, 1.0][:tasks])
    gradients[0] = [part - 2 * other for part, other in zip(gradients[0], gradients[-1], strict=True)]
    torch.testing.assert_close(flat(UPGrad()(gradients)[0]), slow_upgrad(rows_of(gradients)), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("cosine", [-1.0, -0.9, -0.2, 0.5])
def test_two_are_half_of_pcgrad(cosine: float) -> None:
    both = pair(cosine, 3.0)
    half = 0.5 * flat(PCGrad()(both)[0])
    torch.testing.assert_close(flat(UPGrad()(both)[0]), half)
    solved = torch.from_numpy(dual_cone(gramian(both).numpy()))
    torch.testing.assert_close(solved @ rows_of(both), half, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_gradients_that_depend_on_each_other_are_solved(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(5, 2)) * 10.0 ** random.uniform(-20, 20, size=(5, 1))
    rows[1], rows[2] = -rows[0], 0
    products = rows @ rows.T
    weights = dual_cone(products)
    lengths = np.sqrt(products.diagonal())
    assert np.isfinite(weights).all()
    assert (products @ weights >= -1e-12 * lengths * (np.abs(weights) @ lengths)).all()


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_equals_torchjd(tasks: int) -> None:
    pytest.importorskip("quadprog", reason="torchjd[quadprog_projector]")
    torchjd = pytest.importorskip("torchjd.linalg")
    projector = torchjd.QuadprogProjector(norm_eps=0.0, reg_eps=0.0)
    weighting = pytest.importorskip("torchjd.aggregation").UPGradWeighting(projector=projector)
    for seed in range(10):
        products = gramian(at_odds(seed, tasks))
        torch.testing.assert_close(UPGrad().combination(products), weighting(products), rtol=1e-7, atol=1e-8)
