"""MambaMIL, beyond the laws."""

import pytest
import torch
from safetensors.torch import load_file
from tests.aggregator_steps import assert_slope, step
from tests.archived_aggregators import ARCHIVED
from tests.laws.slow_mambamil import slow
from torch.nn import functional

from milscope.aggregators import MambaMIL, _mambamil
from milscope.store._bags import Bags
from milscope.types import InputError


@pytest.mark.parametrize("options", [{"reorder": False}, {"layers": 1}, {"layers": 3}, {"stride": 1}, {"stride": 10}])
def test_equals_the_slow_loop_with_every_option(options):
    model, bags = build(**options), some_bags()
    found, alone = model.with_cells_alone(bags)
    for slide in range(3):
        logits, attention, _ = slow(model, list(bags.select([slide]).features))
        close(found.logits[slide], logits)
        close(found.attention[bags.owner == slide], attention)
    close(alone[7], found.logits[1])


def test_its_layer_is_an_independent_mamba_block():
    archive = load_file(ARCHIVED / "mamba.safetensors")
    layer = _mambamil._Layer(8, 3, branches=1).double()
    layer.norm = torch.nn.Identity()
    layer.load_state_dict({name.removeprefix("weight."): tensor for name, tensor in archive.items()
                           if name.startswith("weight.")})
    for count in (70, 2):
        cells = archive[f"cells.{count}"]
        close(layer(cells, torch.arange(count), lean=False) - cells, archive[f"output.{count}"])
        close(layer.alone(cells)[:1], layer(cells[:1], torch.arange(1), lean=False))


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_in_pieces_or_sparing_memory_the_step_is_the_same(monkeypatch, piece):
    bags, found = some_bags(), {}
    for lean in (False, True):
        monkeypatch.setattr(_mambamil, "LEAN", 10 if lean else 1000)
        monkeypatch.setattr(_mambamil, "PIECE", piece if lean else 1000)
        found[lean] = step(build(), bags)
    for plain, other in zip(found[False], found[True], strict=True):
        close(other, plain)


def test_a_step_that_spares_memory_drops_the_same_when_it_computes_again(monkeypatch):
    monkeypatch.setattr(_mambamil, "LEAN", 4)
    model, bags = build(dropout=0.5).train(), some_bags()
    assert_slope(model, bags, model.embed[0].weight)


def test_a_cell_sees_those_before_it_and_with_the_second_scan_others_too():
    for reorder, expected in ((False, [3, 4, 5, 6, 7, 8]), (True, [1, 2, 3, 4, 5, 6, 7, 8])):
        layer = build(reorder=reorder).layers[0]
        cells = torch.randn(9, 4, dtype=torch.float64)
        changed = cells.clone()
        changed[3] += torch.randn(4, dtype=torch.float64)
        turns = torch.tensor([0, 3, 6, 1, 4, 7, 2, 5, 8])  # of 9 cells and stride 3: the order and when each comes are the same
        moved = (layer(changed, turns, lean=False) - layer(cells, turns, lean=False)).abs().amax(1) > 1e-12
        assert moved.nonzero().flatten().tolist() == expected


def test_the_step_starts_between_a_thousandth_and_a_tenth():
    branch = _mambamil._Branch(64, 2, 4)
    steps = functional.softplus(branch.step.bias.detach())
    assert steps.min() >= 0.00099
    assert steps.max() <= 0.101
    assert steps.max() > 10 * steps.min()


def test_the_order_of_cells_is_read():
    model, bags = build(), some_bags()
    assert model.order_matters
    assert not torch.allclose(model(Bags(bags.features.flip(0), bags.offsets)).logits[0], model(bags).logits[2])


@pytest.mark.parametrize("name", ["layers", "state", "stride"])
def test_what_cannot_be_built_is_refused(name):
    with pytest.raises(InputError, match=f"`{name}` should be at least 1. Found 0"):
        MambaMIL(5, **{name: 0})


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MambaMIL(5, 3, **{"hidden": 4, "attention": 3, "state": 2, "stride": 3} | options).double().eval()


def some_bags():
    features = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Bags(features, torch.tensor([0, 7, 8, 16]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
