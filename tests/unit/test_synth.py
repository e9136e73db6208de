import dataclasses
import filecmp
import sys

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image

from milscope.configs import SynthConfig
from milscope.slides._synthetic import render_smear
from milscope.synth import synth
from milscope.types import InputError

SMALL = SynthConfig(slides=4, cells=12, rate=0.25, mpp=1.0, workers=1)
CROPS = dataclasses.replace(SMALL, crops=True)
FINDINGS = dataclasses.replace(SMALL, slides=6, candida=0.5, clue=0.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return synth(tmp_path_factory.mktemp("synth") / "images", SMALL).directory


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return synth(tmp_path_factory.mktemp("synth") / "crops", CROPS).directory


def test_counts(tmp_path):
    config = dataclasses.replace(SMALL, slides=5, prevalence=0.4)
    assert synth(str(tmp_path / "out"), config) == (tmp_path / "out", 5, 2, 60, 6, 0, 0)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return synth(tmp_path_factory.mktemp("synth") / "findings", FINDINGS)


def test_findings_are_counted_and_each_has_its_column(found):
    assert found[1:] == (6, 3, 72, 9, 3, 1)
    slides = pd.read_csv(found.directory / "slides.csv")
    truth = pd.read_csv(found.directory / "truth" / "cells.csv")
    assert list(slides.columns) == ["slide", "file", "patient", "abnormal", "candida", "clue"]
    assert list(truth.columns) == ["slide", "x", "y", "abnormal", "candida", "clue", "kind"]
    assert slides[["abnormal", "candida", "clue"]].sum().tolist() == [3, 3, 1]


@pytest.mark.parametrize("task", ["abnormal", "candida", "clue"])
def test_every_positive_slide_has_as_many_witnesses_of_each_finding(found, task):
    slides = pd.read_csv(found.directory / "slides.csv", index_col="slide")
    truth = pd.read_csv(found.directory / "truth" / "cells.csv")
    assert truth.groupby("slide")[task].sum().to_dict() == (3 * slides[task]).to_dict()
    if task != "abnormal":
        assert ((truth["kind"] == task) == (truth[task] == 1)).all()
    assert (truth[["abnormal", "candida", "clue"]].sum(axis=1) <= 1).all()


def test_findings_do_not_hang_together(tmp_path):
    """Exactly half of the slides each; which ones is drawn for each by itself."""
    jobs = sys.modules["milscope.synth"]._jobs(dataclasses.replace(SMALL, slides=400, candida=0.5, clue=0.5), tmp_path)
    shown = np.array([[job.abnormal, job.findings["candida"] > 0, job.findings["clue"] > 0] for job in jobs], float)
    assert (np.abs(np.corrcoef(shown.T)[np.triu_indices(3, 1)]) < 0.15).all()


def test_more_witnesses_than_cells_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"`rate` should be at most 0.333 with 3 findings"):
        synth(tmp_path / "out", dataclasses.replace(FINDINGS, rate=0.5))


def test_slides_open_and_their_table_names_them(made):
    slides = pd.read_csv(made / "slides.csv")
    assert list(slides.columns) == ["slide", "file", "patient", "abnormal"]
    assert slides["abnormal"].sum() == 2
    for file in slides["file"]:
        with openslide.OpenSlide(made / file) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(1.0)


def test_cells_and_truth_name_the_same_cells(made):
    cells, truth = pd.read_csv(made / "cells.csv"), pd.read_csv(made / "truth" / "cells.csv")
    assert list(cells.columns) == ["slide", "x", "y"]
    assert list(truth.columns) == ["slide", "x", "y", "abnormal", "kind"]
    pd.testing.assert_frame_equal(cells, truth[["slide", "x", "y"]])
    assert set(truth.groupby("slide").size()) == {12}


@pytest.mark.parametrize("kind", ["made", "crops"])
def test_witnesses_are_exact(kind, request):
    out = request.getfixturevalue(kind)
    slides, truth = pd.read_csv(out / "slides.csv", index_col="slide"), pd.read_csv(out / "truth" / "cells.csv")
    assert truth.groupby("slide")["abnormal"].sum().to_dict() == (3 * slides["abnormal"]).to_dict()


def test_the_truth_stands_apart(made):
    outside = [path for path in made.rglob("*.csv") if path.parent.name != "truth"]
    assert not any({"kind"} & set(pd.read_csv(path).columns) for path in outside)
    assert "abnormal" not in pd.read_csv(made / "cells.csv").columns


def test_crops_are_folders_of_cells_with_names_that_tell_nothing(crops):
    assert list(pd.read_csv(crops / "slides.csv").columns) == ["slide", "patient", "abnormal"]
    truth = pd.read_csv(crops / "truth" / "cells.csv")
    assert list(truth.columns) == ["slide", "cell", "abnormal", "kind"]
    found = sorted(str(path.relative_to(crops / "cells")) for path in crops.glob("cells/*/*"))
    assert found == sorted(truth["cell"])
    assert found[:2] == ["slide-001/0001.jpg", "slide-001/0002.jpg"]
    with Image.open(crops / "cells" / found[0]) as image:
        assert image.size == (48, 48)


def test_the_number_of_processes_changes_nothing(made, tmp_path):
    again = synth(tmp_path / "again", dataclasses.replace(SMALL, workers=2)).directory
    names = [str(path.relative_to(made)) for path in made.rglob("*") if path.suffix in (".tiff", ".csv")]
    assert len(names) == 4 + 3
    assert filecmp.cmpfiles(made, again, names, shallow=False) == (names, [], [])


def test_slides_do_not_depend_on_how_many_there_are(made, tmp_path):
    more = synth(tmp_path / "more", dataclasses.replace(SMALL, slides=5)).directory
    few, many = (pd.read_csv(out / "slides.csv", index_col="slide") for out in (made, more))
    same = [slide for slide in few.index if few.loc[slide, "abnormal"] == many.loc[slide, "abnormal"]]
    assert same
    assert all(filecmp.cmp(made / few.loc[slide, "file"], more / few.loc[slide, "file"], shallow=False) for slide in same)


def test_done_once_nothing_is_done_again(tmp_path):
    first = synth(tmp_path / "out", SMALL)
    before = {path: path.stat().st_mtime_ns for path in first.directory.rglob("*")}
    assert synth(tmp_path / "out", dataclasses.replace(SMALL, workers=2)) == first
    assert {path: path.stat().st_mtime_ns for path in first.directory.rglob("*")} == before


def test_the_truth_names_the_kind_of_each_witness_and_crops_hold_one_cell(tmp_path):
    config = dataclasses.replace(CROPS, slides=2, cells=20, rate=0.5, witness="mixed", alone=True)
    out = synth(tmp_path / "out", config).directory
    truth = pd.read_csv(out / "truth" / "cells.csv")
    kinds = {"inclusion", "nucleus", "chromatin", "outline", "colour"}
    assert (truth["kind"].isin(kinds) == (truth["abnormal"] == 1)).all()
    assert truth["kind"][truth["abnormal"] == 1].nunique() > 1
    with Image.open(out / "cells" / truth["cell"][0]) as image:
        assert image.size == (48, 48)


@pytest.mark.parametrize(("changes", "rule"), [
    ({"witness": "shape"}, "one of squamous, inclusion, nucleus"), ({"candida": 0.5}, "squamous on slides with candida"),
])
def test_a_witness_that_there_is_not_is_refused(tmp_path, changes, rule):
    with pytest.raises(InputError, match=f"`witness` should be {rule}"):
        synth(tmp_path / "out", dataclasses.replace(SMALL, **({"witness": "outline"} | changes)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crops", [False, True])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, crops):
    config = dataclasses.replace(SMALL, crops=crops)
    painted = []

    def dies(*args):
        painted.append(1)
        if len(painted) == 3:
            raise KeyboardInterrupt
        return render_smear(*args)

    monkeypatch.setattr(sys.modules["milscope.synth"], "render_smear", dies)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    assert synth(tmp_path / "out", config).slides == 4
    assert len(painted) == 3 + 2


def test_something_else_in_the_way_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"`out` should be a new directory"):
        synth(tmp_path, SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("field", "value"), [
    ("slides", 1), ("cells", 9), ("prevalence", 0.0), ("prevalence", 1.0), ("rate", 0.0), ("rate", 1.1), ("rate", 0.04),
    ("rate", float("nan")), ("mpp", 0.0), ("mpp", 5.0), ("candida", -0.1), ("candida", 1.0),
    ("clue", 1.0), ("clue", float("nan")), ("seed", -1), ("workers", -1),
])
def test_settings_out_of_range_are_refused_and_nothing_is_written(tmp_path, field, value):
    with pytest.raises(InputError, match=f"`{field}` should be"):
        synth(tmp_path / "out", dataclasses.replace(SMALL, **{field: value}))
    assert not list(tmp_path.iterdir())


def test_half_a_witness_becomes_one(tmp_path):
    assert synth(tmp_path / "out", dataclasses.replace(SMALL, slides=2, cells=10, rate=0.05)).witnesses == 1
