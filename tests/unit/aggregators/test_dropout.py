"""Our dropout drops the share it says, keeps the mean, and sends the gradient where the values went."""

import pytest
import torch

from milscope.aggregators._dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("share", [0.25, 0.1])
def test_the_share_is_dropped_and_the_mean_kept(dtype, share):
    values = torch.ones(401, 251, dtype=dtype, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Dropout(share)(values)
    dropped = (found == 0).double().mean().item()
    assert dropped == pytest.approx(share, abs=0.006)
    assert found.double().mean().item() == pytest.approx(1, abs=0.01)
    assert len(found.unique()) == 2
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


def test_every_byte_of_the_drawn_numbers_is_even():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Dropout(0.5)(torch.ones(80_000)).view(-1, 8)
    assert ((found == 0).double().mean(0) - 0.5).abs().max() < 0.02


def test_the_seed_decides_and_prediction_changes_nothing():
    layer, values = Dropout(0.5), torch.randn(7, 5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, other = layer(values), layer(values)
        torch.manual_seed(3)
        assert torch.equal(layer(values), first)
    assert not torch.equal(first, other)
    assert torch.equal(layer.eval()(values), values)
    assert torch.equal(Dropout(0.0).train()(values), values)
    assert (Dropout(1.0).train()(values) == 0).all()


def test_values_that_do_not_lie_in_a_row_and_odd_numbers_of_them():
    values = torch.arange(1.0, 16).requires_grad_()
    found = Dropout(0.25)(values.reshape(3, 5).T)
    kept = found != 0
    torch.testing.assert_close(found[kept], (values.reshape(3, 5).T * 4 / 3)[kept])
    found.sum().backward()
    assert torch.equal(values.grad.reshape(3, 5).T != 0, kept)
