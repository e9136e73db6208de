"""DSMIL, beyond the laws."""

import pytest
import torch
from tests.archived_aggregators import archived
from tests.laws.slow_dsmil import two_streams

from milscope.aggregators._dsmil import DSMIL
from milscope.store._bags import Bags


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("values", [None, 2])
def test_the_streams_are_those_of_the_slow_loop_and_only_trained(classes, values):
    model, bags = DSMIL(4, classes, 0.0, query=3, values=values).double(), some_bags()
    found = model(bags)
    for slide in range(bags.n_slides):
        first, second, attention = two_streams(model, list(bags.select([slide]).features))
        close(found.streams[:, slide], torch.stack([first, second]))
        close(found.logits[slide], (first + second) / 2)
        close(found.attention[bags.offsets[slide]:bags.offsets[slide + 1]], attention)
    assert model.eval()(bags).streams is None


def test_the_cells_like_the_highest_one_are_attended_to_whatever_their_own_score():
    model = DSMIL(3, 1, query=2).eval()
    with torch.no_grad():
        model.score.weight.copy_(torch.tensor([[0.0, 0, 1]]))
        model.query.weight.copy_(torch.eye(2, 3))
        model.query.bias.zero_()
    cells = torch.tensor([[9.0, 0, 5], [9, 0, -5], [0, 9, 4]])
    assert model(Bags(cells, torch.tensor([0, 3]))).attention[:, 0].tolist() == pytest.approx([0.5, 0.5, 0])


def test_each_class_reads_the_slide_vectors_of_all():
    model, bags = DSMIL(4, 3, query=3).double().eval(), some_bags()
    before = model(bags).logits
    with torch.no_grad():
        model.classify.weight[0, 4:8] += 1.0
    changed = model(bags).logits - before
    attention = model(bags).attention
    mean = torch.stack([(attention[:5, 1:2] * bags.features[:5]).sum(0), (attention[5:, 1:2] * bags.features[5:]).sum(0)])
    close(changed[:, 0], model.value(mean).sum(1) / 2)
    assert not changed[:, 1:].any()


def test_equals_torchmil():
    model, bags, expected = archived(DSMIL, "dsmil")
    found = model.train()(bags)
    close(found.logits, expected["logits"])
    close(found.attention, expected["attention"])
    close(found.streams, expected["streams"])


def some_bags():
    return Bags(torch.randn(8, 4, dtype=torch.float64), torch.tensor([0, 5, 8]))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
