"""Segment operations against a loop over slides."""

import pytest
import torch

from milscope.aggregators._segments import (
    attend,
    segment_argmax,
    segment_max,
    segment_mean,
    segment_order,
    segment_softmax,
    segment_sum,
)

OWNER = torch.tensor([0, 0, 0, 1, 2, 2])
VALUES = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("segments", "whole"), [
    (segment_sum, lambda part: part.sum(0)),
    (segment_mean, lambda part: part.mean(0)),
    (segment_max, lambda part: part.amax(0)),
])
def test_reductions_are_those_of_each_slide(segments, whole):
    expected = torch.stack([whole(VALUES[slide == OWNER]) for slide in range(3)])
    torch.testing.assert_close(segments(VALUES, OWNER, 3), expected)


def test_mean_keeps_further_axes():
    values = VALUES.reshape(6, 2, 2)
    torch.testing.assert_close(segment_mean(values, OWNER, 3), segment_mean(VALUES, OWNER, 3).reshape(3, 2, 2))


def test_softmax_is_that_of_each_slide_and_withstands_large_scores():
    for factor in (1, 1e5):
        expected = torch.cat([(VALUES * factor)[slide == OWNER].softmax(0) for slide in range(3)])
        torch.testing.assert_close(segment_softmax(VALUES * factor, OWNER, 3), expected)


def test_argmax_gives_the_first_of_equal_rows():
    values = torch.tensor([[1.0, 2.0], [1.0, 3.0], [0.0, 3.0], [5.0, -1.0], [-2.0, 0.0], [-2.0, 0.0]])
    assert segment_argmax(values, OWNER, 3).tolist() == [[0, 1], [3, 3], [4, 4]]


def test_attend_weighs_values_per_head():
    attention = segment_softmax(VALUES[:, :2], OWNER, 3)
    found = attend(attention, VALUES, OWNER, 3)
    for slide in range(3):
        for head in range(2):
            rows = slide == OWNER
            torch.testing.assert_close(found[slide, head], attention[rows, head] @ VALUES[rows])


def test_order_goes_from_slide_to_slide_and_from_the_largest_down_whatever_the_order_of_rows():
    values = torch.tensor([[1.0, 3.0], [1.0, 5.0], [2.0, 4.0], [0.0, 0.0], [7.0, 1.0], [7.0, 1.0]])
    assert segment_order(values, OWNER).T.tolist() == [[2, 0, 1, 3, 4, 5], [1, 2, 0, 3, 4, 5]]
    assert segment_order(values, torch.tensor([1, 0, 1, 0, 1, 0])).T.tolist() == [[5, 1, 3, 4, 2, 0], [1, 5, 3, 2, 0, 4]]


def test_attend_is_the_same_for_few_and_for_many_cells_a_slide():
    for lengths in ((50, 40, 1, 60), (3, 1, 2), (70,)):
        owner = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        attention, values = torch.rand(sum(lengths), 2, dtype=torch.float64), torch.rand(sum(lengths), 5, dtype=torch.float64)
        expected = [attention[owner == slide].T @ values[owner == slide] for slide in range(len(lengths))]
        torch.testing.assert_close(attend(attention, values, owner, len(lengths)), torch.stack(expected))
