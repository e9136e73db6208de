"""A real Ray cluster of two nodes: the same files as from processes of this machine, and a node may die or join."""

import hashlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest

from milscope.configs import EncodeConfig, PredictConfig, PretrainConfig, TileConfig, TrainConfig
from milscope.encode import encode
from milscope.predict import predict
from milscope.pretrain import pretrain
from milscope.tile import tile
from milscope.train import train

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs milscope[cluster]")
NODES = Path(__file__).with_name("ray_nodes.py")


class Nodes:
    """The cluster, in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", NODES], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.address = self._answer()

    def ask(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.communicate(timeout=60)

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        while line and not (line[0].isdigit() or line.startswith("added") or line == "\n"):
            line = self.process.stdout.readline()  # what Ray has to say
        assert line, "the cluster is gone"
        return line.strip()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def many(rendered: Path) -> pd.DataFrame:
    """24 slides, of a few images."""
    files = sorted((rendered / "slides").glob("*.tiff"))
    return pd.DataFrame({"slide": [f"s{number:02d}" for number in range(24)],
                         "file": [str(files[number % len(files)]) for number in range(24)]})


def test_a_node_is_killed_in_the_middle_and_every_slide_is_tiled(nodes: Nodes, many: pd.DataFrame, tmp_path: Path) -> None:
    many.to_csv(tmp_path / "slides.csv", index=False)
    flags = ["slides.csv", "--size", "32", "--foreground", "0", "--executor", "ray", "--address", nodes.address]
    records = tmp_path / ".ray.partial" / "records"
    with started("-m", "milscope", "tile", *flags, "--out", "ray", folder=tmp_path) as running:
        wait(lambda: records.is_dir() and len(list(records.iterdir())) > 4, running)
        finished = len(list(records.iterdir()))
        bereft = [int(pid) for pid in nodes.ask("kill").split()]
        said, told = running.communicate(timeout=150)
    assert running.returncode == 0, told
    assert finished < 18
    assert bereft  # the node was at work
    wait(lambda: not any(psutil.pid_exists(pid) for pid in bereft))
    assert "24 slides" in said
    assert "0 failures" in said
    tile(many, tmp_path / "processes", config=TileConfig(size=32, foreground=0.0, workers=2))
    assert files(tmp_path / "ray") == files(tmp_path / "processes")


@pytest.fixture(scope="module")
def learned(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, features, and a model."""
    run = tmp_path_factory.mktemp("run")
    pretrain(cells, table, run / "pretrain", PretrainConfig(epochs=0, size=32, encoder_options={"channels": [8, 8, 16, 16]}))
    encode(cells, run / "pretrain", run / "encode", EncodeConfig(precision="float32"))
    train(run / "encode", table, run / "train", TrainConfig(epochs=2))
    return run


ENCODE_AND_PREDICT = """
import sys, json, ray
import milscope as ms
address, cells, run = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
options = {"executor": "ray", "address": address}
ms.encode(cells, run + "/pretrain", "encode", ms.EncodeConfig(precision="float32", **options))
ms.predict(run + "/encode", run + "/train", "predict", config=ms.PredictConfig(**options))
print(json.dumps(ray.is_initialized()))
"""


def test_a_cluster_encodes_and_predicts_what_processes_do(nodes: Nodes, cells: Path, learned: Path, tmp_path: Path) -> None:
    nodes.ask("add")
    alone = {"executor": "processes", "workers": 1, "limit": 600.0}
    with started("-c", ENCODE_AND_PREDICT, nodes.address, cells, learned, folder=tmp_path) as running:
        encode(cells, learned / "pretrain", tmp_path / "encode2", EncodeConfig(precision="float32", **alone))
        predict(learned / "encode", learned / "train", tmp_path / "predict2", config=PredictConfig(**alone))
        said, told = running.communicate(timeout=150)
    assert running.returncode == 0, told
    assert json.loads(said.splitlines()[-1])  # whoever connected before stays so
    assert files(tmp_path / "encode") == files(tmp_path / "encode2")
    assert files(tmp_path / "predict") == files(tmp_path / "predict2")
    for path in (learned / "encode").rglob("*.h5"):  # the same without an executor
        with h5py.File(path) as here, h5py.File(tmp_path / "encode" / path.relative_to(learned / "encode")) as there:
            np.testing.assert_allclose(here["features"][:], there["features"][:], rtol=1e-5, atol=1e-6)


@contextmanager
def started(*arguments: object, folder: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as running:
        try:
            yield running
        finally:
            running.kill()


def wait(happened: Callable[[], bool], running: subprocess.Popen | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert running is None or running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(directory: Path) -> dict[str, str]:
    """Every file with a digest of its bytes, except the manifest, which tells the time."""
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "manifest.json"}
