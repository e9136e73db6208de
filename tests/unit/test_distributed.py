"""What can be seen of a team in one process; tests/flow/test_distributed.py has two."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import distributed, nn

from milscope.distributed import SynchronisedNorm, Team, team


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_alone_everything_is_as_it_was() -> None:
    with team() as alone:
        assert alone == Team(0, 1)
        assert alone.leads
    values = torch.rand(5, 3)
    assert alone.gather(values, 5) is values
    assert alone.add_up([values])[0] is values
    network = nn.Sequential(nn.BatchNorm2d(3))
    assert alone.synchronise(network) is network


def test_a_group_that_exists_is_used(group: None) -> None:
    with team() as found:
        assert (found.rank, found.ranks) == (0, 1)
    assert distributed.is_initialized()


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (9, 4)])
def test_synchronised_normalisation_is_batch_normalisation(group: None, shape: tuple[int, ...]) -> None:
    """Values, gradients and running statistics, in float64, in training and afterwards."""
    torch.manual_seed(0)
    layer = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(4).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    ours = SynchronisedNorm(copy.deepcopy(layer))
    assert ours.state_dict().keys() == layer.state_dict().keys()
    for _ in range(3):
        values = torch.randn(shape, dtype=torch.float64) * 5 + 2
        first, second = values.clone().requires_grad_(), values.clone().requires_grad_()
        weight = torch.randn(shape, dtype=torch.float64)
        (layer(first) * weight).sum().backward()
        (ours(second) * weight).sum().backward()
        torch.testing.assert_close(second.grad, first.grad, rtol=0, atol=1e-12)
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.eval()(values), layer.eval()(values), rtol=0, atol=1e-12)


def test_the_activation_of_timms_layers_is_kept(group: None) -> None:
    from milscope.encoders._timm import timm

    layer = timm.layers.BatchNormAct2d(4).double()
    values = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    ours = SynchronisedNorm(copy.deepcopy(layer))
    torch.testing.assert_close(ours(values), layer(values), rtol=0, atol=1e-12)
    assert (ours(values) >= 0).all()


def test_layers_are_replaced_wherever_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    names = network.state_dict().keys()
    replaced = Team(0, 2).synchronise(network)
    assert isinstance(replaced[1][0], SynchronisedNorm)
    assert replaced.state_dict().keys() == names
