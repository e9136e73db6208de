import math

import pytest
import torch

from milscope.objectives import NTXent


def test_equal_projections_cost_chance() -> None:
    alike = torch.ones(2, 8, 4, dtype=torch.float64)
    assert NTXent(0.07)(alike).item() == pytest.approx(NTXent.chance(8))
    assert NTXent.chance(8) == math.log(15)


def test_well_separated_cells_cost_nothing() -> None:
    cells = torch.eye(4, dtype=torch.float64)
    assert NTXent(0.02)(torch.stack([cells, cells])).item() == pytest.approx(0, abs=1e-12)


def test_cells_at_right_angles_in_closed_form() -> None:
    cells = torch.eye(4, dtype=torch.float64)
    assert NTXent(0.5)(torch.stack([cells, cells])).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)))


def test_two_views_apart_cost_more_than_chance() -> None:
    first = torch.eye(4, dtype=torch.float64)
    assert NTXent(0.5)(torch.stack([first, -first])) > NTXent.chance(4)
