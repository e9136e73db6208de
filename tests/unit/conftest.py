"""Simulated features: what an encoder would give, with known witnesses."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from milscope import candidates
from milscope.configs import EncodeConfig
from milscope.store._features import write_features
from milscope.store._manifest import Stage


class Simulated(NamedTuple):
    """A features artifact, its slide table, and which cells are witnesses."""

    directory: Path
    table: pd.DataFrame
    witnesses: dict[str, np.ndarray]


@pytest.fixture
def simulate(simulate_in: Callable[..., Simulated], tmp_path: Path) -> Callable[..., Simulated]:
    """See `simulate_in`; into the test's own directory."""
    return partial(simulate_in, tmp_path)


@pytest.fixture(scope="session")
def simulate_in() -> Callable[..., Simulated]:
    """Writes slides of Gaussian features whose witnesses are shifted; every third slide is for validation or test."""

    def build(directory: Path, slides: int = 24, cells: int = 40, rate: float = 0.2, shift: float = 6.0, width: int = 8, *,
              name: str = "features", encoder: str = "e1", seed: int = 0,
              change: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None) -> Simulated:
        random = np.random.default_rng(seed)
        names = [f"s{number:03d}" for number in range(slides)]
        label = np.arange(slides) % 2
        split = np.array(["train", "train", "train", "train", "validation", "test"])[np.arange(slides) // 2 % 6]
        witnesses = {}
        with Stage(directory / name, "features", EncodeConfig(), {"cells": str(seed), "encoder": encoder}, ["p000"]) as stage:
            folder = stage.work / "features_fake"
            folder.mkdir()
            for slide, positive in zip(names, label, strict=True):
                count = int(random.integers(cells // 2, cells + 1))
                features = random.normal(size=(count, width))
                witnesses[slide] = (np.arange(count) < max(1, round(rate * count))) & bool(positive)
                features[witnesses[slide], 0] += shift
                features = (change or {}).get(slide, lambda found: found)(features.astype(np.float32))
                write_features(folder / f"{slide}.h5", features, _cells(slide, len(features)), encoder="fake")
        table = pd.DataFrame({"slide": names, "patient": [f"p{number:03d}" for number in range(slides)],
                              "split": split, "abnormal": label})
        return Simulated(directory / name, table, witnesses)

    return build


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A context that ends what is trained within it after so many checkpoints."""

    @contextmanager
    def after(saves: int) -> Generator[None]:
        left, save = [saves], candidates.save_checkpoint

        def then_end(*given: object) -> None:
            save(*given)
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(candidates, "CHECKPOINT_SECONDS", 0.0)
            patched.setattr(candidates, "save_checkpoint", then_end)
            with pytest.raises(KeyboardInterrupt):
                yield

    return after


def _cells(slide: str, count: int) -> pa.Table:
    places = np.arange(count, dtype=float)
    return pa.table({"cell": [f"{slide}:{number}" for number in range(count)], "x": places, "y": places + 0.5,
                     "width": np.full(count, 20.0), "height": np.full(count, 20.0),
                     "mpp": pa.nulls(count, pa.float64())})
