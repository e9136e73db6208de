import pytest
import torch
from tests.unit.surgery.drawn_gradients import at_odds, draw, flat, pair, plain_sum, rows_of

from milscope.surgery import PCGrad, gramian


def slow_pcgrad(rows: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 of the paper on flat vectors, the others in cyclic order."""
    tasks, total = len(rows), torch.zeros_like(rows[0])
    for i in range(tasks):
        left = rows[i].clone()
        for k in range(1, tasks):
            other = rows[(i + k) % tasks]
            dot = left @ other
            if dot < 0:
                left = left - dot / (other @ other) * other
        total = total + left
    return total


@pytest.mark.parametrize("tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_loop(tasks: int, seed: int) -> None:
    for gradients in (draw(seed, tasks), at_odds(seed, tasks)):
        torch.testing.assert_close(flat(PCGrad()(gradients)[0]), slow_pcgrad(rows_of(gradients)), rtol=1e-10, atol=1e-10)


def test_order_matters_for_three() -> None:
    gradients = at_odds(0, 3)
    steps = [flat(PCGrad()([gradients[i] for i in order])[0]) for order in ((0, 1, 2), (0, 2, 1))]
    assert (steps[0] - steps[1]).norm() > 1e-3 * steps[0].norm()


def test_two_that_oppose_each_other_leave_nothing() -> None:
    first = draw(0, 1)[0]
    assert flat(PCGrad()([first, [-2 * part for part in first]])[0]).abs().max() < 1e-12


def test_the_length_of_the_sum_is_not_kept() -> None:
    gradients = pair(-0.9)
    assert flat(PCGrad()(gradients)[0]).norm() > 1.5 * plain_sum(gradients).norm()


@pytest.mark.parametrize("seed", range(10))
def test_equals_torchjd_for_two(seed: int) -> None:
    weighting = pytest.importorskip("torchjd.aggregation").PCGradWeighting()
    for products in (gramian(draw(seed)), gramian(pair(-0.7, 10.0, seed))):
        torch.testing.assert_close(PCGrad().combination(products), weighting(products), rtol=1e-10, atol=1e-12)
