"""A benchmark's directory with simulated results."""

from pathlib import Path

import pytest
from tests.fake_grid import fake_grid


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, two rates, four methods of known skill, with the drawn cells."""
    return fake_grid(tmp_path_factory.mktemp("grid") / "simulated", pictures=True)
