import json
import shutil

import numpy as np
import pandas as pd
import pytest

from milscope.benchmark import summarise
from milscope.benchmark._gathered import read_grid
from milscope.benchmark._summary import _limits
from milscope.metrics import Bootstrap
from milscope.types import InputError

BOOTSTRAP = Bootstrap(200)


def test_values_are_means_over_seeds_within_their_intervals(grid):
    summary = summarise(grid, BOOTSTRAP)
    results = [json.loads((grid / str(seed) / "0.05" / "simclr+svdd" / "result.json").read_text()) for seed in range(2)]
    for measure in ("auc", "f1", "recall_at_10", "cell_average_precision"):
        own = [{**found["slides"], **found["cells"]}[measure] for found in results]
        row = summary.figures.query("rate == 0.05 and method == 'simclr+svdd' and measure == @measure").iloc[0]
        assert row["value"] == pytest.approx(np.mean(own), abs=1e-4)
        assert (row["least"], row["most"]) == pytest.approx((min(own), max(own)), abs=1e-4)
        assert row["low"] <= row["value"] <= row["high"]
        assert summary.figure(0.05, "simclr+svdd", measure).value == row["value"]


def test_the_curve_is_the_mean_of_the_slides(grid):
    curve = summarise(grid, BOOTSTRAP).curves[0.05, "seek"]
    rows = [row for seed in range(2) for row in json.loads((grid / str(seed) / "0.05/seek/result.json").read_text())["each"]
            if "recall" in row]
    for place in (0, len(curve.k) // 2, len(curve.k) - 1):
        recall = np.mean([row["recall"][curve.k[place] - 1] for row in rows])
        assert curve.recall[place].value == pytest.approx(recall)
        assert curve.precision[place].value == pytest.approx(recall * 2 / curve.k[place])
    assert curve.k[-1] == 40
    assert curve.recall[-1] == (1, 1, 1)


def test_differences_are_paired(grid, tmp_path):
    out = shutil.copytree(grid, tmp_path / "twin")
    for place in out.glob("*/*/seek"):
        shutil.copytree(place, place.parent / "random", dirs_exist_ok=True)
    found = summarise(out, BOOTSTRAP)
    twin = found.differences.query("method == 'random'").dropna(subset="difference")
    assert found.reference == "seek"
    assert len(twin)
    assert (twin[["difference", "low", "high"]] == 0).all(axis=None)
    other = found.differences.query("method == 'simclr+svdd' and measure == 'recall_at_witnesses' and rate == 0.05").iloc[0]
    own, theirs = (found.figure(0.05, name, "recall_at_witnesses").value for name in ("seek", "simclr+svdd"))
    assert other["difference"] == pytest.approx(own - theirs)
    assert other["low"] > 0


@pytest.mark.parametrize(("lows", "limit"), [
    ([0.95, 0.93, 0.91], 0.01), ([0.95, 0.93, 0.9], 0.05), ([0.95, 0.8, 0.99], 0.1), ([0.5, 0.95, 0.95], None),
    ([0.95, None, 0.95], 0.1),
])
def test_the_detection_limit_holds_at_every_higher_rate(grid, lows, limit):
    rates = [0.1, 0.05, 0.01]
    rows = [{"rate": rate, "method": "seek", "measure": "auc", "low": low} for rate, low in zip(rates, lows, strict=True)
            if low is not None]
    row = _limits(read_grid(grid)._replace(rates=rates), pd.DataFrame(rows)).iloc[0]
    assert (None if np.isnan(row["limit"]) else row["limit"]) == limit
    assert (row["seconds"], row["images"], row["results"]) == (14, 20_000, 4)


def test_what_is_missing_and_what_failed_are_told_apart(grid, tmp_path):
    out = shutil.copytree(grid, tmp_path / "holes")
    (out / "0/0.1/random/result.json").unlink()
    (out / "1/0.05/seek/result.json").write_text(json.dumps({"error": "no luck"}))
    (out / "pool").mkdir()
    found = summarise(out, BOOTSTRAP)
    assert found.grid.missing == [(0, 0.1, "random")]
    assert found.grid.failed == {(1, 0.05, "seek"): "no luck"}
    rows = found.differences.query("rate == 0.05 and measure == 'auc'")
    assert (rows["seeds"] == 1).all()
    for path in out.glob("*/*/seek/result.json"):
        path.unlink()
    assert summarise(out, BOOTSTRAP).reference == "simclr+svdd"
    (out / "grid.json").unlink()
    alone = read_grid(out)
    assert (alone.seeds, alone.rates) == ([0, 1], [0.1, 0.05])
    assert set(alone.methods) == {"supervised", "simclr+svdd", "random"}
    assert alone.name == "holes"


def test_methods_of_unlike_slides_are_refused(grid, tmp_path):
    out = shutil.copytree(grid, tmp_path / "unlike")
    path = out / "0/0.1/random/result.json"
    found = json.loads(path.read_text())
    found["each"][0]["slide"] = "another"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="others for `random` than for `supervised` at seed 0"):
        summarise(out, BOOTSTRAP)


def test_a_folder_without_results_and_a_broken_result_are_refused(grid, tmp_path):
    with pytest.raises(InputError, match="none in"):
        summarise(tmp_path)
    out = shutil.copytree(grid, tmp_path / "broken")
    (out / "0/0.1/random/result.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        summarise(out)
