"""DTFD, beyond the laws."""

import pytest
import torch
from tests.archived_aggregators import archived
from tests.laws.slow_dtfd import dealt, slow

from milscope.aggregators import _segments
from milscope.aggregators._dtfd import DISTILLATIONS, DTFD
from milscope.store._bags import Bags
from milscope.types import InputError

LENGTHS = (9, 1, 10, 2, 3)
EVERY = pytest.mark.parametrize("distill", DISTILLATIONS)


@EVERY
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("pseudo_bags", [1, 3])
def test_every_distillation_equals_the_slow_loop(distill, classes, pseudo_bags):
    model, bags = build(distill, classes, pseudo_bags).eval(), some_bags()
    found = model(bags)
    assert found.streams is None
    for slide in range(len(LENGTHS)):
        logits, attention, _ = slow(model, list(bags.select([slide]).features))
        close(found.logits[slide], logits)
        close(found.attention[bags.offsets[slide]:bags.offsets[slide + 1]], attention)


@pytest.mark.parametrize("training", [False, True])
def test_pseudo_bags_of_many_cells_are_those_of_few(training, monkeypatch):
    """Their sums are then products, one a pseudo-bag, whose cells do not lie together."""
    model, bags = build().train(training), some_bags()
    expected = seeded(5, lambda: model(bags))
    monkeypatch.setattr(_segments, "PRODUCT", 0)
    found = seeded(5, lambda: model(bags))
    close(found.logits, expected.logits)
    close(found.attention, expected.attention)


def test_nearly_equal_cells_are_dealt_alike_in_single_precision():
    """The order by which cells are dealt must not hang on how a sum is rounded: elsewhere it is rounded otherwise."""
    cells = torch.tensor([[1e4, 1.0, -1e4, 2e-4], [1e4, 1.0, -1e4, 1e-4], [1.0, 3e-4, -1e4, 1e4]])
    model = build().float().eval()
    assert model._deal(Bags(cells, torch.tensor([0, 3]))).of_cell.tolist() == [1, 2, 0]


@EVERY
def test_outside_training_the_order_of_cells_does_not_matter(distill):
    model, bags = build(distill).eval(), some_bags()
    order = torch.cat([start + torch.randperm(n) for n, start in zip(LENGTHS, bags.offsets.tolist(), strict=False)])
    straight, shuffled = model(bags), model(Bags(bags.features[order], bags.offsets))
    close(shuffled.logits, straight.logits)
    close(shuffled.attention, straight.attention[order])


@EVERY
def test_in_training_it_is_the_slow_loop_over_pseudo_bags_dealt_at_random(distill):
    model, bags = build(distill), some_bags()
    found, of_cell = seeded(3, lambda: model(bags)), seeded(3, lambda: model._deal(bags)).of_cell
    assert found.streams.shape == (6, len(LENGTHS), 2)
    for slide, n in enumerate(LENGTHS):
        numbers = of_cell[bags.offsets[slide]:bags.offsets[slide + 1]]
        groups = [(numbers == number).nonzero().flatten().tolist() for number in numbers.unique()]
        logits, attention, of_bags = dealt(model, list(bags.select([slide]).features), groups)
        close(found.logits[slide], logits)
        close(found.attention[bags.offsets[slide]:bags.offsets[slide + 1]], attention)
        close(found.streams[:3, slide], of_bags[torch.arange(3) % min(3, n)])
        close(found.streams[3:, slide], logits.expand(3, 2))


def test_pseudo_bags_share_the_cells_of_a_slide_evenly_and_anew_each_time():
    model, bags = build(), some_bags()
    found = seeded(0, lambda: model._deal(bags))
    assert found.of_cell.bincount().tolist() == [3, 3, 3, 1, 4, 3, 3, 1, 1, 1, 1, 1]
    assert found.slide.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3, 4, 4, 4]
    assert torch.equal(found.slide[found.of_cell], bags.owner)
    assert not torch.equal(seeded(1, lambda: model._deal(bags)).of_cell, found.of_cell)
    assert torch.equal(seeded(0, lambda: model._deal(bags)).of_cell, found.of_cell)


@EVERY
def test_the_second_tier_teaches_the_first_only_outside_training(distill):
    model, bags = build(distill), some_bags()
    second = seeded(0, lambda: model(bags)).streams[3:].sum()
    assert not any(gradient.any() for gradient in torch.autograd.grad(second, list(model.embed.parameters()),
                                                                      materialize_grads=True))
    logits = model.eval()(bags).logits.sum()
    assert all(gradient.any() for gradient in torch.autograd.grad(logits, list(model.embed.parameters())))


def test_the_loss_of_the_streams_weighs_both_tiers_alike():
    model, bags = build(), some_bags().select([0, 2, 4])
    found = seeded(0, lambda: model(bags))
    losses = found.streams.square().sum(2).mean(0)
    close(losses, (found.streams[:3].square().sum(2).mean(0) + found.logits.square().sum(1)) / 2)


@pytest.mark.parametrize("option", [{"pseudo_bags": 0}, {"distill": "aff"}])
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(InputError, match="one of afs, mas, maxs, maxmins"):
        DTFD(4, **option)


def test_equals_torchmil():
    model, bags, expected = archived(DTFD, "dtfd")
    found = model(bags)
    close(found.logits, expected["logits"])
    close(found.attention, expected["attention"])


def build(distill="afs", classes=2, pseudo_bags=3):
    model = DTFD(4, classes, 0.0, hidden=5, attention=3, pseudo_bags=pseudo_bags, distill=distill).double()
    with torch.no_grad():
        model.scores.weigh.weight.mul_(20)  # attention far from even
    return model


def some_bags():
    return Bags(torch.randn(sum(LENGTHS), 4, dtype=torch.float64), torch.tensor([0, *LENGTHS]).cumsum(0))


def seeded(seed, call):
    torch.manual_seed(seed)
    return call()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
