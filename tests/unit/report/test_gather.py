import json
import math
import shutil
from pathlib import Path

import pytest
from tests.fake_run import fake_run

from milscope.report._gather import cells, gather, known, of_task, table
from milscope.store import read_manifest
from milscope.types import InputError


def test_slides_come_in_order_of_suspicion_with_all_that_is_known_of_them(tmp_path: Path):
    slides = gather(fake_run(tmp_path / "run")).slides
    assert slides["probability"].is_monotonic_decreasing
    assert len(slides) == 8
    assert {"patient", "split", "label", "called", "cells", "mpp", "recall_at_20"} <= set(slides)
    assert (slides["called"] == (slides["probability"] >= 0.5)).all()


def test_unscored_slides_come_last(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    scores = run / "predict" / "slides.csv"
    lines = scores.read_text().splitlines()
    scores.write_text("\n".join(lines[:-1]))
    slides = gather(run).slides
    assert slides["slide"].iloc[-1] == lines[-1].split(",")[0]
    assert math.isnan(slides["probability"].iloc[-1])


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path: Path):
    (tmp_path / "slides.csv").write_text("slide,patient,label\n007,NA,1\nnull,12,\n")
    frame = table(tmp_path / "slides.csv")
    assert frame["slide"].tolist() == ["007", "null"]
    assert frame["patient"].tolist() == ["NA", "12"]
    assert frame["label"][0] == 1
    assert math.isnan(frame["label"][1])


def test_a_slide_without_patient_is_its_own(tmp_path: Path):
    (tmp_path / "slides.csv").write_text("slide,patient,abnormal\na,,1\n")
    slides = gather(tmp_path).slides
    assert slides["patient"].tolist() == ["a"]
    assert slides["label"].tolist() == [1]


def test_damaged_curves_are_refused_by_name(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    (run / "evaluate" / "curves.json").write_text("{")
    with pytest.raises(InputError, match=r"curves\.json"):
        gather(run)


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    (run / "tile").rename(run / "aside")
    (run / "train").rename(run / "tile")
    with pytest.raises(InputError, match="a `cells` artifact"):
        gather(run)


def test_of_two_trainings_in_a_folder_the_one_that_the_scores_came_from_is_read(tmp_path: Path):
    run, other = fake_run(tmp_path / "run", joint=True), fake_run(tmp_path / "other")
    assert list(gather(run).manifests) == ["tile", "check", "pretrain", "endtoend", "encode", "predict", "retrieve", "evaluate"]
    assert gather(run).training["aggregator"].unique().tolist() == ["abmilx"]
    assert gather(run).task == "abnormal"
    shutil.copytree(other / "train", run / "train")
    assert "train" not in gather(run).manifests
    assert gather(run).candidates["aggregator"].tolist() == ["abmilx"]
    scores = run / "predict" / "manifest.json"
    manifest = json.loads(scores.read_text())
    manifest["inputs"]["model"] = read_manifest(run / "train", "model").fingerprint
    scores.write_text(json.dumps(manifest))
    assert "endtoend" not in gather(run).manifests
    assert len(gather(run).candidates) == 2
    assert len(gather(run).pretraining) == 6


def test_an_encoder_that_the_training_end_to_end_did_not_start_from_is_not_of_the_run(tmp_path: Path):
    run, other = fake_run(tmp_path / "run", joint=True, leave_out=["pretrain"]), fake_run(tmp_path / "other")
    shutil.copytree(other / "pretrain", run / "pretrain")
    found = gather(run)
    assert "pretrain" not in found.manifests
    assert found.pretraining.empty


def test_a_student_is_of_the_run_only_if_the_scores_came_from_it_and_its_teacher_is_there(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    shutil.copytree(run / "train", run / "distill")
    shutil.copytree(run / "evaluate", run / "evaluate-teacher")
    teacher = read_manifest(run / "train", "model").fingerprint

    def made_from(stage: str, **inputs: str) -> None:
        path = run / stage / "manifest.json"
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"inputs": inputs}))

    made_from("distill", teacher=teacher)
    made_from("predict", model=read_manifest(run / "distill", "model").fingerprint)
    found = gather(run)
    assert {"train", "distill", "evaluate-teacher"} <= set(found.manifests)
    assert len(found.teaching) == len(found.training) > 0
    assert found.taught["slides"]
    made_from("predict", model=teacher)
    assert not {"distill", "evaluate-teacher"} & set(gather(run).manifests)
    assert gather(run).teaching.empty
    made_from("distill", teacher="another")
    made_from("predict", model=read_manifest(run / "distill", "model").fingerprint)
    assert not {"train", "evaluate-teacher"} & set(gather(run).manifests)
    assert gather(run).taught == {}


def test_cells_carry_the_scale_of_their_image(tmp_path: Path):
    run = fake_run(tmp_path / "run", cells=9)
    found = cells(run, "slide-001", 4)
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert found["mpp"].tolist() == [0.5] * 4
    assert cells(run, "unknown", 4).empty


def test_results_are_found_by_task_or_without_one():
    assert of_task({"a": {"auc": 1}, "b": {"auc": 2}}, "b") == {"auc": 2}
    assert of_task({"auc": {"value": 1}}, "b") == {"auc": {"value": 1}}
    assert of_task(None, "b") == {}


def test_what_counts_as_known():
    assert [known(value) for value in (0, 0.5, None, math.nan, math.inf, "1")] == [True, True, False, False, False, False]
