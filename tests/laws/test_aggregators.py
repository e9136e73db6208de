"""The laws that every aggregator obeys."""

import inspect
import sys

import pytest
import torch
from tests.laws import slow_abmilx, slow_clam, slow_dsmil, slow_dtfd, slow_mambamil, slow_mecds, slow_preselected, slow_transmil

from milscope.aggregators import AGGREGATORS, Aggregator
from milscope.store._bags import Bags, concatenate
from milscope.types import InputError

FEATURES = 6
LENGTHS = (5, 1, 9, 2)
EVERY = pytest.mark.parametrize("name", AGGREGATORS)
CLASSES = pytest.mark.parametrize("classes", [2, 3])


@EVERY
@CLASSES
def test_a_slide_scores_the_same_alone_and_in_company(name, classes):
    model, bags = build(name, classes), some_bags()
    together = model(bags)
    alone = [model(bags.select([slide])) for slide in range(bags.n_slides)]
    close(together.logits, torch.cat([part.logits for part in alone]))
    close(together.attention, torch.cat([part.attention for part in alone]))
    close(together.penalty, torch.stack([part.penalty for part in alone]).mean())


@EVERY
def test_the_order_of_cells_does_not_matter_or_the_class_says_it_does(name):
    model, bags = build(name), some_bags()
    if model.order_matters:
        backwards = Bags(bags.features[: LENGTHS[0]].flip(0), torch.tensor([0, LENGTHS[0]]))
        assert not torch.allclose(model(backwards).logits, model(bags).logits[:1], rtol=1e-9)
        return
    order = torch.cat([torch.randperm(n, generator=generator(n)) + start
                       for n, start in zip(bags.lengths.tolist(), bags.offsets.tolist(), strict=False)])
    straight, shuffled = model(bags), model(Bags(bags.features[order], bags.offsets))
    close(shuffled.logits, straight.logits)
    close(shuffled.attention, straight.attention[order])
    close(shuffled.penalty, straight.penalty)


@EVERY
@CLASSES
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_attention_is_a_share_and_all_is_finite_at_any_scale(name, classes, scale):
    model, bags = build(name, classes, dtype=torch.float32), some_bags(dtype=torch.float32)
    bags = Bags(bags.features * scale, bags.offsets)
    found = model(bags)
    assert found.logits.shape == (len(LENGTHS), classes)
    assert found.attention.shape == (sum(LENGTHS), classes)
    assert (found.attention >= 0).all()
    sums = torch.zeros(len(LENGTHS), classes).index_add(0, bags.owner, found.attention)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    (found.logits.square().sum() + found.penalty).backward()
    assert found.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_a_fitted_scale_takes_the_size_of_the_features_away(name, scale):
    model, bags = build(name), some_bags()
    cells = bags.features * scale
    model.fit_scale(cells)
    found = model(Bags(cells, bags.offsets))
    assert found.logits.isfinite().all()
    reference = build(name)
    reference.fit_scale(bags.features * (scale > 0))
    close(found.logits, reference(Bags(bags.features * (scale > 0), bags.offsets)).logits)


@EVERY
def test_the_only_cell_of_a_slide_has_all_its_attention(name):
    model = build(name)
    bags = Bags(some_bags().features[:1], torch.tensor([0, 1]))
    close(model(bags).attention, torch.ones(1, 2, dtype=torch.float64))


@EVERY
@pytest.mark.parametrize(("offsets", "where"), [([0, 3, 3, 5], "number .1."), ([0, 0], "number .0."), ([0], "number 0")])
def test_a_slide_without_cells_is_refused(name, offsets, where):
    bags = Bags(torch.zeros(offsets[-1], FEATURES, dtype=torch.float64), torch.tensor(offsets))
    with pytest.raises(InputError, match=f"at least one cell. Found none in slide {where}"):
        build(name)(bags)


@EVERY
def test_cells_alone_are_slides_of_one_cell_whatever_the_chunk(name, monkeypatch):
    monkeypatch.setattr(sys.modules["milscope.aggregators._base"], "CHUNK", 4)
    model, bags = build(name), some_bags()
    found, alone = model.with_cells_alone(bags)
    close(found.logits, model(bags).logits)
    close(alone, torch.cat([model(Bags(cell[None], torch.tensor([0, 1]))).logits for cell in bags.features]))


@EVERY
def test_in_half_precision_all_is_finite_and_attention_is_a_share(name):
    model, bags = build(name, dtype=torch.float32), some_bags(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.train()(bags)
    (found.logits.float().square().sum() + found.penalty).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    sums = torch.zeros(len(LENGTHS), 2).index_add(0, bags.owner, found.attention.float())
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=0.02, rtol=0)


@EVERY
def test_features_of_another_width_are_refused(name):
    with pytest.raises(InputError, match=r"width 6\. Found width 5"):
        build(name)(Bags(torch.zeros(2, FEATURES - 1, dtype=torch.float64), torch.tensor([0, 2])))


@EVERY
def test_gradients_are_those_of_finite_differences(name):
    model, bags = build(name), some_bags()

    def outputs(features, *_):
        found = model(Bags(features, bags.offsets))
        return tuple(output for output in found[:3] if output.requires_grad)

    inputs = (bags.features.requires_grad_(), *model.parameters())
    fast = model.order_matters or sum(parameter.numel() for parameter in model.parameters()) > 250  # each takes a while
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=fast)


@EVERY
@CLASSES
def test_equals_the_slow_loop_written_from_the_formula(name, classes):
    model, bags = build(name, classes), some_bags()
    model.fit_scale(concatenate([bags, bags]).features * 2 + 1)
    found = model(bags)
    start = 0
    penalties = []
    for slide, n in enumerate(LENGTHS):
        cells = [(cell - model.mean) / model.deviation for cell in bags.features[start:start + n]]
        logits, attention, penalty = SLOW[name](model, cells)
        close(found.logits[slide], logits)
        close(found.attention[start:start + n], attention)
        penalties.append(penalty)
        start += n
    close(found.penalty, torch.tensor(sum(penalties) / len(penalties), dtype=torch.float64))


@EVERY
def test_its_options_are_all_it_takes_to_build_it_again(name):
    model, bags = build(name, 3), some_bags()
    again = AGGREGATORS[name](**model.options).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(bags).logits, model(bags).logits)


@EVERY
def test_dropout_acts_in_training_only(name):
    model, bags = build(name), some_bags()
    assert torch.equal(model(bags).logits, model(bags).logits)
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model(bags).logits, model(bags).logits)


def slow_mean(model, cells):
    weight, bias = model.classify[1].weight, model.classify[1].bias
    mean = sum(cells) / len(cells)
    return weight @ mean + bias, torch.full((len(cells), len(bias)), 1 / len(cells), dtype=torch.float64), 0.0


def slow_max(model, cells):
    weight, bias = model.classify[1].weight, model.classify[1].bias
    scores = [weight @ cell + bias for cell in cells]
    logits, attention = torch.zeros_like(bias), torch.zeros(len(cells), len(bias), dtype=torch.float64)
    for c in range(len(bias)):
        best = max(range(len(cells)), key=lambda i, c=c: scores[i][c].item())
        logits[c] = scores[best][c]
        attention[best, c] = 1
    return logits, attention, 0.0


def slow_abmil(model, cells):
    hidden = [relu(affine(model.embed[0], cell)) for cell in cells]
    scores = []
    for h in hidden:
        inner = affine(model.attend[0], h).tanh()
        if hasattr(model, "gate"):
            inner = inner * (1 / (1 + (-affine(model.gate[0], h)).exp()))
        scores.append(affine(model.weigh, inner)[0].exp())
    weights = [score / sum(scores) for score in scores]
    slide = sum(weight * h for weight, h in zip(weights, hidden, strict=True))
    return affine(model.classify, slide), torch.stack(weights)[:, None].expand(-1, model.classes), 0.0


def slow_pamil(model, cells):
    embedded = [unit(relu(affine(model.embed[0], cell))) for cell in cells]
    prototypes = [unit(relu(affine(model.embed[0], prototype))) for prototype in model.prototypes]
    likeness = torch.stack([
        torch.stack([affine(model.from_prototypes[0], p).tanh() @ affine(model.from_cells[0], h).sigmoid()
                     for p in prototypes]) for h in embedded])
    logits, attention = [], []
    for c in range(model.classes):
        scores = (likeness @ model.weigh.weight[c] + model.weigh.bias[c]).exp()
        weights = scores / scores.sum()
        slide = unit(sum(weight * h for weight, h in zip(weights, embedded, strict=True)))
        logits.append(model.length[c] * (unit(model.direction[c]) @ slide) + model.bias[c])
        attention.append(weights)
    shares = likeness.exp() / likeness.exp().sum(1, keepdim=True)
    of_cells = sum(max(row) for row in shares.tolist()) / len(cells)
    of_prototypes = sum(max(column) for column in shares.T.tolist()) / len(prototypes)
    return torch.stack(logits), torch.stack(attention, 1), 0.005 * (1 - of_cells) + 0.005 * (1 - of_prototypes)


SLOW = {"mean": slow_mean, "max": slow_max, "abmil": slow_abmil, "abmil-gated": slow_abmil, "pamil": slow_pamil,
        "clam-sb": slow_clam.slow, "clam-mb": slow_clam.slow, "dsmil": slow_dsmil.slow, "dtfd": slow_dtfd.slow,
        "transmil": slow_transmil.slow, "abmilx": slow_abmilx.slow, "mambamil": slow_mambamil.slow,
        "mecds": slow_mecds.slow, "preselected": slow_preselected.slow}


def affine(layer, vector):
    return layer.weight @ vector + layer.bias


def relu(vector):
    return torch.where(vector > 0, vector, 0.0)


def unit(vector):
    return vector / vector.square().sum().sqrt()


def build(name, classes=2, dtype=torch.float64) -> Aggregator:
    narrow = getattr(sys.modules.get(SLOW[name].__module__), "NARROW", {"hidden": 7, "attention": 3})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        taken = inspect.signature(AGGREGATORS[name].__init__).parameters
        options = {key: value for key, value in narrow.items() if key in taken}
        return AGGREGATORS[name](FEATURES, classes, **options).to(dtype).eval()


def some_bags(dtype=torch.float64) -> Bags:
    features = torch.randn(sum(LENGTHS), FEATURES, generator=generator(0), dtype=torch.float64)
    return Bags(features.to(dtype), torch.tensor([0, *LENGTHS]).cumsum(0))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-9, atol=1e-11)
