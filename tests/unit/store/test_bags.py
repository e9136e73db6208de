"""Packed bags against a list of separate tensors."""

import hypothesis
import torch
from hypothesis import strategies as st

from milscope.store._bags import Bags, cells_alone, concatenate

lengths_of_slides = st.lists(st.integers(0, 5), max_size=6)


@hypothesis.given(lengths=lengths_of_slides, data=st.data())
def test_select_takes_the_cells_of_those_slides_in_that_order(lengths, data):
    bags, parts = packed(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=8) if lengths else st.just([]))
    found = bags.select(chosen)
    assert found.lengths.tolist() == [lengths[slide] for slide in chosen]
    assert torch.equal(found.features, torch.cat([torch.zeros(0, 3), *(parts[slide] for slide in chosen)]))


@hypothesis.given(lengths=lengths_of_slides)
def test_owner_counts_through_the_slides(lengths):
    bags, _ = packed(lengths)
    assert bags.n_slides == len(lengths)
    assert bags.owner.tolist() == [slide for slide, n in enumerate(lengths) for _ in range(n)]


@hypothesis.given(lengths=lengths_of_slides)
def test_concatenating_the_single_slides_gives_the_bags_back(lengths):
    bags, _ = packed([*lengths, 2])
    again = concatenate([bags.select([slide]) for slide in range(bags.n_slides)])
    assert torch.equal(again.features, bags.features)
    assert torch.equal(again.offsets, bags.offsets)


def test_cells_alone_are_slides_of_one():
    bags = cells_alone(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert bags.lengths.tolist() == [1, 1, 1, 1]
    assert cells_alone(torch.zeros(0, 3)).n_slides == 0


def packed(lengths):
    parts = [torch.randn(n, 3, generator=torch.Generator().manual_seed(slide)) for slide, n in enumerate(lengths)]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Bags(torch.cat([torch.zeros(0, 3), *parts]), offsets), parts
