"""TissUUmaps itself opens an exported project. Set MILSCOPE_TISSUUMAPS to the Python of an environment that has it."""

import os
import socket
import subprocess
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from tests import browser
from tests.fake_scores import write_scores

from milscope.configs import ExportCellsConfig, RetrieveConfig, TileConfig
from milscope.export_cells import export_cells
from milscope.retrieve import retrieve
from milscope.store import CellStore
from milscope.tile import tile

SERVE = "import h5py; from tissuumaps.__main__ import main; main()"  # h5py first: libvips brings another HDF5
SHOWN = """() => {
  const cells = typeof dataUtils !== 'undefined' ? dataUtils.data?.milscope?._processeddata?.x : undefined;
  const world = typeof tmapp !== 'undefined' ? tmapp.ISS_viewer?.world : undefined;
  const image = world?.getItemCount() ? world.getItemAt(0) : undefined;
  return cells && image ? [cells.length, world.getItemCount(), image.getContentSize().x] : null;
}"""

pytestmark = pytest.mark.skipif("MILSCOPE_TISSUUMAPS" not in os.environ, reason="needs MILSCOPE_TISSUUMAPS")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of everything; the project of slide `s` with 10 cells is in it."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 600, 3), dtype=np.uint8)).save(tmp_path / "s.png")
    random = np.random.default_rng(1)
    places = pd.DataFrame({"slide": "s", "x": random.uniform(50, 550, 20), "y": random.uniform(50, 350, 20)})
    places.to_csv(tmp_path / "places.csv", index=False)
    table = pd.DataFrame({"slide": ["s"], "file": [str(tmp_path / "s.png")], "mpp": 0.5})
    tile(table, tmp_path / "tile", cells=tmp_path / "places.csv", config=TileConfig(size=32, workers=1))
    cells = CellStore(tmp_path / "tile").table("s").select(["cell", "x", "y", "width", "height"]).to_pandas()
    cells = cells.assign(slide="s", attention=0.05, evidence=random.normal(size=20), witness=False)
    slides = pd.DataFrame({"slide": ["s"], "patient": "p", "split": "test", "label": 1.0, "probability": 0.5, "logit": 0.0,
                           "called": 1})
    write_scores(tmp_path / "predict", slides, cells)
    retrieve(tmp_path / "predict", tmp_path / "tile", tmp_path / "retrieve", RetrieveConfig(k=10))
    export_cells(tmp_path, tmp_path / "out", ExportCellsConfig(to=("tissuumaps",)))
    return tmp_path


def test_it_shows_the_slide_with_its_cells(project: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([os.environ["MILSCOPE_TISSUUMAPS"], "-c", SERVE, "-p", str(port), str(project)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/")
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=browser.find(), args=[
                "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
            page = opened.new_page()
            failed: list[str] = []
            page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
            page.goto(f"http://127.0.0.1:{port}/out/tissuumaps/s.tmap")
            page.wait_for_function(SHOWN, timeout=60_000)
            assert page.evaluate(SHOWN) == [10, 1, 600]
            assert failed == []
            opened.close()
    finally:
        server.terminate()
        server.wait(10)


def _wait(address: str) -> None:
    for _ in range(300):
        try:
            urlopen(address, timeout=5).read()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("TissUUmaps does not start")
