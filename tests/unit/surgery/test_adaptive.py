import pytest
import torch
from tests.unit.surgery.drawn_gradients import at_odds, draw, flat, pair, plain_sum, rows_of

from milscope.surgery import AdaptiveSurgery, OneWaySurgery, PCGrad, gramian


def slow_ags(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """From the sentence in the paper, on flat vectors."""
    dot = first @ second
    if dot >= 0:
        return first + second
    joined = (first - dot / (second @ second) * second) + (second - dot / (first @ first) * first)
    return joined * (first + second).norm() / joined.norm()


def slow_one_way(rows: torch.Tensor, *, keep_length: bool) -> torch.Tensor:
    """Each vector projected off those before it, the first one last."""
    total = torch.zeros_like(rows[0])
    for i in range(len(rows)):
        left = rows[i]
        for j in range(i - 1, -1, -1):
            left = left - min(0, left @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total = total + left
    return total * rows.sum(0).norm() / total.norm() if keep_length else total


@pytest.mark.parametrize("seed", range(10))
def test_ags_equals_the_formula(seed: int) -> None:
    for gradients in (draw(seed), pair(-0.7, 3.0, seed)):
        torch.testing.assert_close(flat(AdaptiveSurgery()(gradients)[0]), slow_ags(*rows_of(gradients)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_ags_of_two_is_the_closed_form_bit_for_bit(seed: int) -> None:
    products = gramian(pair(-0.7, 3.0, seed))
    assert torch.equal(AdaptiveSurgery().combination(products), 1 - products[0, 1] / products.diagonal())


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_ags_is_pcgrad_at_the_length_of_the_sum(tasks: int) -> None:
    gradients = at_odds(0, tasks)
    step, projections = flat(AdaptiveSurgery()(gradients)[0]), flat(PCGrad()(gradients)[0])
    torch.testing.assert_close(step, projections * plain_sum(gradients).norm() / projections.norm())


def test_ags_amplifies_a_remainder_unless_bounded() -> None:
    both = pair(-0.999, 10.0)
    assert AdaptiveSurgery()(both)[1].rescale.item() == pytest.approx(18.2, abs=0.2)
    step, telemetry = AdaptiveSurgery(rescale_bound=2.0)(both)
    assert telemetry.rescale.item() == 2.0
    assert flat(step).norm() < plain_sum(both).norm()


def test_ags_keeps_the_length_until_float32_would_not_see_what_is_left() -> None:
    for far, kept in ((1e-6, True), (1e-12, False)):
        both = pair(-1 + far, 10.0)
        share = flat(AdaptiveSurgery()(both)[0]).norm() / plain_sum(both).norm()
        assert (abs(share.item() - 1) < 1e-6) == kept


@pytest.mark.parametrize("keep_length", [False, True])
@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_one_way_equals_the_slow_loop(tasks: int, keep_length: bool) -> None:
    for seed in range(4):
        gradients = at_odds(seed, tasks)
        found = flat(OneWaySurgery(keep_length=keep_length)(gradients)[0])
        torch.testing.assert_close(found, slow_one_way(rows_of(gradients), keep_length=keep_length), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_one_way_leaves_the_first_exactly_its_own_step(ratio: float) -> None:
    both = pair(-0.9, ratio)
    first = flat(both[0])
    assert (flat(OneWaySurgery(keep_length=False)(both)[0]) @ first).item() == pytest.approx((first @ first).item())


def test_one_way_depends_on_who_is_first() -> None:
    both = pair(-0.9, 2.0)
    assert (flat(OneWaySurgery()(both)[0]) - flat(OneWaySurgery()(both[::-1])[0])).norm() > 0.1


def test_one_way_is_bounded_if_asked() -> None:
    both = pair(-0.5, 1.0)
    assert OneWaySurgery(rescale_bound=0.5)(both)[1].rescale.item() == 0.5
