"""Rendered slides that many tests share, and a quiet machine: one thread, no network."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pandas as pd
import pytest
import torch

from milscope.configs import SplitConfig, SynthConfig, TileConfig
from milscope.slides import read_slides
from milscope.split import split
from milscope.synth import synth
from milscope.tile import tile

torch.set_num_threads(1)

FIRST = ("flow", "unit/test_export.py", "unit/test_train.py", "unit/test_endtoend.py")
"""Folders and files that take long: whoever takes one of them last would keep the others waiting."""


def pytest_configure(config: pytest.Config) -> None:
    """Files are given to processes in their order here, and not those of many tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    home = Path(__file__).parent
    items.sort(key=lambda item: not any(item.path.is_relative_to(home / name) for name in FIRST))


def pytest_collection_finish() -> None:
    """What was imported stays: collecting garbage does not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Else libraries that look for what was left behind at the end complain of it."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 rendered slides of 30 cells, as images with a cell table: slides.csv, cells.csv, truth/cells.csv."""
    out = tmp_path_factory.mktemp("rendered") / "slides"
    synth(out, SynthConfig(slides=12, cells=30, rate=0.2, workers=1))
    return out


@pytest.fixture(scope="session")
def rendered_crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 rendered slides of 30 cells, as folders of cell crops: slides.csv, cells/, truth/cells.csv."""
    out = tmp_path_factory.mktemp("rendered") / "crops"
    synth(out, SynthConfig(slides=12, cells=30, rate=0.2, workers=1, crops=True))
    return out


@pytest.fixture(scope="session")
def table(rendered: Path) -> pd.DataFrame:
    """The slide table of the rendered slides, divided by patient."""
    return split(read_slides(rendered / "slides.csv"), SplitConfig(validation=0.25, test=0.25))


@pytest.fixture(scope="session")
def cells(rendered: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cell store of the rendered slides."""
    out = tmp_path_factory.mktemp("store") / "tile"
    tile(table, out, cells=rendered / "cells.csv", config=TileConfig(size=96, workers=1, limit=0.0))
    return out
