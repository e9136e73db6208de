"""Two real processes, started by torchrun, train as one does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

from milscope.configs import PretrainConfig
from milscope.pretrain import pretrain
from milscope.slides import write_slides
from milscope.store import read_manifest

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
EXACT = {"encoder_options": {"channels": [8, 8, 16, 16]}, "size": 32, "batch": 50, "projection": 16, "device": "cpu",
         "precision": "float64", "epochs": 1, "stain": 0.1}
CASES = {
    **{rule: {"surgery": rule} for rule in ("ags", "ags-one-way", "sum", "pcgrad", "upgrad", "mgda")},
    "simclr": {"method": "simclr"},
    "weakly-supervised": {"method": "weakly-supervised"},
    "per-task": {"statistics": "per-task"},
    "activation": {"encoder": "resnetv2_50", "encoder_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16],
                                                                 "stem_chs": 8}},
}
SCRIPT = """
import json, sys
from pathlib import Path
from milscope.configs import PretrainConfig
from milscope.distributed import team
from milscope.pretrain import pretrain

cells, slides, out, cases = sys.argv[1:]
with team() as together:
    assert together.ranks == 2
    for name, settings in json.loads(cases).items():
        pretrain(cells, slides, Path(out) / name, PretrainConfig(**settings))
"""


def run_together(arguments: list[str], processes: int = 2) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*TORCHRUN, str(processes), *arguments], capture_output=True, text=True, env=environment, timeout=300)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends torchrun and the processes it started, which are in sessions of their own and outlive it."""
    agent = psutil.Process(process.pid)
    everyone = [agent, *agent.children(recursive=True)]
    for each in everyone:
        each.kill()
    process.wait()
    psutil.wait_procs(everyone, timeout=30)


def weights(directory: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_file(directory / "encoder.safetensors").items()}


def assert_same(first: Path, second: Path, bound: float = 1e-9) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=bound * max(1.0, np.abs(value).max()), err_msg=name)


@pytest.fixture(scope="module")
def slides(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("distributed") / "slides.csv"
    write_slides(table, path)
    return path


@pytest.fixture(scope="module")
def together(cells: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained by two processes."""
    import json

    out = tmp_path_factory.mktemp("two")
    (out / "train.py").write_text(SCRIPT)
    cases = json.dumps({name: {**EXACT, **settings} for name, settings in CASES.items()})
    done = run_together([str(out / "train.py"), str(cells), str(slides), str(out), cases])
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one(case: str, together: Path, cells: Path, slides: Path, tmp_path: Path) -> None:
    alone = pretrain(cells, slides, tmp_path / "alone", PretrainConfig(**{**EXACT, **CASES[case]})).directory
    assert_same(alone, together / case)
    assert read_manifest(together / case, "encoder").summary["processes"] == 2
    columns = [name for name in pd.read_csv(alone / "log.csv") if name in ("contrast", "similarity", "label", "cosine")]
    logs = [pd.read_csv(directory / "log.csv")[columns] for directory in (alone, together / case)]
    np.testing.assert_allclose(*logs, atol=1e-5)


def test_killed_with_two_processes_goes_on_with_one(cells: Path, slides: Path, tmp_path: Path) -> None:
    options = [str(cells), str(slides), "--epochs", "6", "--precision", "float64", "--size", "32", "--batch", "50",
               "--encoder-options", '{"channels": [8, 8, 16, 16]}', "--projection", "16", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*TORCHRUN, "2", "-m", "milscope", "pretrain", *options, "--out", str(tmp_path / "killed")],
                               env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / ".killed.partial" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(process)
    assert checkpoint.exists()
    assert not (tmp_path / "killed").exists(), "training ended before it could be killed"
    config = PretrainConfig(epochs=6, precision="float64", size=32, batch=50, projection=16, device="cpu",
                            encoder_options={"channels": [8, 8, 16, 16]})
    for name in ("killed", "whole"):
        pretrain(cells, slides, tmp_path / name, config)
    assert_same(tmp_path / "whole", tmp_path / "killed", bound=1e-6)


def test_a_mistake_is_told_once(cells: Path, slides: Path, tmp_path: Path) -> None:
    done = run_together(["-m", "milscope", "pretrain", str(cells), str(slides), "--out", str(tmp_path / "a"), "--batch", "1"])
    assert done.returncode != 0
    assert done.stderr.count("error: `batch` should be at least 4") == 1
    assert not (tmp_path / "a").exists()
