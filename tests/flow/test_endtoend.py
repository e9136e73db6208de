"""Training end to end, by two real processes, and killed."""

import json
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

from milscope.configs import EndToEndConfig
from milscope.endtoend import endtoend
from milscope.slides import write_slides
from milscope.store import read_manifest

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
EXACT = {"encoder_options": {"channels": [8, 8, 16, 16]}, "size": 32, "device": "cpu", "precision": "float64", "dropout": 0.0,
         "options": {"hidden": 32, "heads": 4}, "budget": 8, "epochs": 1, "statistics": "fixed", "chunk": 40, "batch": 3}
CASES = {
    "random": {},
    "all": {"sampler": "all"},
    "attention": {"sampler": "attention"},
    "multi-scale": {"sampler": "multi-scale", "scales": ("1", "0.5")},
    "chunk": {"sampler": "all", "statistics": "chunk"},
    "cox": {"sampler": "all", "task": "death:cox(months,died)", "batch": 5},
}
SCRIPT = """
import json, sys
from pathlib import Path
from milscope.configs import EndToEndConfig
from milscope.distributed import team
from milscope.endtoend import endtoend

cells, slides, out, cases = sys.argv[1:]
with team() as together:
    assert together.ranks == 2
    for name, settings in json.loads(cases).items():
        settings["scales"] = tuple(settings.get("scales", ("1",)))
        endtoend(cells, slides, Path(out) / name, EndToEndConfig(**settings))
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def weights(directory: Path) -> dict[str, np.ndarray]:
    return {f"{part}.{name}": tensor.double().numpy() for part, file in (("encoder", "encoder"), ("model", "model"))
            for name, tensor in load_file(directory / part / f"{file}.safetensors").items()}


@pytest.fixture(scope="module")
def slides(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endtoend") / "slides.csv"
    split = np.array(["train", "validation"])[np.arange(len(table)) // 8]
    write_slides(table.assign(split=split, months=np.arange(1, len(table) + 1) * 1.5, died=np.arange(len(table)) % 2), path)
    return path


@pytest.fixture(scope="module")
def together(cells: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case trained by two processes."""
    out = tmp_path_factory.mktemp("two")
    (out / "train.py").write_text(SCRIPT)
    cases = json.dumps({name: {"task": "abnormal", **EXACT, **settings} for name, settings in CASES.items()})
    done = subprocess.run([*TORCHRUN, "2", str(out / "train.py"), str(cells), str(slides), str(out), cases],
                          capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_statistics_of_each_process_become_one(together: Path) -> None:
    """With the chunks' own statistics, of which each process has others, what is kept has those of both."""
    kept = weights(together / "chunk")
    assert kept["encoder.backbone.bn1.num_batches_tracked"] > 0
    assert all(np.isfinite(value).all() for value in kept.values())
    assert np.abs(kept["encoder.backbone.bn1.running_mean"]).max() > 0


@pytest.mark.parametrize("case", [case for case in CASES if case != "chunk"])
def test_two_processes_take_the_steps_of_one(case: str, together: Path, cells: Path, slides: Path, tmp_path: Path) -> None:
    config = EndToEndConfig(**{"task": "abnormal", **EXACT, **CASES[case]})
    alone = endtoend(cells, slides, tmp_path / "alone", config).directory
    ours, theirs = weights(alone), weights(together / case)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():  # written in float32
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=2e-6 * max(1.0, np.abs(value).max()), err_msg=name)
    assert read_manifest(together / case, "endtoend").summary["processes"] == 2
    logs = [pd.read_csv(place / "log.csv")[["train_loss", "validation_loss"]] for place in (alone, together / case)]
    np.testing.assert_allclose(*logs, rtol=1e-5)


def test_killed_it_goes_on_and_ends_bit_identically(cells: Path, slides: Path, tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint, then the same again from Python, beside one that nobody disturbed."""
    options = [str(cells), str(slides), "--task", "abnormal", "--epochs", "3", "--size", "32", "--budget", "8",
               "--device", "cpu", "--encoder-options", '{"channels": [8, 8, 16, 16]}',
               "--options", '{"hidden": 32, "heads": 4}']
    command = [sys.executable, "-m", "milscope", "endtoend", *options, "--out"]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], env=ENVIRONMENT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / ".killed.partial" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    psutil.Process(process.pid).kill()
    process.wait()
    assert not (tmp_path / "killed").exists()
    config = EndToEndConfig(task="abnormal", epochs=3, size=32, budget=8, device="cpu", options={"hidden": 32, "heads": 4},
                            encoder_options={"channels": [8, 8, 16, 16]})
    for name in ("killed", "undisturbed"):
        endtoend(cells, slides, tmp_path / name, config)
    killed, undisturbed = weights(tmp_path / "killed"), weights(tmp_path / "undisturbed")
    assert killed.keys() == undisturbed.keys()
    assert all(np.array_equal(killed[name], undisturbed[name]) for name in killed)
    assert not list(tmp_path.glob(".*"))
