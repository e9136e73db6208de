"""The fewest cells that hold more than a share."""

import pytest
import torch

from milscope.aggregators._routing import top_share


@pytest.mark.parametrize(("share", "kept"), [
    (0.0, [0.4]), (0.39, [0.4]), (0.41, [0.4, 0.3]), (0.69, [0.4, 0.3]), (0.71, [0.4, 0.3, 0.2]), (0.89, [0.4, 0.3, 0.2]),
    (0.91, [0.4, 0.3, 0.2, 0.1]), (1.0, [0.4, 0.3, 0.2, 0.1]),
])
def test_the_fewest_cells_that_exceed_the_share_are_kept_and_renormalised(share, kept):
    phi = torch.tensor([0.2, 0.4, 0.1, 0.3], dtype=torch.float64)
    expected = torch.tensor([value if value in kept else 0 for value in phi.tolist()], dtype=torch.float64)
    torch.testing.assert_close(weights(phi.log() + 3, share), expected / expected.sum())


def test_a_share_that_is_reached_but_not_exceeded_takes_one_more():
    assert (weights(torch.zeros(4), 0.5) > 0).sum() == 3


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1), (0.4999, 4), (0.5001, 5), (1.0, 8)])
def test_of_equal_scores_those_with_the_smaller_key_are_kept_however_they_are_stored(share, kept):
    keys = torch.randperm(8, generator=torch.Generator().manual_seed(0)).double()
    for order in (torch.arange(8), torch.arange(8).flip(0), torch.randperm(8, generator=torch.Generator().manual_seed(1))):
        assert set(keys[order][weights(torch.zeros(8), share, keys[order]) > 0].tolist()) == set(range(kept))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_only_cell_is_kept_whatever_its_score(share):
    assert weights(torch.tensor([-1e30]), share).tolist() == [1.0]


def test_slides_and_tasks_are_by_themselves():
    scores = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    keys = torch.zeros(3, 20)
    found = top_share(scores, keys, 0.3)
    for slide in range(3):
        for task in range(2):
            torch.testing.assert_close(found[slide, :, task], weights(scores[slide, :, task], 0.3))


def test_scores_in_half_precision_are_summed_in_full():
    """1,000 equal shares of 0.001 exceed a half after 501, in bfloat16 never."""
    assert (weights(torch.zeros(1000, dtype=torch.bfloat16), 0.5005) > 0).sum() == 501


def test_far_apart_scores_keep_their_order_where_the_softmax_cannot_tell_them():
    assert (weights(torch.tensor([-500.0, 0.0, -400.0]), 1.0) >= 0).all()
    assert weights(torch.tensor([-500.0, 0.0, -400.0]), 0.9).tolist() == [0.0, 1.0, 0.0]


def test_what_is_kept_learns_and_what_is_not_does_not():
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0], requires_grad=True)
    kept = weights(scores, 0.8)
    (kept * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    assert ((scores.grad != 0) == (kept > 0)).all()


def weights(scores, share, keys=None):
    keys = torch.zeros(len(scores), dtype=torch.float64) if keys is None else keys
    return top_share(scores[None, :, None], keys[None], share)[0, :, 0]
