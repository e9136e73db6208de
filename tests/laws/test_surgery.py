"""What every rule that joins two gradients must do; each rule says which laws it obeys."""

import pytest
import torch

from milscope.surgery import AdaptiveSurgery, OneWaySurgery, PlainSum, Surgery, gramian

RULES = {"ags": AdaptiveSurgery(), "one-way": OneWaySurgery(), "sum": PlainSum()}
SHAPES = [(4, 3), (7,), (2, 2, 3)]


def gradients(seed: int, cosine: float | None = None, ratio: float = 1.0) -> list[list[torch.Tensor]]:
    """Two gradients over three parameters, with a given cosine and length ratio if asked."""
    generator = torch.Generator().manual_seed(seed)
    first, other = (torch.randn(31, dtype=torch.float64, generator=generator) for _ in range(2))
    if cosine is None:
        flats = (first, other)
    else:
        first = first / first.norm()
        other = other - (other @ first) * first
        other = other / other.norm()
        flats = (first * ratio, cosine * first + (1 - cosine**2) ** 0.5 * other)
    return [[part.view(shape) for part, shape in zip(flat.split([12, 7, 12]), SHAPES, strict=True)] for flat in flats]


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def plain_sum(both: list[list[torch.Tensor]]) -> torch.Tensor:
    return flat(both[0]) + flat(both[1])


def slow_ags(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """From the sentence in the paper, on flat vectors."""
    dot = first @ second
    if dot >= 0:
        return first + second
    joined = (first - dot / (second @ second) * second) + (second - dot / (first @ first) * first)
    return joined * (first + second).norm() / joined.norm()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
class TestEveryRule:
    def test_agreeing_gradients_give_the_plain_sum(self, rule: Surgery) -> None:
        both = gradients(0, cosine=0.3, ratio=2.0)
        assert torch.allclose(flat(rule(both)[0]), plain_sum(both), atol=1e-12)

    @pytest.mark.parametrize("seed", range(5))
    def test_length_is_kept(self, rule: Surgery, seed: int) -> None:
        both = gradients(seed, cosine=-0.7, ratio=3.0)
        assert torch.allclose(flat(rule(both)[0]).norm(), plain_sum(both).norm(), atol=1e-12)

    def test_a_zero_gradient_is_ignored(self, rule: Surgery) -> None:
        first = gradients(0)[0]
        for both in ([first, [torch.zeros_like(part) for part in first]], [[torch.zeros_like(part) for part in first], first]):
            assert torch.allclose(flat(rule(both)[0]), flat(first), atol=1e-12)

    def test_scaling_all_gradients_scales_the_step(self, rule: Surgery) -> None:
        both = gradients(1, cosine=-0.5, ratio=0.2)
        scaled = [[7 * part for part in task] for task in both]
        assert torch.allclose(flat(rule(scaled)[0]), 7 * flat(rule(both)[0]), atol=1e-10)

    def test_inputs_stay_as_they_were(self, rule: Surgery) -> None:
        both = gradients(2, cosine=-0.5)
        before = [[part.clone() for part in task] for task in both]
        rule(both)
        assert all(torch.equal(a, b) for task, old in zip(both, before, strict=True) for a, b in zip(task, old, strict=True))

    def test_opposite_gradients_stay_finite(self, rule: Surgery) -> None:
        first = gradients(3)[0]
        step, telemetry = rule([first, [-part for part in first]])
        assert torch.isfinite(flat(step)).all()
        assert torch.isfinite(torch.stack(telemetry)).all()

    def test_telemetry(self, rule: Surgery) -> None:
        telemetry = rule(gradients(4, cosine=-0.6, ratio=5.0))[1]
        assert telemetry.cosine.item() == pytest.approx(-0.6)
        assert telemetry.length_ratio.item() == pytest.approx(5.0)


@pytest.mark.parametrize("seed", range(10))
def test_ags_equals_the_formula(seed: int) -> None:
    both = gradients(seed)
    assert torch.allclose(flat(AdaptiveSurgery()(both)[0]), slow_ags(flat(both[0]), flat(both[1])), atol=1e-12)


@pytest.mark.parametrize("cosine", [-0.1, -0.6, -0.99])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 4.0])
def test_ags_leaves_no_conflict(cosine: float, ratio: float) -> None:
    both = gradients(0, cosine=cosine, ratio=ratio)
    step = flat(AdaptiveSurgery()(both)[0])
    assert step @ flat(both[0]) >= -1e-12
    assert step @ flat(both[1]) >= -1e-12


def test_ags_ignores_the_order_of_the_two() -> None:
    both = gradients(0, cosine=-0.8, ratio=3.0)
    assert torch.allclose(flat(AdaptiveSurgery()(both)[0]), flat(AdaptiveSurgery()(both[::-1])[0]), atol=1e-12)


def test_ags_on_equal_lengths_is_the_plain_sum() -> None:
    both = gradients(0, cosine=-0.8, ratio=1.0)
    assert torch.allclose(flat(AdaptiveSurgery()(both)[0]), plain_sum(both), atol=1e-12)


def test_ags_amplifies_a_remainder_unless_bounded() -> None:
    both = gradients(0, cosine=-0.999, ratio=10.0)
    assert AdaptiveSurgery()(both)[1].rescale.item() == pytest.approx(18.2, abs=0.2)
    step, telemetry = AdaptiveSurgery(rescale_bound=2.0)(both)
    assert telemetry.rescale.item() == 2.0
    assert flat(step).norm() < plain_sum(both).norm()


def test_one_way_never_holds_the_first_back() -> None:
    both = gradients(0, cosine=-0.9, ratio=0.5)
    step = flat(OneWaySurgery(keep_length=False)(both)[0])
    first = flat(both[0])
    assert (step @ first).item() == pytest.approx((first @ first).item())


def test_gramian_is_the_inner_products() -> None:
    both = gradients(5)
    rows = torch.stack([flat(task) for task in both])
    assert torch.allclose(gramian(both), rows @ rows.T)
