import copy

import pytest
import torch
from torch import nn

from milscope.distributed import SynchronisedNorm
from milscope.encoders import Encoder, freeze
from milscope.recompute import encode_apart, fixed_statistics, learn_apart, statistics_kept


def of_timm() -> nn.Module:
    from timm.layers import BatchNormAct2d  # after `milscope.encoders`

    return BatchNormAct2d(3, drop_layer=nn.Dropout)


KINDS = {
    "torch": lambda: nn.BatchNorm2d(3), "average": lambda: nn.BatchNorm2d(3, momentum=None),
    "timm": of_timm, "team": lambda: SynchronisedNorm(nn.BatchNorm2d(3)),
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over processes are those of the one there is."""
    monkeypatch.setattr("torch.distributed.all_reduce", lambda _: None)


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(network: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def cells(count: int = 6, shift: float = 2.0) -> torch.Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + shift


def layer(kind: str) -> nn.Module:
    made = KINDS[kind]()
    made.running_mean.copy_(torch.tensor([1.0, -1.0, 0.5]))
    made.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_statistics_are_gone_by_and_left(kind: str) -> None:
    network = nn.Sequential(layer(kind))
    wanted = network.eval()(cells())
    plain = network.train()(cells())
    network = nn.Sequential(layer(kind))
    fixed_statistics(network)
    before = state(network)
    for _ in range(2):
        network.eval().train()
        if hasattr(network[0], "drop"):
            assert network[0].drop.training
            network[0].drop.p = 0.0
        torch.testing.assert_close(network(cells()), wanted)
        assert same(network, before)
    assert not torch.allclose(plain, wanted, atol=0.1)


def test_fixed_statistics_survive_copies_state_and_being_fixed_again() -> None:
    network = Encoder("resnet18", size=32, options={"channels": [8, 8, 16, 16]})
    names = list(network.state_dict())
    freeze(network, ["conv1"])
    fixed_statistics(network)
    kinds = [type(each) for each in network.modules()]
    fixed_statistics(network)
    assert [type(each) for each in network.modules()] == kinds
    copied = copy.deepcopy(network)
    for each in (network, copied):
        before = state(each)
        each.train()
        each(torch.rand(4, 3, 32, 32)).sum().backward()
        assert same(each, before)
        assert list(each.state_dict()) == names
        assert each.training
    copied.backbone.bn1.running_mean += 1
    assert not torch.equal(copied.backbone.bn1.running_mean, network.backbone.bn1.running_mean)


def test_a_layer_without_running_statistics_is_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3))
    fixed_statistics(network)
    assert [type(each) for each in network] == [nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_kept_uses_those_of_the_batch_and_leaves_the_running_ones(kind: str) -> None:
    network = nn.Sequential(layer(kind)).train()
    if hasattr(network[0], "drop"):
        network[0].drop.p = 0.0
    wanted, before = copy.deepcopy(network)(cells()), state(network)
    own = network[0].running_mean
    with statistics_kept(network):
        found = network(cells())
        network(cells(shift=9.0))
    assert torch.equal(found, wanted)
    assert same(network, before)
    assert network[0].running_mean is own
    network(cells())
    assert not same(network, before)


def test_statistics_come_back_after_an_error_and_after_numbers_that_are_none() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(5, 1))
    before = state(network)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), statistics_kept(network):
        network(cells() * torch.nan)
    assert same(network, before)


def test_what_the_network_draws_is_the_same_in_both_passes_and_of_the_seed_alone() -> None:
    network, rows = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4)), torch.rand(6, 8)
    parts = list(torch.arange(6).split(4))
    seen: list[torch.Tensor] = []

    def encode(some: torch.Tensor) -> torch.Tensor:
        seen.append(network(rows[some]))
        return seen[-1]

    outside = torch.random.get_rng_state()
    features = encode_apart(encode, parts, seed=3)
    learn_apart(encode, parts, features.split(4), seed=3)
    assert torch.equal(torch.cat(seen[2:]), features)
    assert not features.requires_grad
    assert torch.equal(torch.random.get_rng_state(), outside)
    assert not torch.equal(encode_apart(encode, parts, seed=7), features)


def test_gradients_are_added_to_those_that_are_there() -> None:
    network, rows = nn.Linear(3, 2, bias=False), torch.rand(4, 3)
    network.weight.grad = torch.ones(2, 3)
    with torch.no_grad():  # whatever is on outside
        learn_apart(lambda some: network(rows[some]), [torch.arange(4)], [torch.ones(4, 2)])
    torch.testing.assert_close(network.weight.grad, 1 + rows.sum(0).expand(2, 3))
