"""The gradient of a slide's loss, part by part, is that of one graph, in memory that does not grow with the slide."""

import copy
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from milscope.aggregators import AGGREGATORS
from milscope.encoders import Encoder
from milscope.recompute import encode_apart, fixed_statistics, learn_apart, statistics_kept
from milscope.store import Bags

WIDTH = 8
NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(WIDTH * 9), nn.Unflatten(1, (WIDTH, 3, 3))),
    "group": lambda: nn.GroupNorm(2, WIDTH), "batch": lambda: nn.BatchNorm2d(WIDTH),
}


def network(norm: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv2d(3, WIDTH, 3), NORMS[norm](), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 3), nn.Flatten(),
                             nn.Dropout(0.0))
        if norm == "batch":
            made[1].running_mean.normal_()
            made[1].running_var.uniform_(0.5, 2.0)
    return made.double().train()


def head(name: str = "abmilx") -> Callable[[Tensor], Tensor]:
    options = {"hidden": 16, "heads": 2} if name == "abmilx" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AGGREGATORS[name](WIDTH, 2, 0.0, **options).double()

    def loss(features: Tensor) -> Tensor:
        ends = torch.tensor([0, len(features) // 3, len(features)])
        return model(Bags(features, ends)).logits.square().sum()

    return loss


def cells(count: int) -> Tensor:
    return torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def one_graph(encoder: nn.Module, rows: Tensor, parts: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> list[Tensor]:
    value = loss(torch.cat([encoder(rows[part]) for part in parts]))
    return list(torch.autograd.grad(value, list(encoder.parameters())))


def by_parts(encoder: nn.Module, rows: Tensor, parts: Sequence[Tensor], loss: Callable[[Tensor], Tensor]) -> list[Tensor]:
    def encode(some: Tensor) -> Tensor:
        return encoder(rows[some])

    leaf = encode_apart(encode, parts).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    with statistics_kept(encoder):
        learn_apart(encode, parts, gradient.split([len(part) for part in parts]))
    return [each.grad for each in encoder.parameters()]


@settings(max_examples=25, deadline=None)
@given(norm=st.sampled_from(sorted(NORMS)), count=st.integers(3, 40), chunk=st.integers(1, 45),
       name=st.sampled_from(["abmilx", "abmil-gated", "transmil", "mean"]))
def test_any_division_gives_the_gradient_of_one_graph(norm: str, count: int, chunk: int, name: str) -> None:
    encoder, rows = network(norm), cells(count)
    fixed_statistics(encoder)
    wanted = one_graph(encoder, rows, [torch.arange(count)], head(name))
    found = by_parts(encoder, rows, torch.arange(count).split(chunk), head(name))
    assert any(each.abs().max() > 1e-8 for each in wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 7, 16, 30])
def test_of_a_whole_encoder_too(chunk: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        encoder = Encoder("resnet18", size=32, options={"channels": [4, 4, 8, WIDTH], "zero_init_last": False}).double()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(0.25)
    fixed_statistics(encoder.train())
    rows = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = one_graph(encoder, rows, [torch.arange(30)], head())
    found = by_parts(encoder, rows, torch.arange(30).split(chunk), head())
    assert sum(each.norm() for each in wanted) > 1e-6
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("chunk", [4, 7, 24])
def test_with_statistics_of_each_part_it_is_the_one_graph_of_the_same_parts(chunk: int) -> None:
    encoder, rows, parts = network("batch"), cells(24), torch.randperm(24).split(chunk)
    twin = copy.deepcopy(encoder)
    wanted = one_graph(twin, rows, parts, head())
    found = by_parts(encoder, rows, parts, head())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for name, tensor in encoder.state_dict().items():  # running statistics moved once for each part, not twice
        assert torch.equal(tensor, twin.state_dict()[name]), name
    assert encoder[1].num_batches_tracked == len(parts)


def test_statistics_of_parts_are_not_those_of_the_whole() -> None:
    whole = one_graph(network("batch"), cells(24), [torch.arange(24)], head())
    parts = by_parts(network("batch"), cells(24), torch.arange(24).split(6), head())
    assert not torch.allclose(whole[0], parts[0], rtol=1e-3)


def test_memory_of_graphs_is_flat_from_100_to_10_000_cells() -> None:
    few, many = peak(100, chunk=20), peak(10_000, chunk=20)
    assert few == many
    assert peak(100, chunk=100) > 4 * few


def peak(count: int, chunk: int) -> int:
    """Most bytes that the encoder's graphs held at a time."""
    encoder, rows, parts = network("group"), cells(count), torch.arange(count).split(chunk)
    kept = Kept()

    def encode(some: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
            return encoder(rows[some])

    features = encode_apart(encode, parts)
    learn_apart(encode, parts, torch.ones_like(features).split(chunk))
    assert kept.held == 0
    return kept.most


class Kept:
    """Bytes that graphs hold."""

    held = most = 0

    class Parcel:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def pack(self, tensor: Tensor) -> Parcel:
        parcel = self.Parcel(tensor)
        self.held += tensor.nbytes
        self.most = max(self.most, self.held)
        weakref.finalize(parcel, self.free, tensor.nbytes)
        return parcel

    def unpack(self, parcel: Parcel) -> Tensor:
        return parcel.tensor

    def free(self, size: int) -> None:
        self.held -= size
