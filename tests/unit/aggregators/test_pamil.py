"""Prototype attention, beyond the laws."""

import pytest
import torch

from milscope.aggregators import PAMIL
from milscope.store._bags import Bags


def test_the_penalty_is_that_of_chance_when_no_prototype_differs_and_vanishes_with_its_weight():
    model = PAMIL(3, prototypes=4, penalty=1.0).eval()
    with torch.no_grad():
        model.prototypes.copy_(model.prototypes[:1].expand(4, 3))
    bags = Bags(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5]))
    assert model(bags).penalty.item() == pytest.approx(2 * (1 - 1 / 4))
    assert PAMIL(3, penalty=0.0).eval()(bags).penalty.item() == 0


def test_the_logits_are_bounded_by_the_lengths_of_the_weights():
    model = PAMIL(3, 5).eval()
    with torch.no_grad():
        model.length.mul_(3)
    bags = Bags(1e3 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), torch.arange(0, 51, 10))
    assert model(bags).logits.abs().max() <= 3 + 1e-6


def test_classes_have_attentions_of_their_own():
    bags = Bags(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5]))
    attention = PAMIL(3).eval()(bags).attention
    assert not torch.equal(attention[:, 0], attention[:, 1])
