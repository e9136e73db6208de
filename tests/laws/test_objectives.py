"""What every objective on projections must do, in float64; `BLIND_TO_LENGTH` and `BLIND_TO_LABELS` say which obeys more."""

import math
from itertools import permutations

import pytest
import torch

from milscope.objectives import NTXent, Similarity, SlideLabel

T = 0.2
OBJECTIVES = {"contrast": NTXent(T), "similarity": Similarity(T), "label": SlideLabel()}
WIDTHS = {"contrast": 5, "similarity": 5, "label": 1}
BLIND_TO_LENGTH = BLIND_TO_LABELS = ["contrast", "similarity"]
EVERY = pytest.mark.parametrize("name", OBJECTIVES)
BF16 = 2**-8
"""How far rounding to bf16 moves a number, as a share of it; and so a vector, as a share of its length."""


def projections(name: str, cells: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, cells, WIDTHS[name], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(cells: int = 6) -> torch.Tensor:
    return torch.arange(cells) % 3 == 0


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def slow_contrast(views: torch.Tensor, positive: torch.Tensor) -> float:
    everything, cells = [*views[0], *views[1]], views.shape[1]
    losses = []
    for i, z in enumerate(everything):
        partner = everything[(i + cells) % (2 * cells)]
        among = sum(math.exp(cosine(z, other) / T) for k, other in enumerate(everything) if k != i)
        losses.append(-math.log(math.exp(cosine(z, partner) / T) / among))
    return sum(losses) / len(losses)


def slow_similarity(views: torch.Tensor, positive: torch.Tensor) -> float:
    everything = [*views[0], *views[1]]
    pairs = [cosine(a, b) for a, b in permutations(everything, 2)]
    return (1 - sum(pairs) / len(pairs)) / T


def slow_label(views: torch.Tensor, positive: torch.Tensor) -> float:
    of_label: dict[bool, list[float]] = {}
    for view in views:
        for z, label in zip(view, positive.tolist(), strict=True):
            chance = 1 / (1 + math.exp(-z.item()))
            of_label.setdefault(label, []).append(-math.log(chance if label else 1 - chance))
    return sum(sum(losses) / len(losses) for losses in of_label.values()) / len(of_label)


SLOW = {"contrast": slow_contrast, "similarity": slow_similarity, "label": slow_label}


@EVERY
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_equals_the_slow_loop(name: str, cells: int) -> None:
    views = projections(name, cells)
    assert OBJECTIVES[name](views, labels(cells)).item() == pytest.approx(SLOW[name](views, labels(cells)), abs=1e-12)


@EVERY
def test_symmetric_in_views(name: str) -> None:
    views = projections(name)
    torch.testing.assert_close(OBJECTIVES[name](views, labels()), OBJECTIVES[name](views.flip(0), labels()))


@EVERY
def test_blind_to_the_order_of_cells(name: str) -> None:
    views, order = projections(name), [3, 1, 5, 0, 2, 4]
    torch.testing.assert_close(OBJECTIVES[name](views, labels()), OBJECTIVES[name](views[:, order], labels()[order]))


@pytest.mark.parametrize("name", BLIND_TO_LENGTH)
def test_blind_to_the_length_of_projections(name: str) -> None:
    views = projections(name)
    lengths = torch.logspace(-4, 4, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(OBJECTIVES[name](views, labels()), OBJECTIVES[name](views * lengths, labels()))


@pytest.mark.parametrize("name", BLIND_TO_LABELS)
def test_blind_to_the_labels_which_need_not_be_given(name: str) -> None:
    views = projections(name)
    loss = OBJECTIVES[name](views)
    assert torch.equal(loss, OBJECTIVES[name](views, labels()))
    assert torch.equal(loss, OBJECTIVES[name](views, ~labels()))


@EVERY
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
@pytest.mark.parametrize("cells", [1, 6])
def test_finite_at_extreme_scales(name: str, scale: float, cells: int) -> None:
    views = (projections(name, cells).float() * scale).requires_grad_()
    loss = OBJECTIVES[name](views, labels(cells))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(views.grad).all()


@EVERY
def test_gradient(name: str) -> None:
    assert torch.autograd.gradcheck(lambda views: OBJECTIVES[name](views, labels(3)), projections(name, 3).requires_grad_())


@EVERY
def test_bf16_projections_move_the_loss_by_no_more_than_their_rounding(name: str) -> None:
    """Rounding turns each of two vectors by at most BF16, so it moves their cosine by at most 2 BF16.

    A cross-entropy moves by at most twice what its logits move by, that of one logit by at most once.
    """
    for seed in range(20):
        views = projections(name, 32, seed)
        bound = {"contrast": 2 * 2 * BF16 / T, "similarity": 2 * BF16 / T, "label": BF16 * views.abs().max().item()}[name]
        exact, coarse = (OBJECTIVES[name](views.to(dtype), labels(32)) for dtype in (torch.float32, torch.bfloat16))
        assert coarse.dtype == torch.float32
        assert abs(coarse - exact) <= bound + 1e-5
        assert exact != coarse


@EVERY
def test_bf16_costs_nothing_but_the_rounding_of_the_projections(name: str) -> None:
    coarse = projections(name, 32).bfloat16()
    torch.testing.assert_close(OBJECTIVES[name](coarse, labels(32)), OBJECTIVES[name](coarse.float(), labels(32)))


@EVERY
def test_projections_stay_as_they_were(name: str) -> None:
    views = projections(name)
    OBJECTIVES[name](views, labels())
    assert torch.equal(views, projections(name))
