"""The benchmark through the command line: killed, gone on with, told."""

import json
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from tests.spotted_cells import write_classes

from milscope.cli import cli

METHODS = ("simclr+mahalanobis", "simclr+neighbours")


@pytest.fixture
def words(tmp_path):
    """The command line of a small grid."""
    cells = write_classes(tmp_path / "cells", {"normal": 70, "BLA": 9}, nested=True)
    return ["benchmark", "witness", str(cells), "--truth-normal", "normal", "--out", str(tmp_path / "grid"),
            "--rates", "0.2,0.1", "--seeds", "1", "--cells", "10", "--slides", "4", "--test-slides", "2",
            "--images", "80", "--size", "16",
            "--width", "2", "--batch", "16", "--device", "cpu", "--workers", "1", "--methods", ",".join(METHODS)]


def test_a_killed_grid_goes_on_and_ends_with_a_page(words, tmp_path):
    grid, results = tmp_path / "grid", lambda: sorted((tmp_path / "grid").glob("*/*/*/result.json"))
    going = subprocess.Popen([sys.executable, "-m", "milscope", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not results() and going.poll() is None:
        time.sleep(0.02)
    going.kill()
    going.wait()
    there = {path: path.stat().st_mtime_ns for path in results()}
    assert 0 < len(there) < 4
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "4 results, 0 failures" in done.output
    assert all(path.stat().st_mtime_ns == changed for path, changed in there.items())
    assert {path.parent.name for path in results()} == set(METHODS)
    costs = [json.loads(path.read_text())["images"] for path in results()]
    assert costs == [80] * 4
    assert not list(grid.glob("*/*/encoders/*/features"))
    page = tmp_path / "all.html"
    CliRunner().invoke(cli, ["benchmark", "page", str(grid), "--out", str(page)], catch_exceptions=False)
    assert "simclr+mahalanobis" in page.read_text()
