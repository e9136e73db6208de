import pytest
import torch
from tests.unit.surgery.drawn_gradients import at_odds, flat, rows_of, scaled

from milscope.surgery import AdaptiveSurgery, PlainSum, gramian


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_gramian_is_the_inner_products(tasks: int) -> None:
    rows = rows_of(at_odds(5, tasks))
    torch.testing.assert_close(gramian(at_odds(5, tasks)), rows @ rows.T)


@pytest.mark.parametrize("scales", [(1e-20, 1e-20), (1e20, 1e20), (1e-20, 1e20), (1, 1e20), (1e-30, 0)], ids=str)
def test_gramian_holds_what_float32_does_not(scales: tuple[float, float]) -> None:
    gradients = scaled(at_odds(0, 2), *scales, dtype=torch.float32)
    rows = rows_of(gradients).double()
    torch.testing.assert_close(gramian(gradients), rows @ rows.T, rtol=1e-12, atol=0)


def test_gramian_in_its_safe_range_is_as_exact_as_float32() -> None:
    gradients = scaled(at_odds(0, 3), 1e-10, 1, 1e16, dtype=torch.float32)
    rows = rows_of(gradients).double()
    lengths = rows.norm(dim=1)
    assert ((gramian(gradients) - rows @ rows.T).abs() <= 1e-6 * lengths * lengths[:, None]).all()


def test_bf16_gradients_are_multiplied_in_float32() -> None:
    gradients = scaled(at_odds(0, 2), 1, 1, dtype=torch.bfloat16)
    rows = rows_of(gradients).double()
    torch.testing.assert_close(gramian(gradients), rows @ rows.T, rtol=1e-5, atol=1e-5)
    assert AdaptiveSurgery()(gradients)[0][0].dtype == torch.bfloat16


@pytest.mark.parametrize("mixed", [False, True])
def test_memory_formats_do_not_matter(mixed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(4, 3, 3, 5, generator=generator), torch.randn(6, 1, 1, 1, generator=generator)] for _ in range(2)]
    other = [[part.contiguous(memory_format=torch.channels_last) for part in each] for each in gradients]
    if mixed:
        other[0] = gradients[0]
    torch.testing.assert_close(gramian(other), gramian(gradients), rtol=1e-5, atol=1e-5)
    joined = AdaptiveSurgery()(other)[0]
    torch.testing.assert_close(flat(joined), flat(AdaptiveSurgery()(gradients)[0]))
    assert joined[0].is_contiguous(memory_format=torch.channels_last) != mixed


def test_plain_sum_is_what_training_on_the_sum_of_losses_does() -> None:
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    losses = [(weight @ weight).sum(), weight.sin().sum(), -3 * weight.norm()]
    gradients = [torch.autograd.grad(loss, [weight], retain_graph=True) for loss in losses]
    (whole,) = torch.autograd.grad(sum(losses), [weight])
    torch.testing.assert_close(PlainSum()(gradients)[0][0], whole)
