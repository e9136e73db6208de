"""CLAM, beyond the laws."""

import math

import pytest
import torch
from tests.archived_aggregators import archived
from tests.laws.slow_clam import slow

from milscope.aggregators._clam import CLAMMB, CLAMSB
from milscope.store._bags import Bags
from milscope.types import InputError

LENGTHS = (5, 1, 9, 2)
TARGETS = torch.tensor([[1.0, 0, 0], [0, 1, math.nan], [math.nan] * 3, [1, 1, 0]])
BOTH = pytest.mark.parametrize("kind", [CLAMSB, CLAMMB])


@BOTH
@pytest.mark.parametrize("cells", [1, 2, 3, 20])
@pytest.mark.parametrize("options", [{}, {"exclusive": False}, {"margin": 0.0}, {"temperature": 0.3, "share": 0.5}])
def test_the_penalty_equals_the_slow_loop(kind, cells, options):
    model, bags = build(kind, cells=cells, **options), some_bags()
    expected = [slow(model, list(bags.select([slide]).features), TARGETS[slide])[2] for slide in range(4)]
    close(model(bags, TARGETS).penalty, torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in expected]).mean())


@BOTH
def test_a_slide_has_the_same_penalty_alone_and_in_company_in_any_order(kind):
    model, bags = build(kind), some_bags()
    order = torch.cat([start + torch.randperm(n) for n, start in zip(bags.lengths, bags.offsets, strict=False)])
    alone = [model(bags.select([slide]), TARGETS[slide:slide + 1]).penalty for slide in range(4)]
    close(model(Bags(bags.features[order], bags.offsets), TARGETS).penalty, torch.stack(alone).mean())


@BOTH
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(kind):
    model, bags = build(kind), some_bags()

    def penalty(features, *_):
        return model(Bags(features, bags.offsets), TARGETS).penalty

    assert torch.autograd.gradcheck(penalty, (bags.features.requires_grad_(), *model.parameters()))


@BOTH
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_the_penalty_is_finite_at_any_scale(kind, scale):
    model, bags = build(kind).float(), some_bags()
    found = model(Bags(bags.features.float() * scale, bags.offsets), TARGETS.float())
    (found.logits.square().sum() + found.penalty).backward()
    assert found.penalty.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@BOTH
def test_what_is_unknown_costs_nothing(kind):
    model, bags = build(kind), some_bags()
    assert model(bags).penalty == model(bags, torch.full_like(TARGETS, math.nan)).penalty == 0
    assert build(kind, exclusive=False)(bags, torch.zeros_like(TARGETS)).penalty == 0
    assert model(bags, torch.zeros_like(TARGETS)).penalty > 0


@pytest.mark.parametrize(("n", "top", "bottom"), [(1, 1, 0), (2, 1, 1), (5, 3, 2), (6, 3, 3), (9, 3, 3)])
def test_no_cell_gets_both_labels(n, top, bottom):
    model = build(CLAMSB, cells=3, margin=0.0)
    with torch.no_grad():
        model.judge.weight.zero_()
        model.judge.bias.fill_(4.0)
    bags = Bags(torch.randn(n, 4, dtype=torch.float64), torch.tensor([0, n]))
    cost = {1: math.log1p(math.exp(-4)), -1: math.log1p(math.exp(4))}
    ours = model(bags, torch.tensor([[1.0, math.nan, math.nan]])).penalty / (3 / 7)
    assert ours.item() == pytest.approx((top * cost[1] + bottom * cost[-1]) / (top + bottom))


def test_each_class_chooses_by_its_own_branch():
    model, bags = build(CLAMMB, cells=1), some_bags()
    gradients = []
    for c in range(3):
        targets = torch.full((4, 3), math.nan)
        targets[2, c] = 0.0
        features = bags.features.clone().requires_grad_()
        found = model(Bags(features, bags.offsets), targets)
        gradients.append(torch.autograd.grad(found.penalty, features)[0].abs().sum(1).nonzero().flatten().tolist())
        assert gradients[-1] == [6 + found.attention[6:15, c].argmax().item()]
    assert len({row for (row,) in gradients}) > 1


def test_many_branches_are_a_single_one_when_they_are_alike():
    single, many = build(CLAMSB), build(CLAMMB)
    weights = single.state_dict()
    weights |= {f"scores.weigh.{name}": weights[f"scores.weigh.{name}"].repeat_interleave(3, 0) for name in ("weight", "bias")}
    many.load_state_dict(weights)
    bags = some_bags()
    for ours, expected in zip(many(bags, TARGETS)[:3], single(bags, TARGETS)[:3], strict=True):
        close(ours, expected)


@pytest.mark.parametrize("option", [{"cells": 0}, {"share": 1.0}, {"share": -0.1}, {"margin": -1.0}, {"temperature": 0.0}])
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(InputError, match="should be at least 1, from 0 to below 1"):
        CLAMSB(4, **option)


@pytest.mark.parametrize("kind", [CLAMSB, CLAMMB])
@pytest.mark.parametrize(("options", "loss"), [({}, "svm"), ({"margin": 0.0}, "cross_entropy")])
def test_equals_torchmil(kind, options, loss):
    model, bags, expected = archived(CLAMSB, "clam-sb", **options)
    if kind is CLAMMB:
        single, model = model, CLAMMB(**model.options).double().eval()
        weights = single.state_dict()
        weights |= {f"scores.weigh.{name}": weights[f"scores.weigh.{name}"].repeat(2, *[1] * dims)
                    for name, dims in (("weight", 1), ("bias", 0))}
        model.load_state_dict(weights)
    targets = torch.stack([1 - expected["labels"], expected["labels"]], 1)
    found = model(bags, targets)
    close(found.logits, expected["logits"])
    close(found.attention, expected["attention"])
    torch.testing.assert_close(found.penalty, expected["penalty_" + loss], rtol=1e-6, atol=0)  # it has floats there


def build(kind, cells=2, **options):
    return kind(4, 3, hidden=5, attention=3, cells=cells, **options).double().eval()


def some_bags():
    return Bags(torch.randn(sum(LENGTHS), 4, dtype=torch.float64), torch.tensor([0, *LENGTHS]).cumsum(0))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
