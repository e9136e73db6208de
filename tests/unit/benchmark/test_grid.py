import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from tests.spotted_cells import write_classes, write_store

from milscope.benchmark import _grid, witness
from milscope.benchmark._methods import Cost, Method
from milscope.configs import SeekConfig, WitnessConfig
from milscope.seek import seek
from milscope.types import InputError

TINY = WitnessConfig(rates=("0.2", "0.1"), methods=("bright", "dark"), seeds=1, cells=10, slides=4, test_slides=2, workers=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Cells of eight patients, with their truth."""
    return write_store(tmp_path_factory.mktemp("cells"), patients=8, normal=12, odd=3)


@pytest.fixture
def ran(monkeypatch):
    """Three methods of no cost instead of the real ones; gives what was run, and lets one fail."""
    done, broken = [], {}

    def run(name, sign, place, out):
        done.append((place.seed, place.directory.name, name))
        if name in broken:
            raise broken[name]
        bright = {name: lambda seen: sign * np.asarray(seen.pixels, dtype=float).max(axis=(1, 2, 3))}
        seek(place.cells, place.slides, out / "scores", SeekConfig(rankings=(name,), size=12), learned=bright)
        return Cost(1.0, 7)

    methods = {name: Method("light" if name != "grey" else "grey", partial(run, name, sign))
               for name, sign in (("bright", 1.0), ("dark", -1.0), ("grey", 0.0))}
    monkeypatch.setattr(_grid, "METHODS", methods)
    monkeypatch.setattr(_grid, "_tell", lambda out: out / "index.html")
    return done, broken


@pytest.fixture
def go(store, tmp_path):
    """Runs the grid with some settings changed."""
    return lambda **changes: witness(store, store.parent / "truth.csv", tmp_path / "grid", replace(TINY, **changes))


def test_tables_and_page_are_written(grid, monkeypatch):
    monkeypatch.setattr(_grid, "write_page", lambda grids, page: page if grids == [grid] else None)
    assert _grid._tell(grid) == grid / "index.html"
    assert len(pd.read_csv(grid / "table.csv")) > 8


def test_every_method_on_every_place_and_nothing_twice(ran, go, tmp_path):
    done = go()
    assert (done.results, done.failures) == (4, 0)
    assert ran[0] == [(0, "0.2", "bright"), (0, "0.2", "dark"), (0, "0.1", "bright"), (0, "0.1", "dark")]
    found = json.loads((tmp_path / "grid/0/0.2/bright/result.json").read_text())
    assert (found["method"], found["rate"], found["seconds"], found["images"]) == ("bright", 0.2, 1.0, 7)
    assert found["cells"]["cell_auc"] > 0.9
    assert json.loads((tmp_path / "grid/0/0.2/dark/result.json").read_text())["cells"]["cell_auc"] < 0.1
    assert [row["label"] for row in found["each"]].count(1) == 1
    assert done.page == tmp_path / "grid/index.html"
    assert go().results == 4
    assert len(ran[0]) == 4


def test_rates_seeds_and_methods_are_added_to_what_is_there(ran, go, tmp_path):
    go(rates=("0.1",), methods=("bright",))
    slides = (tmp_path / "grid/0/0.1/truth.csv").read_text()
    go(rates=("0.3",), seeds=2, methods=("grey",))
    plan = json.loads((tmp_path / "grid/grid.json").read_text())
    assert (plan["rates"], plan["seeds"], plan["methods"]) == ([0.3, 0.1], [0, 1], ["bright", "grey"])
    go(rates=("0.3", "0.1"), methods=("bright", "grey"))
    assert ran[0] == [(0, "0.1", "bright"), (0, "0.3", "grey"), (1, "0.3", "grey"), (0, "0.3", "bright"), (0, "0.1", "grey")]
    assert (tmp_path / "grid/0/0.1/truth.csv").read_text() == slides
    with pytest.raises(InputError, match="another `cells`: 10"):
        go(cells=11)


def test_a_method_that_fails_is_told_and_tried_again(ran, go, tmp_path, capsys):
    ran[1]["bright"] = RuntimeError("out of\nmemory")
    done = go(rates=("0.2",))
    assert (done.results, done.failures) == (1, 1)
    assert done.warnings == ["seed 0, rate 0.2, bright: RuntimeError: out of memory"]
    assert "bright: RuntimeError" in capsys.readouterr().err
    assert json.loads((tmp_path / "grid/0/0.2/bright/result.json").read_text())["error"] == "RuntimeError: out of memory"
    ran[1].clear()
    assert go(rates=("0.2",)).results == 2
    assert [name for *_, name in ran[0]] == ["bright", "dark", "bright"]


def test_an_interrupted_grid_goes_on(ran, go):
    ran[1]["dark"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go()
    ran[1].clear()
    assert go().results == 4
    assert [name for _, rate, name in ran[0] if rate == "0.2"] == ["bright", "dark", "dark"]


def test_only_measuring_reads_the_truth(ran, go, tmp_path):
    go(rates=("0.2",))
    scores = pd.read_parquet(tmp_path / "grid/0/0.2/bright/scores/cells.parquet")
    write, poison = _grid.write_draw, lambda path: path.write_text(
        pd.read_csv(path).assign(witness=lambda table: 1 - table["witness"]).to_csv(index=False))

    def poisoned(given, **named):
        poison(given.out / "truth.csv") if write(given, **named) else None
        return 1

    shutil.rmtree(tmp_path / "grid/0/0.2/bright")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_grid, "write_draw", poisoned)
        go(rates=("0.2",))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "grid/0/0.2/bright/scores/cells.parquet"), scores)
    assert json.loads((tmp_path / "grid/0/0.2/bright/result.json").read_text())["cells"]["cell_auc"] < 0.1


@pytest.mark.parametrize(("changes", "line"), [
    ({"methods": ("soup",)}, "`methods` should be of bright, dark, grey. Found `soup`"),
    ({"methods": ()}, "Found none"),
    ({"rates": ("2%",)}, "shares such as 0.02"),
    ({"rates": ()}, "at least one"),
    ({"rates": ("0.1", "0.10")}, "each once"),
    ({"rates": ("0.01",)}, "Draw slides of 100 cells or more"),
    ({"slides": 3}, "at least 4"),
    ({"test_slides": 1}, "2 or more, or 0"),
    ({"validation": 0.0}, "above 0 and below 1"),
    ({"slides": 12}, "few enough for 96 normal cells"),
    ({"rates": ("0.9",)}, "at most 0.[0-9]+ with"),
])
def test_a_mistake_is_told_before_anything_is_drawn(ran, go, tmp_path, changes, line):
    with pytest.raises(InputError, match=line) as told:
        go(**changes)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "grid" / "0").exists()


def test_presets_give_way_to_what_is_said():
    paper = WitnessConfig(preset="paper", cells=500).settled
    assert (paper.truth_normal, paper.cells, paper.size) == ("LYT", 500, 224)
    quick = WitnessConfig(quick=True, rates=("0.02",)).settled
    assert quick.rates == ("0.02",)
    assert quick.seeds < WitnessConfig().seeds
    assert quick.images < WitnessConfig().images
    assert WitnessConfig().settled == WitnessConfig()


def test_folders_of_classes_need_no_truth(ran, tmp_path):
    cells = write_classes(tmp_path / "cells", {"normal": 70, "BLA": 9})
    done = witness(cells, None, tmp_path / "grid", replace(TINY, rates=("0.2",), methods=("bright",), truth_normal="normal"))
    assert done.results == 1
