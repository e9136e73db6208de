from pathlib import Path

from tests.fake_run import fake_run

from milscope.configs import ReportConfig
from milscope.report._gather import gather
from milscope.report._page import _splits, render
from milscope.report._sections import _operating


def test_every_section_is_there(tmp_path: Path):
    page = render(gather(fake_run(tmp_path / "run")), ReportConfig(), lambda _: None)
    for part in ("result", "slides", "read", "who", "encoder", "model", "made"):
        assert f'<section id="{part}"' in page
    assert "collapse" in page
    assert "share of patients" not in page.split('id="made"')[0]
    assert "passes over all training cells" in page.split('id="made"')[1]


def test_a_training_end_to_end_is_told_as_one(tmp_path: Path):
    page = render(gather(fake_run(tmp_path / "run", joint=True, leave_out=["pretrain"])), ReportConfig(), lambda _: None)
    encoder, model = page.split('<section id="encoder"')[1].split('<section id="model"')
    assert "learned together with the slide model" in encoder
    assert "“random” choosing the cells of a step" in model
    assert "which cells of a slide get gradients in a step" in page.split('id="made"')[1]
    assert "The encoder was not trained" not in page


def test_parts_are_counted_by_patient_and_slide(tmp_path: Path):
    slides = gather(fake_run(tmp_path / "run")).slides.assign(patient="one")
    rows = {row["split"]: row for row in _splits(slides)}
    assert list(rows) == ["training", "validation", "test"]
    assert rows["test"] == {"split": "test", "patients": 1, "slides": 4, "abnormal_patients": 1, "abnormal": 2, "normal": 2,
                            "unlabelled": 0, "cells": 240}


def test_the_operating_point_lies_at_its_rates():
    assert _operating({"true_positive": 3, "false_negative": 1, "false_positive": 1, "true_negative": 9}) == (0.1, 0.75)
    assert _operating({"true_positive": 3, "false_negative": 1, "false_positive": 0, "true_negative": 0}) is None
    assert _operating({}) is None
