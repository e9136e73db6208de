import copy

import pytest
import torch
from torch import nn

from milscope.encoders._small_maps import SmallMapConv, quicken


@pytest.mark.parametrize(("kernel", "stride", "padding", "side"), [(3, 1, 1, 2), (3, 2, 1, 4), (1, 2, 0, 4), (1, 1, 0, 3),
                                                                   ((3, 1), (2, 1), (1, 0), 5)])
def test_gradients_are_those_of_the_plain_convolution(kernel: int, stride: int, padding: int, side: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 16, kernel, stride, padding, bias=False).to(memory_format=torch.channels_last)
    quick = nn.Sequential(copy.deepcopy(plain))
    quicken(quick)
    assert type(quick[0]) is SmallMapConv
    cells = torch.randn(20, 8, side, side).to(memory_format=torch.channels_last)
    found = []
    for layer in (plain, quick):
        given = cells.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = layer(given)
        assert values.dtype == torch.bfloat16
        weight = torch.linspace(-1, 1, values.numel()).view(values.shape)
        (values.float() * weight).sum().backward()
        found.append((values.float(), given.grad, next(layer.parameters()).grad))
    for ours, theirs in zip(*found[::-1], strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()


def test_nothing_else_changes() -> None:
    """Names, results in float32, large maps, and layers that are not plain."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Conv2d(4, 4, 1))
    before = copy.deepcopy(network)
    quicken(network)
    assert [type(layer) is SmallMapConv for layer in network] == [True, False, False]
    assert network.state_dict().keys() == before.state_dict().keys()
    cells = torch.randn(2, 3, 80, 80)
    assert torch.equal(network(cells), before(cells))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(cells), before(cells))
