"""The preselecting transformer, beyond the laws."""

import pytest
import torch
from tests.laws.slow_preselected import NARROW, pooled, slow

from milscope.aggregators import Preselected
from milscope.store._bags import Bags
from milscope.types import InputError


def test_both_stages_learn_and_the_second_predicts():
    model, bags = build(dropout=0.0), some_bags()
    assert model.eval()(bags).streams is None
    found = model.train()(bags)
    assert found.streams.shape == (2, 3, 3)
    for slide in range(3):
        cells = list(bags.select([slide]).features)
        close(found.streams[0, slide], pooled(model, cells))
        close(found.streams[1, slide], slow(model, cells)[0])
    found.streams.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for name, parameter in model.named_parameters() if name != "select.2.bias")


def test_cells_that_are_not_selected_do_not_change_what_is_said():
    model, bags = build().eval(), some_bags()
    found = model(bags)
    left = found.attention[:7, 0] == 0
    assert left.sum() == 7 - 3
    close(model(Bags(bags.features[:7][~left], torch.tensor([0, 3]))).logits, found.logits[:1])


@pytest.mark.parametrize(("options", "line"), [
    ({"heads": 3}, r"`heads` should be a divisor of `hidden`, 4\. Found 3"), ({"kept": 0}, "`kept` should be at least 1"),
    ({"layers": 0}, "`layers` should be at least 1"),
])
def test_options_out_of_range_are_refused(options, line):
    with pytest.raises(InputError, match=line):
        build(**options)


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Preselected(5, 3, **NARROW | options).double()


def some_bags():
    features = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Bags(features, torch.tensor([0, 7, 8, 16]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
