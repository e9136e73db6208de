"""What every objective on projections must do."""

import math
from itertools import permutations

import pytest
import torch

from milscope.objectives import NTXent, Similarity

OBJECTIVES = {"contrast": NTXent(0.2), "similarity": Similarity(0.2)}


def projections(cells: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, cells, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def slow_contrast(views: torch.Tensor, t: float) -> float:
    everything, cells = [*views[0], *views[1]], views.shape[1]
    losses = []
    for i, z in enumerate(everything):
        partner = everything[(i + cells) % (2 * cells)]
        among = sum(math.exp(cosine(z, other) / t) for k, other in enumerate(everything) if k != i)
        losses.append(-math.log(math.exp(cosine(z, partner) / t) / among))
    return sum(losses) / len(losses)


def slow_similarity(views: torch.Tensor, t: float) -> float:
    everything = [*views[0], *views[1]]
    pairs = [cosine(a, b) for a, b in permutations(everything, 2)]
    return (1 - sum(pairs) / len(pairs)) / t


SLOW = {"contrast": slow_contrast, "similarity": slow_similarity}


@pytest.mark.parametrize("name", OBJECTIVES)
class TestEveryObjective:
    @pytest.mark.parametrize("cells", [1, 2, 6])
    def test_equals_the_slow_loop(self, name: str, cells: int) -> None:
        views = projections(cells)
        assert OBJECTIVES[name](views).item() == pytest.approx(SLOW[name](views, 0.2), abs=1e-12)

    def test_symmetric_in_views(self, name: str) -> None:
        views = projections()
        assert torch.allclose(OBJECTIVES[name](views), OBJECTIVES[name](views.flip(0)))

    def test_blind_to_the_order_of_cells(self, name: str) -> None:
        views = projections()
        assert torch.allclose(OBJECTIVES[name](views), OBJECTIVES[name](views[:, [3, 1, 5, 0, 2, 4]]))

    def test_blind_to_the_length_of_projections(self, name: str) -> None:
        assert torch.allclose(OBJECTIVES[name](projections()), OBJECTIVES[name](1e4 * projections()))

    @pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
    def test_finite_at_extreme_scales(self, name: str, scale: float) -> None:
        views = (projections().float() * scale).requires_grad_()
        OBJECTIVES[name](views).backward()
        assert torch.isfinite(views.grad).all()

    def test_gradient(self, name: str) -> None:
        assert torch.autograd.gradcheck(OBJECTIVES[name], projections(3).requires_grad_())


def test_contrast_of_equal_projections_is_chance() -> None:
    alike = torch.ones(2, 8, 4, dtype=torch.float64)
    assert NTXent(0.07)(alike).item() == pytest.approx(NTXent.chance(8))
    assert NTXent.chance(8) == math.log(15)


def test_contrast_vanishes_for_well_separated_cells() -> None:
    cells = torch.eye(4, dtype=torch.float64)
    assert NTXent(0.02)(torch.stack([cells, cells])).item() == pytest.approx(0, abs=1e-12)


def test_similarity_of_equal_projections_is_its_minimum_zero() -> None:
    assert Similarity(0.07)(torch.ones(2, 8, 4, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    assert Similarity(0.07)(projections()).item() > 0
