"""The page of a run without a slide model."""

import shutil

import pytest
from tests.fake_run import fake_run

from milscope.configs import RetrieveConfig, SeekConfig
from milscope.report import report
from milscope.report._gather import gather
from milscope.report._words import SOUGHT, limits, ranks
from milscope.store import Stage, read_manifest

pytestmark = pytest.mark.usefixtures("plain_charts")


@pytest.fixture
def run(tmp_path):
    """A run whose scores `seek` wrote; nothing of an encoder or a model."""
    run = fake_run(tmp_path / "run", leave_out=["pretrain", "encode", "train"])
    sought(run)
    shutil.rmtree(run / "predict")
    return run


def sought(run):
    config = SeekConfig(rankings=("density",), threshold=0.25)
    with Stage(run / "seek", "scores", config, {"cells": "0"}, ["P002", "P003"]) as stage:
        shutil.copy(run / "predict" / "slides.csv", stage.work / "slides.csv")
        stage.summary.update(task="abnormal", threshold=0.25, rankings=["density"], learned=4, validation_auc=0.75,
                             trust="the order by density is borne out by the labels: 9 of 9 (12.0 nats)",
                             warnings=["the highest cells tell nothing"])
    return stage.manifest.fingerprint


def test_slides_threshold_and_warnings_are_those_of_seek(run):
    gathered = gather(run)
    assert gathered.task == "abnormal"
    assert gathered.scored == read_manifest(run / "seek", "scores")
    assert gathered.slides["probability"].notna().all()
    pages = report(run).directory
    page = "".join(file.read_text() for file in (*pages.glob("*.html"), pages / "slides" / "1.html"))
    assert "Calls at the threshold 0.25" in page
    assert "The highest cells tell nothing." in page
    assert "The order by density is borne out by the labels: 9 of 9 (12.0 nats)." in page
    assert "no slide model" in page
    assert "needed no encoder" in page
    assert "by density, fitted to 4 slides; those were told apart with an AUC of 0.75" in page
    assert "most unlike those of normal slides" in page
    assert "model relied" not in page
    assert "unlike" in limits(gathered)[0]


def test_scores_of_cells_are_named_for_what_they_are(run):
    said = ranks(gather(run))
    assert said["evidence"] == said["density"] == f"density: {SOUGHT['density']}; higher is more suspicious"
    assert said["attention"].endswith("by density")


def test_of_two_scores_in_a_folder_the_page_shows_those_that_were_ranked(tmp_path):
    run = fake_run(tmp_path / "run")
    own = sought(run)
    assert {"predict", "train", "encode"}.isdisjoint(gather(run).manifests)
    for scores, chosen, left in ((read_manifest(run / "predict", "scores").fingerprint, "predict", "seek"),
                                 (own, "seek", "predict")):
        shutil.rmtree(run / "retrieve")
        with Stage(run / "retrieve", "ranked", RetrieveConfig(), {"scores": scores}):
            pass
        found = gather(run).manifests
        assert chosen in found
        assert left not in found
        assert gather(run).scores.name == chosen
