"""ABMILX, beyond the laws."""

import pytest
import torch
from tests.aggregator_steps import assert_slope, step
from tests.laws.slow_abmilx import slow

from milscope.aggregators import ABMILX, _abmilx
from milscope.store._bags import Bags
from milscope.types import InputError


@pytest.mark.parametrize("options", [
    {"learn_alpha": False, "alpha": 0.0}, {"learn_alpha": False, "alpha": 1.0}, {"alpha": -0.5}, {"heads": 1},
    {"feedforward": True},
])
def test_equals_the_slow_loop_with_every_option(options):
    model, bags = build(**options), some_bags()
    found, alone = model.with_cells_alone(bags)
    for slide in range(3):
        logits, attention, _ = slow(model, list(bags.select([slide]).features))
        close(found.logits[slide], logits)
        close(found.attention[bags.owner == slide], attention)
    close(alone[7], model(bags.select([1])).logits[0])


def test_alpha_starts_small_and_positive_and_everything_learns_from_the_first_step():
    model = build()
    assert model.alpha.item() == pytest.approx(0.1)
    model(some_bags()).logits[:, 0].sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_a_fixed_alpha_is_not_learned_and_one_of_0_needs_no_queries():
    fixed = build(learn_alpha=False, alpha=1.0)
    assert "alpha" in fixed.state_dict()
    assert "alpha" not in dict(fixed.named_parameters())
    assert not any("query" in name for name in build(learn_alpha=False, alpha=0.0).state_dict())


def test_where_every_cell_sees_all_alike_smoothing_changes_nothing():
    model, plain = build(alpha=1e3, learn_alpha=False), build(alpha=0.0, learn_alpha=False)
    with torch.no_grad():
        model.query.weight.zero_()  # the same is added to every score
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(weights | {"alpha": torch.zeros((), dtype=torch.float64)})
    close(model(some_bags()).attention, plain(some_bags()).attention)


def test_a_step_that_spares_memory_is_the_same_step(monkeypatch):
    bags, found = some_bags(), {}
    for rows in (1000, 4):
        monkeypatch.setattr(_abmilx, "ROWS", rows)
        found[rows] = step(build(), bags)
    for plain, lean in zip(found[1000], found[4], strict=True):
        close(lean, plain)


def test_a_step_that_spares_memory_drops_the_same_when_it_computes_again(monkeypatch):
    monkeypatch.setattr(_abmilx, "ROWS", 4)
    model, bags = build(dropout=0.5).train(), some_bags()
    assert_slope(model, bags, model.embed[1].weight)


def test_the_layers_and_their_sizes_are_those_of_the_paper():
    sizes = {name: tuple(parameter.shape) for name, parameter in ABMILX(1024, 3).named_parameters()}
    assert sizes == {
        "alpha": (), "embed.0.weight": (1024,), "embed.1.weight": (512, 1024), "weigh.0.weight": (64, 64),
        "weigh.2.weight": (1, 64), "norm.weight": (64,), "query.weight": (64, 64), "key.weight": (64, 64),
        "merge.weight": (512, 512), "classify.0.weight": (512,), "classify.1.weight": (3, 512),
    }


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match=r"`heads` should be a divisor of `hidden`, 512\. Found 3"):
        ABMILX(5, heads=3)


def test_half_precision_is_that_of_the_products_only():
    model, bags = ABMILX(5, hidden=16, heads=2).eval(), some_bags()
    bags = Bags(bags.features.float(), bags.offsets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(bags)
    torch.testing.assert_close(rough.attention.float(), model(bags).attention, rtol=0.05, atol=0.01)


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ABMILX(5, 3, **{"hidden": 6, "heads": 3} | options).double().eval()


def some_bags():
    features = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Bags(features, torch.tensor([0, 7, 8, 16]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
