import math

import pytest
import torch

from milscope.objectives import SlideLabel


def logits(*values: float) -> torch.Tensor:
    return torch.tensor([values, values], dtype=torch.float64)[..., None]


def test_knowing_nothing_costs_log_2() -> None:
    assert SlideLabel()(logits(0, 0, 0), torch.tensor([True, False, False])).item() == pytest.approx(math.log(2))


def test_knowing_all_costs_nothing() -> None:
    assert SlideLabel()(logits(40, -40), torch.tensor([True, False])).item() == pytest.approx(0, abs=1e-12)
    assert SlideLabel()(logits(40, -40), torch.tensor([False, True])).item() == pytest.approx(40)


def test_more_cells_of_one_label_do_not_make_it_count_more() -> None:
    few = SlideLabel()(logits(1, 2), torch.tensor([True, False]))
    many = SlideLabel()(logits(1, *[2] * 50), torch.tensor([True, *[False] * 50]))
    torch.testing.assert_close(few, many)


@pytest.mark.parametrize("label", [True, False])
def test_a_batch_of_one_label_is_their_plain_mean(label: bool) -> None:
    views = logits(1, -2, 0.5).requires_grad_()
    loss = SlideLabel()(views, torch.tensor([label] * 3))
    loss.backward()
    sign = -1 if label else 1
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(sign * z)) for z in (1, -2, 0.5)) / 3)
    assert torch.isfinite(views.grad).all()


def test_constant_logit_is_best_at_zero_whatever_the_shares() -> None:
    positive = torch.tensor([True, *[False] * 9])
    views = torch.zeros(2, 10, 1, dtype=torch.float64, requires_grad=True)
    SlideLabel()(views, positive).backward()
    assert views.grad.sum().item() == pytest.approx(0, abs=1e-12)
