import pytest
import torch

from milscope.objectives import Similarity


def test_equal_projections_are_the_minimum_zero() -> None:
    assert Similarity(0.07)(torch.ones(2, 8, 4, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    others = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert Similarity(0.07)(others).item() > 0


def test_directions_that_cancel_are_the_maximum() -> None:
    cells = torch.eye(4, dtype=torch.float64)
    assert Similarity(0.5)(torch.stack([cells, -cells])).item() == pytest.approx((1 + 1 / 7) / 0.5)


def test_temperature_only_scales() -> None:
    views = torch.randn(2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Similarity(0.1)(views), 10 * Similarity(1.0)(views))
