"""What rules that join gradients must do, in float64; `OBEYS` says which law each rule obeys."""

import pytest
import torch
from tests.unit.surgery.drawn_gradients import (
    agreeing,
    at_odds,
    draw,
    flat,
    pair,
    parted,
    plain_sum,
    rows_of,
    scaled,
)

from milscope.surgery import SURGERIES, Surgery, gramian

RULES = {name: build(None) for name, build in SURGERIES.items()}
OBEYS = {
    "ags": {"sum of agreeing", "length", "no conflict of two", "sum of equal lengths", "order of two", "start of circle",
            "zero ignored"},
    "ags-one-way": {"sum of agreeing", "length", "first not held back", "zero ignored"},
    "sum": {"sum of agreeing", "length", "sum of equal lengths", "order", "order of two", "start of circle", "zero ignored"},
    "pcgrad": {"sum of agreeing", "no conflict of two", "order of two", "start of circle", "zero ignored"},
    "upgrad": {"sum of agreeing", "no conflict", "no conflict of two", "order", "order of two", "start of circle",
               "zero ignored"},
    "mgda": {"no conflict", "no conflict of two", "order", "order of two", "start of circle", "shortest"},
}
SHARE = {"upgrad": lambda tasks: 1 / tasks}
"""What the rule's step is of the sum, where it is not the sum itself: UPGrad takes the mean."""
TASKS = pytest.mark.parametrize("tasks", [2, 3, 4])
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def rules(law: str | None = None) -> pytest.MarkDecorator:
    names = [name for name in RULES if law is None or law in OBEYS[name]]
    return pytest.mark.parametrize("name", names)


def step(name: str, gradients: list[list[torch.Tensor]]) -> torch.Tensor:
    return flat(RULES[name](gradients)[0])


def share(name: str, tasks: int) -> float:
    return SHARE.get(name, lambda _: 1.0)(tasks)


def test_every_rule_says_what_it_obeys() -> None:
    assert OBEYS.keys() == RULES.keys()


@rules("sum of agreeing")
@TASKS
def test_agreeing_gradients_give_the_plain_sum(name: str, tasks: int) -> None:
    gradients = agreeing(0, tasks)
    torch.testing.assert_close(step(name, gradients), share(name, tasks) * plain_sum(gradients), **CLOSE)


@rules("length")
@TASKS
@pytest.mark.parametrize("seed", range(4))
def test_the_length_of_the_sum_is_kept(name: str, tasks: int, seed: int) -> None:
    gradients = at_odds(seed, tasks)
    torch.testing.assert_close(step(name, gradients).norm(), plain_sum(gradients).norm(), **CLOSE)


@rules("no conflict of two")
@pytest.mark.parametrize("cosine", [-0.1, -0.6, -0.99])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 4.0])
def test_two_gradients_are_left_without_conflict(name: str, cosine: float, ratio: float) -> None:
    gradients = pair(cosine, ratio)
    assert (rows_of(gradients) @ step(name, gradients) >= -1e-12).all()


@rules("no conflict")
@TASKS
@pytest.mark.parametrize("seed", range(4))
def test_any_number_is_left_without_conflict(name: str, tasks: int, seed: int) -> None:
    gradients = at_odds(seed, tasks)
    assert (rows_of(gradients) @ step(name, gradients) >= -1e-10).all()


@rules("first not held back")
@TASKS
@pytest.mark.parametrize("seed", range(4))
def test_the_first_is_not_held_back(name: str, tasks: int, seed: int) -> None:
    gradients = at_odds(seed, tasks)
    weights = RULES[name].combination(gramian(gradients))
    first = flat(gradients[0])
    assert first @ (weights @ rows_of(gradients)) >= first @ first - 1e-10


@rules("sum of equal lengths")
@pytest.mark.parametrize("cosine", [-0.1, -0.6, -0.99])
def test_two_of_equal_length_give_the_plain_sum(name: str, cosine: float) -> None:
    gradients = pair(cosine)
    torch.testing.assert_close(step(name, gradients), plain_sum(gradients), **CLOSE)


@rules("order of two")
def test_the_order_of_two_does_not_matter(name: str) -> None:
    gradients = pair(-0.8, 3.0)
    torch.testing.assert_close(step(name, gradients), step(name, gradients[::-1]), **CLOSE)


@rules("start of circle")
def test_it_does_not_matter_where_the_circle_of_tasks_starts(name: str) -> None:
    gradients = at_odds(0, 4)
    torch.testing.assert_close(step(name, gradients), step(name, gradients[1:] + gradients[:1]), **CLOSE)


@rules("order")
def test_the_order_of_any_number_does_not_matter(name: str) -> None:
    gradients = at_odds(0, 4)
    torch.testing.assert_close(step(name, gradients), step(name, [gradients[i] for i in (2, 0, 3, 1)]), **CLOSE)


@rules("zero ignored")
@TASKS
@pytest.mark.parametrize("place", [0, -1])
def test_a_zero_gradient_is_ignored(name: str, tasks: int, place: int) -> None:
    others = at_odds(0, tasks - 1)
    gradients = list(others)
    gradients.insert(place if place == 0 else tasks, [torch.zeros_like(part) for part in others[0]])
    alone = step(name, others) * share(name, tasks) / share(name, tasks - 1)
    torch.testing.assert_close(step(name, gradients), alone, **CLOSE)


@rules("shortest")
@TASKS
def test_no_mean_of_the_gradients_is_shorter(name: str, tasks: int) -> None:
    gradients = at_odds(1, tasks)
    means = torch.rand(1000, tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    means = torch.cat([means / means.sum(1, keepdim=True), torch.eye(tasks, dtype=torch.float64)])
    assert step(name, gradients).norm() <= (means @ rows_of(gradients)).norm(dim=1).min() + 1e-12


@rules()
def test_one_task_is_trained_as_without_surgery(name: str) -> None:
    gradient = draw(0, 1)
    joined, telemetry = RULES[name](gradient)
    assert torch.equal(flat(joined), flat(gradient[0]))
    assert torch.stack(telemetry).tolist() == [1, 1, 1]
    weights, rescale = RULES[name].weights(gramian(gradient))
    assert (weights.item(), rescale.item()) == (pytest.approx(1), pytest.approx(1))


@rules()
@TASKS
@pytest.mark.parametrize("factor", [1e-3, 7.0])
def test_scaling_all_gradients_scales_the_step(name: str, tasks: int, factor: float) -> None:
    gradients = at_odds(1, tasks)
    larger = scaled(gradients, *[factor] * tasks)
    torch.testing.assert_close(step(name, larger), factor * step(name, gradients), rtol=1e-9, atol=1e-10 * factor)


@rules()
@TASKS
def test_turning_all_gradients_turns_the_step(name: str, tasks: int) -> None:
    gradients = at_odds(2, tasks)
    square = torch.randn(31, 31, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(square).Q
    turned = [parted(turn @ flat(each)) for each in gradients]
    torch.testing.assert_close(step(name, turned), turn @ step(name, gradients), **CLOSE)


@rules()
@TASKS
def test_inputs_stay_as_they_were(name: str, tasks: int) -> None:
    gradients = at_odds(2, tasks)
    before = rows_of(gradients).clone()
    RULES[name](gradients)
    assert torch.equal(rows_of(gradients), before)


@rules()
@TASKS
def test_the_same_gradients_give_the_same_step_bit_for_bit(name: str, tasks: int) -> None:
    gradients = scaled(at_odds(3, tasks), *[1.0] * tasks, dtype=torch.float32)
    assert torch.equal(step(name, gradients), flat(SURGERIES[name](None)(gradients)[0]))


@rules()
@TASKS
def test_zeros_give_a_zero_step(name: str, tasks: int) -> None:
    zeros = scaled(draw(0, tasks), *[0.0] * tasks)
    joined, telemetry = RULES[name](zeros)
    assert (flat(joined) == 0).all()
    assert torch.stack(telemetry).tolist() == [0, 1, 1]


@rules()
@pytest.mark.parametrize("bound", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factors", [(1, -1), (1, -3), (1, 1, -2), (3, -1, 0)], ids=str)
def test_what_cancels_is_not_blown_up(name: str, bound: float | None, dtype: torch.dtype, factors: tuple[float, ...]) -> None:
    one = draw(3, 1)
    gradients = scaled(one * len(factors), *factors, dtype=dtype)
    joined, telemetry = SURGERIES[name](bound)(gradients)
    assert flat(joined).norm() <= 1.01 * rows_of(gradients).norm(dim=1).sum()
    assert torch.isfinite(torch.stack(telemetry)).all()


@rules()
@TASKS
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("power", [-20, 20])
def test_float32_gradients_of_any_size_give_the_float64_step(name: str, tasks: int, seed: int, power: int) -> None:
    plain = at_odds(seed, tasks)
    extreme = scaled(plain, *[10.0**power] * tasks, dtype=torch.float32)
    found = step(name, extreme).double() * 10.0**-power
    assert (found - step(name, plain)).norm() < 1e-5 * plain_sum(plain).norm() / share(name, tasks)


@rules()
@pytest.mark.parametrize("factors", [(1e-20, 1e20), (1e20, 1e-20), (1e20, 0), (1e-20, 1, 1e20), (1e20, 1e-20, 1e-20)], ids=str)
def test_finite_where_lengths_are_worlds_apart(name: str, factors: tuple[float, ...]) -> None:
    gradients = scaled(at_odds(0, len(factors)), *factors, dtype=torch.float32)
    joined, telemetry = RULES[name](gradients)
    assert torch.isfinite(flat(joined)).all()
    assert torch.isfinite(torch.stack(telemetry)).all()


@rules()
@TASKS
def test_a_gradient_that_is_no_number_is_not_hidden(name: str, tasks: int) -> None:
    gradients = draw(0, tasks)
    gradients[0] = [part * torch.nan for part in gradients[0]]
    assert torch.isnan(step(name, gradients)).any()


@rules()
def test_telemetry_of_two(name: str) -> None:
    telemetry = RULES[name](pair(-0.6, 5.0))[1]
    assert telemetry.cosine.item() == pytest.approx(-0.6)
    assert telemetry.length_ratio.item() == pytest.approx(5.0)
    assert RULES[name](pair(-0.6, 0.2))[1].length_ratio.item() == pytest.approx(0.2)


@rules()
def test_telemetry_of_more_is_of_the_worst_pair(name: str) -> None:
    first, second = pair(-0.6, 5.0)
    telemetry = RULES[name]([second, first, scaled([first], 0.1)[0]])[1]
    assert telemetry.cosine.item() == pytest.approx(-0.6)
    assert telemetry.length_ratio.item() == pytest.approx(10.0)


@rules()
def test_rescaling_of_two_is_what_the_telemetry_says(name: str) -> None:
    gradients = pair(-0.9, 5.0)
    rule: Surgery = RULES[name]
    unscaled = rule.combination(gramian(gradients)) @ rows_of(gradients)
    torch.testing.assert_close(step(name, gradients), rule(gradients)[1].rescale * unscaled, **CLOSE)
