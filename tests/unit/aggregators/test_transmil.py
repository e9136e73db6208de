"""TransMIL, beyond the laws."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tests.archived_aggregators import ARCHIVED
from tests.laws.slow_transmil import slow

from milscope.aggregators import TransMIL, _nystrom, _transmil
from milscope.store._bags import Bags
from milscope.types import InputError


@pytest.mark.parametrize("landmarks", [1, 2, 3, 7, 40])
def test_equals_the_slow_loop_for_more_and_for_fewer_landmarks_than_tokens(landmarks):
    model, bags = build(landmarks=landmarks), some_bags((6, 1, 30))
    found, alone = model.with_cells_alone(bags)
    for slide in range(3):
        logits, attention, _ = slow(model, list(bags.select([slide]).features))
        close(found.logits[slide], logits)
        close(found.attention[bags.owner == slide], attention)
    close(alone[6], found.logits[1])


def test_is_torchmils_where_that_has_no_projection_and_no_convolution():
    archive = load_file(ARCHIVED / "transmil.safetensors")
    features, hidden, heads, landmarks = archive["options"].tolist()
    model = TransMIL(features, 1, hidden=hidden, heads=heads, landmarks=landmarks).double().eval()
    model.load_state_dict({"mean": model.mean, "deviation": model.deviation} | weights(archive))
    for cells in (9, 7, 1, 16, 3):
        found = model(one_slide(archive[f"cells.{cells}"]))
        close(found.logits[0], archive[f"logit.{cells}"])
        if math.isqrt(cells) ** 2 == cells:  # torchmil leaves out what the copies that fill up the square have
            positive = archive[f"attention.{cells}"].clamp(min=0)
            close(found.attention[:, 0], positive / positive.sum())


def test_its_attention_is_the_one_that_the_authors_use():
    archive = load_file(ARCHIVED / "nystrom.safetensors")
    model = _nystrom.Nystrom(8, 2, 4, 0.0).double().eval()
    model.load_state_dict(weights(archive), strict=False)
    model.norm = torch.nn.Identity()
    for tokens in (40, 5):
        given, attention = archive[f"tokens.{tokens}"], archive[f"attention.{tokens}"]
        close(model(given, lean=False) - given, archive[f"output.{tokens}"])
        first, row = model.read(given, lean=False)
        close(first - given[0], archive[f"output.{tokens}"][0])
        close(row, attention)


@pytest.mark.parametrize("heads", [2, 8])
def test_a_step_that_spares_memory_is_the_same_step(monkeypatch, heads):
    bags = some_bags((40, 3))
    found = {}
    for limit in (1000, 10):
        monkeypatch.setattr(_transmil, "LEAN", limit)
        model = build(hidden=16, heads=heads, landmarks=4)
        output = model(bags)
        output.logits[:, 0].sum().backward()
        found[limit] = [output.logits, output.attention, *(parameter.grad for parameter in model.parameters())]
    for plain, lean in zip(found[1000], found[10], strict=True):
        close(lean, plain)


def test_the_class_token_takes_equally_from_equal_cells_and_copies_count_for_their_cells():
    model = build()
    with torch.no_grad():
        for scale in (model.position.wide, model.position.middle, model.position.narrow):
            scale.weight.zero_()
        model.first.near.weight.zero_()
    attention = model(one_slide(torch.ones(6, 5, dtype=torch.float64))).attention[:, 0]
    close(attention, torch.tensor([2, 2, 2, 1, 1, 1], dtype=torch.float64) / 9)


def test_attention_is_uniform_if_nothing_is_above_zero_and_never_below():
    row = torch.tensor([0.9, -0.2, -0.1, 0.0, -0.3])
    assert _transmil._shares(row, 3).tolist() == pytest.approx([1 / 3] * 3)
    assert _transmil._shares(torch.tensor([0.9, -0.2, 0.1, 0.2, 0.3]), 3).tolist() == pytest.approx([0.5, 1 / 6, 1 / 3])


def test_no_gradient_goes_through_the_attention():
    assert not build()(some_bags((4,))).attention.requires_grad


def test_the_order_of_cells_is_read():
    model, bags = build(), some_bags((9,))
    assert model.order_matters
    assert not torch.allclose(model(Bags(bags.features.flip(0), bags.offsets)).logits, model(bags).logits)


@pytest.mark.parametrize(("options", "message"), [
    ({"hidden": 10, "heads": 4}, "`heads` should be a divisor of `hidden`, 10. Found 4"),
    ({"hidden": 8, "heads": 0}, "Found 0"), ({"hidden": 8, "landmarks": 0}, "`landmarks` should be at least 1"),
])
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        TransMIL(5, **options)


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TransMIL(5, 3, **{"hidden": 8, "heads": 2, "landmarks": 4} | options).double().eval()


def some_bags(lengths):
    features = torch.randn(sum(lengths), 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Bags(features, torch.tensor([0, *lengths]).cumsum(0))


def one_slide(cells):
    return Bags(cells, torch.tensor([0, len(cells)]))


def weights(archive):
    return {name.removeprefix("weight."): tensor for name, tensor in archive.items() if name.startswith("weight.")}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
