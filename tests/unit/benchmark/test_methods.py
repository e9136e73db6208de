import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.spotted_cells import write_store

from milscope.benchmark import _methods
from milscope.benchmark._draw import divide, draw, job, write_draw
from milscope.benchmark._imports import open_pool
from milscope.benchmark._methods import ENCODERS, METHODS, Cost, Place, encoder_features, timed
from milscope.configs import METHODS as NAMES
from milscope.configs import QUICK, PretrainConfig, WitnessConfig
from milscope.objectives import METHODS as OBJECTIVES
from milscope.ranking import LEARNED
from milscope.store import read_manifest
from milscope.train import train

CONFIG = WitnessConfig(rates=("0.2",), cells=12, slides=6, test_slides=2, size=16, width=2, images=200, batch=16, device="cpu")
ALIKE = ("weakly-supervised", "weaksupcon", "pcgrad", "slam-ags")
"""Run as `simclr` is, with another name of the objective."""
RUN = [name for name, method in METHODS.items()
       if not method.marked and name not in ALIKE and (name in LEARNED or name not in ("local", "seek"))]
LEARNED_FROM = 4
"""Slides of the split `train`; the other two choose models."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Slides to learn from and to be tested on, without the truth."""
    home = tmp_path_factory.mktemp("place")
    pool = open_pool(write_store(home, patients=8, normal=20, odd=4), home / "truth.csv", home / "pool", CONFIG)
    write_draw(job(home / "drawn", draw(divide(pool.table, CONFIG, 0), 0.2, CONFIG, 0), pool.table), store=pool.store.directory,
               largest=0)
    (home / "drawn" / "truth.csv").rename(home / "kept.csv")
    return Place(home / "drawn", 0, CONFIG)


def evidence(out):
    """The scores of all cells."""
    return pd.read_parquet(out / "scores" / "cells.parquet")["evidence"].to_numpy()


def test_the_command_line_knows_every_method():
    assert tuple(METHODS) == NAMES
    assert set(QUICK["methods"]) <= set(NAMES)
    assert [name for name, method in METHODS.items() if method.marked] == ["supervised"]
    assert {method.group for method in METHODS.values()} >= set(ENCODERS)


@pytest.mark.parametrize("name", RUN)
def test_a_method_needs_no_truth_and_keeps_to_its_budget(place, tmp_path, name, monkeypatch):
    monkeypatch.setattr(_methods, "train", lambda *given: train(*given[:-1], replace(given[-1], epochs=3)))
    method = METHODS[name]
    cost = method.run(place, tmp_path)
    slides = pd.read_csv(tmp_path / "scores" / "slides.csv")
    assert (slides["split"] == "test").sum() == 2
    scores = evidence(tmp_path)
    assert len(scores) == 8 * 12
    assert np.isfinite(scores).all()
    if method.group in set(ENCODERS) - {"random"}:
        assert cost.images == 2 * 2 * LEARNED_FROM * 12  # two epochs of two views, the whole ones nearest to the budget
    elif method.group == "abmilx":
        assert 0 < cost.images <= 200 + LEARNED_FROM * 12
    elif name in ("random", "local"):
        assert cost.images == 0
    assert cost.seconds > 0


def test_encoders_are_those_that_are_named(place):
    assert all({**vars(PretrainConfig()), **settings}["method"] in {*OBJECTIVES, "random"} for settings in ENCODERS.values())
    encoder_features(place, "paper")
    config = read_manifest(place.directory / "encoders" / "paper" / "encoder", "encoder").config
    assert read_manifest(place.directory / "encoders" / "paper" / "encoder", "encoder").summary["epochs"] == 2
    assert {key: config[key] for key in ENCODERS["paper"]} == dict(ENCODERS["paper"])
    assert config["encoder_options"] == {"channels": [2, 4, 8, 16]}


def test_the_published_system_keeps_its_settings():
    assert ENCODERS["paper"]["statistics"] == "per-view"
    assert ENCODERS["paper"]["optimizer"] == "sgd"
    assert METHODS["paper"].rank == "attention"
    assert not {"size", "epochs"} & set(ENCODERS["paper"])


def test_the_ceiling_learns_from_marked_training_cells_alone(place, tmp_path, monkeypatch):
    given = []

    def fit(pixels, target, weight, seed):
        given.append((len(pixels), target))
        return lambda cells: cells.reshape(len(cells), -1).max(1).astype(float)

    monkeypatch.setattr("milscope.ranking.fit_classifier", fit, raising=False)
    truth = pd.read_csv(place.directory.parent / "kept.csv")
    told = truth.assign(witness=truth["witness"].where(truth["split"] != "test", 9))
    told.to_csv(place.directory / "truth.csv", index=False)
    METHODS["supervised"].run(place, tmp_path)
    (place.directory / "truth.csv").unlink()
    assert [count for count, _ in given] == [36, 36, 72]
    assert all(set(target) == {0.0, 1.0} for _, target in given)
    assert given[2][1].sum() == 3 * round(0.2 * 12)


def test_what_was_interrupted_has_no_time(tmp_path):
    assert timed(lambda: 5.0, tmp_path / "new" / "cost.json").images == 5
    (tmp_path / "old").mkdir()
    cost = timed(lambda: 5.0, tmp_path / "old" / "cost.json")
    assert np.isnan(cost.seconds)
    assert json.loads((tmp_path / "old" / "cost.json").read_text())["seconds"] is None
    assert np.isnan(Cost(1.0, 3).and_for(cost).seconds)
    assert timed(lambda: 1 / 0, tmp_path / "new" / "cost.json").images == 5
