"""Cells ranked and slides told apart without a slide model, on simulated features and on rendered cells."""

import json
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.fake_scores import write_cells

from milscope.configs import RetrieveConfig, SeekConfig, TileConfig
from milscope.evaluate import evaluate
from milscope.retrieve import retrieve
from milscope.seek import seek
from milscope.seek._tops import _parts, by_tops
from milscope.seek._trust import trust
from milscope.slides import Cell
from milscope.store import CellWriter, Stage
from milscope.types import InputError

module = sys.modules["milscope.seek._seek"]
BOTH = SeekConfig(rankings=("mahalanobis", "density"))


@pytest.fixture(scope="module")
def given(simulate_in, tmp_path_factory):
    """Features of 24 slides, and a store of the same cells."""
    home = tmp_path_factory.mktemp("seek")
    simulated = simulate_in(home)
    cells = pd.DataFrame([{"slide": slide, "cell": f"{slide}:{number}", "x": 1.0, "y": 2.0, "width": 20.0, "height": 20.0}
                          for slide, witness in simulated.witnesses.items() for number in range(len(witness))])
    return simulated, write_cells(home / "tile", cells)


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    simulated, store = given
    return seek(store, simulated.table, tmp_path_factory.mktemp("done") / "seek", BOTH, features=simulated.directory)


def test_later_stages_go_on_as_with_predict(given, done, tmp_path):
    simulated, store = given
    cells = pd.read_parquet(done.directory / "cells.parquet")
    assert cells.columns.tolist() == ["slide", "cell", "x", "y", "width", "height", "attention", "evidence", "mahalanobis",
                                      "density"]
    assert (cells["evidence"] == cells["mahalanobis"]).all()
    assert (cells["attention"] >= 0).all()
    assert cells.groupby("slide")["attention"].sum().to_numpy() == pytest.approx(1, abs=1e-5)
    assert cells["cell"].tolist() == [f"{slide}:{number}" for slide, witness in sorted(simulated.witnesses.items())
                                      for number in range(len(witness))]
    ranked = retrieve(done.directory, store, tmp_path / "ranked", RetrieveConfig(k=2, rank="density"))
    best = pd.read_csv(ranked.directory / "ranked.csv")
    positive = best[best["slide"].isin(simulated.table.loc[simulated.table["abnormal"] == 1, "slide"])]
    found = [simulated.witnesses[slide][int(cell.split(":")[1])] for slide, cell in zip(positive["slide"], positive["cell"],
                                                                                      strict=True)]
    assert np.mean(found) > 0.9
    assert evaluate(done.directory, tmp_path / "metrics", ranked=ranked.directory).auc == 1
    slides = pd.read_csv(done.directory / "slides.csv")
    assert (slides["called"] == slides["label"]).mean() > 0.9
    assert done.validation_auc > 0.9
    assert done.warnings == []


def test_patients_that_were_learned_from_are_told(given, done):
    manifest = json.loads((done.directory / "manifest.json").read_text())
    table = given[0].table
    assert manifest["patients"] == sorted({*table.loc[table["split"] != "test", "patient"], "p000"})
    assert manifest["summary"]["rankings"] == ["mahalanobis", "density"]


def test_labels_of_test_slides_and_of_cells_change_nothing(given, done, tmp_path):
    simulated, store = given
    test = simulated.table["split"] == "test"
    table = simulated.table.assign(abnormal=simulated.table["abnormal"].where(~test, 1 - simulated.table["abnormal"]))
    again = seek(store, table.sample(frac=1, random_state=0), tmp_path / "seek", BOTH, features=simulated.directory)
    assert (again.directory / "cells.parquet").read_bytes() == (done.directory / "cells.parquet").read_bytes()
    logits = [pd.read_csv(each.directory / "slides.csv").set_index("slide")["logit"] for each in (again, done)]
    pd.testing.assert_series_equal(*logits)
    learned = simulated.table.assign(abnormal=simulated.table["abnormal"].where(test, 1 - simulated.table["abnormal"]))
    other = seek(store, learned, tmp_path / "other", BOTH, features=simulated.directory)
    assert (other.directory / "cells.parquet").read_bytes() != (done.directory / "cells.parquet").read_bytes()


@pytest.mark.parametrize(("change", "line"), [
    ({"rankings": ("luck",)}, "`rankings` should be some of .*Found luck"),
    ({"rankings": ()}, "Found none"),
    ({"rankings": ("pu", "pu")}, "each once. Found pu,pu"),
    ({"threshold": 1.0}, "`threshold` should be a probability"),
    ({"size": 4}, "`size` should be at least 8"),
    ({"task": "happy"}, "`happy`"),
])
def test_wrong_settings_are_refused(change, line, given, tmp_path):
    (simulated, store), config = given, SeekConfig(**{"rankings": ("pu",), **change})
    with pytest.raises(InputError, match=line):
        seek(store, simulated.table, tmp_path / "seek", config, features=simulated.directory)
    assert not (tmp_path / "seek").exists()


def test_what_cannot_be_learned_from_is_refused(given, tmp_path):
    simulated, store = given
    table, config = simulated.table, SeekConfig(rankings=("pu",))
    with pytest.raises(InputError, match="`features` should be given for pu"):
        seek(store, table, tmp_path / "seek", config)
    one = table.assign(split=table["split"].where((table["abnormal"] == 0) | (table["slide"] == "s001"), "test"))
    with pytest.raises(InputError, match=r"Found 1 positive, \d+ normal"):
        seek(store, one, tmp_path / "seek", config, features=simulated.directory)
    with pytest.raises(InputError, match="no training slides"):
        seek(store, table.assign(split=""), tmp_path / "seek", config, features=simulated.directory)


def test_slides_that_cannot_be_scored_are_left_out_and_named(simulate_in, given, tmp_path):
    _, store = given
    broken = simulate_in(tmp_path, change={"s004": lambda found: found * np.nan, "s006": lambda found: found[1:]})
    table = pd.concat([broken.table, broken.table.tail(1).assign(slide="s099", patient="p099")])
    found = seek(store, table, tmp_path / "seek", SeekConfig(rankings=("density",)), features=broken.directory)
    assert found.slides == 22
    assert found.warnings[:3] == ["slide s004 was not scored: features that are not finite",
                                  "slide s006 was not scored: features of other cells than those in the store",
                                  "slide s099 was not scored: no cells"]


def brightness(seen):
    """A stand-in for a ranking that looks at pixels."""
    return seen.pixels.mean((1, 2, 3))


def write_pictures(out, slides):
    """A `cells` artifact of two cells a slide, of one colour each."""
    with Stage(out, "cells", TileConfig(), {"slides": "0"}) as stage:
        for place, slide in enumerate(slides):
            with CellWriter(stage.work / f"{slide}.arrow", slide) as writer:
                for each in range(2):
                    image = BytesIO()
                    Image.new("RGB", (20, 20), (10 * place + each,) * 3).save(image, "PNG")
                    writer.add(Cell(f"{slide}:{each}", None, None, 20.0, 20.0, None, image.getvalue()))
        pd.DataFrame({"slide": slides, "cells": 2, "skipped": 0, "width": "", "height": "", "mpp": "", "file": ""}).to_csv(
            stage.work / "slides.csv", index=False)
    return out


def test_rankings_of_pixels_see_the_decoded_cells_and_finished_ones_are_kept(tmp_path, monkeypatch):
    names, calls = [f"s{place}" for place in range(6)], []
    cells = write_pictures(tmp_path / "tile", names)
    table = pd.DataFrame({"slide": names, "split": ["train"] * 4 + ["test"] * 2, "abnormal": [0, 1] * 3})

    def second(seen):
        calls.append(seen)
        if len(calls) == 2:  # after `first`
            raise KeyboardInterrupt
        return -brightness(seen)

    both = {"first": lambda seen: calls.append("first") or brightness(seen), "second": second}
    monkeypatch.setattr(module, "LEARNED", both)
    monkeypatch.setattr(module, "ON_PIXELS", both)
    config = SeekConfig(rankings=("first", "second"), size=16)
    with pytest.raises(KeyboardInterrupt):
        seek(cells, table, tmp_path / "seek", config)
    assert not (tmp_path / "seek").exists()
    found = seek(cells, table, tmp_path / "seek", config)
    assert [each for each in calls if isinstance(each, str)] == ["first"]
    assert calls[-1].pixels.shape == (12, 16, 16, 3)
    assert calls[-1].pixels[:, 3, 3, 0].tolist() == [10 * place + each for place in range(6) for each in range(2)]
    assert calls[-1].features.shape == (12, 0)
    assert {path.name for path in found.directory.iterdir()} == {"cells.parquet", "manifest.json", "patients.csv", "slides.csv",
                                                                "tasks"}
    scores = pd.read_parquet(found.directory / "cells.parquet")
    assert (scores["first"] == -scores["second"]).all()
    with pytest.raises(InputError, match=r"`cache` should be room for 12 cells of 16 pixels, 9.22e-06 GB"):
        seek(cells, table, tmp_path / "other", SeekConfig(rankings=("first",), size=16, cache=1e-6))


def test_a_ranking_that_tells_nothing_is_warned_of(given, tmp_path, monkeypatch):
    simulated, store = given
    monkeypatch.setattr(module, "LEARNED", {"pu": lambda seen: np.random.default_rng(5).normal(size=len(seen.slide))})
    found = seek(store, simulated.table, tmp_path / "seek", SeekConfig(rankings=("pu",)), features=simulated.directory)
    assert "do not tell the slides to learn from apart" in found.warnings[0]
    assert "not borne out by the labels" in found.trust
    assert found.warnings[1].startswith(found.trust)


def test_an_order_is_borne_out_where_the_first_cells_of_positive_slides_differ_from_those_of_normal_ones():
    random, slide = np.random.default_rng(0), np.repeat(np.arange(12), 50)
    label = np.array([0.0] * 5 + [1.0] * 5 + [np.nan] * 2)
    noise = random.normal(size=600)
    few = (np.arange(600) % 50 < 4) & (label[slide] == 1)
    found = trust({"right": noise + 9 * few, "noise": noise, "unread": noise + 99 * np.isnan(label[slide])}, slide, label)
    assert found.borne["right"] == {"nats": pytest.approx(20 * np.log(2)), "cells": 20, "positive": 20, "chance": 10}
    assert found.borne["noise"] == found.borne["unread"], "slides without a label say nothing"
    assert found.borne["noise"]["nats"] < 5
    assert [each.startswith(f"the order by {name}") for each, name in zip(found.warnings(), ("noise", "unread"), strict=True)]
    assert "20 are on positive slides, 10 by chance" in found.told("right")


def test_two_orders_are_compared_by_the_first_cells_of_positive_slides():
    slide, label = np.repeat(np.arange(4), 40), np.array([0.0, 0.0, 1.0, 1.0])
    up = np.tile(np.arange(40.0), 4)
    half = np.where(np.arange(160) % 40 < 35, up, -1)  # of the first ten five are others
    [same] = trust({"a": up, "b": 2 * up}, slide, label).agreement
    assert same == {"first": "a", "second": "b", "shared": 10, "of": 10, "chance": 2.5}
    assert trust({"a": up, "b": half}, slide, label).agreement[0]["shared"] == 5
    assert trust({"a": up, "b": -up}, slide, label).agreement[0]["shared"] == 0
    assert trust({"a": up}, slide, label).agreement == []


def slides_of(random, label, *, shift, count=100):
    """Scores of slides whose first three cells are shifted where the label is 1."""
    return [random.normal(size=count) + shift * (np.arange(count) < 3) * (each == 1) for each in label]


def test_slides_are_told_apart_by_their_highest_cells_and_never_the_wrong_way():
    random, label = np.random.default_rng(0), np.tile([0.0, 1.0], 12)
    known, patients = np.where(np.arange(24) < 16, label, np.nan), [f"p{number}" for number in range(24)]
    tops = by_tops(slides_of(random, label, shift=4.0), known, patients, 0)
    assert ((tops.logits > 0) == (label == 1)).mean() > 0.9
    assert tops.auc > 0.9
    assert tops.chance < 0.01
    assert sum(tops.weights.values()) == pytest.approx(1, abs=1e-3)
    assert tops.weights["4 cells"] > 2 * tops.weights["32 cells"]
    turned = by_tops(slides_of(random, label, shift=-4.0), known, patients, 0)
    assert turned.chance > 0.05
    scores = slides_of(random, label, shift=0.0)
    plain = by_tops(scores, known, patients, 0).logits
    higher = by_tops([each + 0.5 * (place == 20) for place, each in enumerate(scores)], known, patients, 0).logits
    assert higher[20] > plain[20]


@pytest.mark.parametrize(("patients", "parts"), [(30, 10), (3, 3)])
def test_the_slides_of_a_patient_are_held_out_together(patients, parts):
    owner = np.random.default_rng(0).permutation(np.arange(60) % patients)
    found = _parts([f"p{each}" for each in owner], 0)
    assert len(set(found.tolist())) == parts
    assert all(len(set(found[owner == each])) == 1 for each in range(patients))


def test_few_cells_and_equal_scores_are_no_reason_to_fail():
    label = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    tops = by_tops([np.ones(1), np.ones(2), np.ones(3), np.ones(70), np.ones(1)], label, list("abcde"), 0)
    assert np.isfinite(tops.logits).all()
    assert tops.auc == 0.5
