"""What happens to `tile` when the machine lets it down: killed at any moment, or no room left on the disk."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SLIDES = 300


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 small fields of view, of which one is damaged."""
    home = tmp_path_factory.mktemp("laboratory")
    (home / "images").mkdir()
    rng = np.random.default_rng(0)
    names = [f"s{i:03}" for i in range(SLIDES)]
    for name in names:
        Image.fromarray(rng.integers(0, 200, (96, 96, 3), dtype=np.uint8)).save(home / "images" / f"{name}.png")
    os.truncate(home / "images" / "s007.png", 99)
    pd.DataFrame({"slide": names}).to_csv(home / "slides.csv", index=False)
    return home


def command(home: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "milscope", "tile", str(home / "slides.csv"), "--size", "32",
            "--images", str(home / "images"), "--out", str(out), *flags]


def content(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != "manifest.json"}


def killed_at_random(arguments: list[str], work: Path, wait: float) -> bool:
    """Starts the command and kills it, and all its processes, some time after it has begun to write; False if it ended."""
    process = subprocess.Popen(arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (work / "stage.json").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(wait)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not ended


def test_killed_twenty_times_the_next_run_finishes_with_the_same_files(laboratory: Path, tmp_path: Path) -> None:
    subprocess.run(command(laboratory, tmp_path / "whole"), check=True, capture_output=True)
    out, draw = tmp_path / "out", random.Random(0)
    kills = 0
    for turn in range(20):
        alone = ("--workers", "1", "--limit", "0") if turn % 2 else ("--workers", "2")
        kills += killed_at_random(command(laboratory, out, *alone), tmp_path / ".out.partial", draw.uniform(0, 0.15))
        assert out.exists() == (kills <= turn), "an unfinished artifact was published, or a finished one was lost"
    assert kills >= 10, f"only {kills} of 20 runs were killed before they had finished"
    subprocess.run(command(laboratory, out), check=True, capture_output=True)
    assert content(out) == content(tmp_path / "whole")
    assert not list(tmp_path.glob(".out*"))
    assert "s007" in (out / "failures.csv").read_text()


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux's unshare for a small disk of its own")
def test_a_full_disk_is_told_nothing_is_half_written_and_more_room_is_enough(laboratory: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    arguments = " ".join(f"'{argument}'" for argument in command(laboratory, disk / "out"))
    script = (f"mount -t tmpfs -o size=600k tmpfs '{disk}' || exit 77; "
              f"{arguments}; echo status $?; ls -A '{disk}'; mount -o remount,size=64m '{disk}'; {arguments}; echo status $?; "
              f"cp -r '{disk}/out' '{tmp_path}/out'")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets nobody mount a small disk")
    _, _, second = done.stdout.partition("status 2\n")
    assert second.startswith(".out.partial\n"), done.stdout + done.stderr
    assert second.endswith("status 0\n")
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(command(laboratory, tmp_path / "whole"), check=True, capture_output=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
