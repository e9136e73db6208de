"""A run of drawn slides with ranked cells: fractional places, some at the border, pixels kept without loss."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from tests.fake_scores import write_scores

from milscope.configs import RetrieveConfig, TileConfig
from milscope.retrieve import retrieve
from milscope.store import CellStore
from milscope.tile import tile

WIDTH, HEIGHT, SIDE = 420, 300, 32


@pytest.fixture(scope="package")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiles, scores and ranks cells of drawn slides; gives the run."""

    def make(images: dict[str, Path], cells: pd.DataFrame | Path | None, config: TileConfig) -> Path:
        run = tmp_path_factory.mktemp("exported")
        table = pd.DataFrame({"slide": list(images), "file": [str(path) for path in images.values()], "mpp": 0.5})
        if isinstance(cells, pd.DataFrame):
            cells.to_csv(run / "places.csv", index=False)
            cells = run / "places.csv"
        tile(table, run / "tile", cells=cells, config=config)
        score_run(run)
        return run

    return make


def score_run(run: Path) -> None:
    """Scores of the cells of `run/tile`, those of a second task the other way round, and the best of them."""
    store = CellStore(run / "tile")
    frames = []
    for slide in store.slides:
        frame = store.table(slide).select(["cell", "x", "y", "width", "height"]).to_pandas().assign(slide=slide)
        frame["evidence"] = np.random.default_rng(len(frame)).normal(size=len(frame)).astype(np.float32)
        frames.append(frame)
    cells = pd.concat(frames, ignore_index=True)
    cells = cells.assign(attention=1 / len(cells), witness=False,
                         **{"attention:clue": 0.0, "evidence:clue": -cells["evidence"]})
    slides = pd.DataFrame({"slide": store.slides, "patient": store.slides, "split": "test", "label": 1.0, "probability": 0.5,
                           "logit": 0.0, "called": 1})
    write_scores(run / "predict", slides, cells)
    retrieve(run / "predict", run / "tile", run / "retrieve", RetrieveConfig(k=12))


def draw_slide(path: Path, seed: int) -> Path:
    """A picture in which every place looks different from its neighbours."""
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5)).save(path)
    return path


@pytest.fixture(scope="package")
def run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides `a` and `b b` of 20 cells, the first three of each at a border."""
    folder = tmp_path_factory.mktemp("images")
    images = {name: draw_slide(folder / f"{name}.png", seed) for seed, name in enumerate(("a", "b b"))}
    random = np.random.default_rng(0)
    x, y = random.uniform(0, WIDTH, 40), random.uniform(0, HEIGHT, 40)
    x[[0, 20]], y[[1, 21]], x[[2, 22]] = 3.25, HEIGHT - 2.5, WIDTH
    return make_run(images, pd.DataFrame({"slide": ["a"] * 20 + ["b b"] * 20, "x": x, "y": y}),
                    TileConfig(size=SIDE, workers=1, quality=100))


@pytest.fixture(scope="package")
def crops_run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of crops, which have no places."""
    folder = tmp_path_factory.mktemp("crops") / "c"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (number * 50, 90, 120)).save(folder / f"c_{number}.jpg")
    return make_run({"c": folder}, folder.parent, TileConfig(workers=1))
