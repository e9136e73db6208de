"""A small run of whole slides for the review: images with a grain by which a place is known, cells with places, scores."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.fake_run import SIDE, fake_run

from milscope.review import open_verdicts
from milscope.review._images import Pictures
from milscope.review._run import ReviewedRun
from milscope.review._server import Review, application

HOME, TOKEN = "http://127.0.0.1:8000", "t" * 43
WIDTH, HEIGHT = SIDE, SIDE * 3 // 4


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("review")
    run = fake_run(home / "run", slides=3, cells=6, leave_out=("check", "pretrain", "encode", "train", "evaluate"))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, (columns // 50 + rows // 50) % 2 * 200], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(home / "slide-000.png", compress_level=1)
    tiled = pd.read_csv(run / "tile" / "slides.csv", dtype=str, keep_default_na=False)
    tiled.loc[0, "file"] = str(home / "slide-000.png")
    tiled.loc[1, "file"] = str(home / "moved.png")
    tiled.loc[2, ["width", "height", "mpp"]] = ""
    tiled.to_csv(run / "tile" / "slides.csv", index=False)
    (run / "tile" / "thumbnails" / "slide-002.jpg").unlink()
    ranked = pd.read_csv(run / "retrieve" / "ranked.csv")
    ranked.assign(evidence=ranked["score"], attention=0.1).drop(columns=["rank", "score"]).to_parquet(
        run / "predict" / "cells.parquet")
    return run


@pytest.fixture
def run(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "run")


@pytest.fixture
def shared(template: Path) -> Iterator[Path]:
    """The run itself, for tests that change nothing in it but its verdicts."""
    yield template
    shutil.rmtree(template / "review", ignore_errors=True)


@pytest.fixture
def stranger(shared: Path) -> Iterator[TestClient]:
    """A browser that has not opened the printed address."""
    reviewed = ReviewedRun(shared)
    with closing(open_verdicts(reviewed)) as store:
        guarded = application(Review(reviewed, store, Pictures(reviewed), ""), 8000, TOKEN)
        yield TestClient(guarded, HOME, follow_redirects=False)


@pytest.fixture
def page(stranger: TestClient) -> TestClient:
    """The browser of a reviewer."""
    assert stranger.get(f"/?token={TOKEN}").status_code == 303
    return stranger
