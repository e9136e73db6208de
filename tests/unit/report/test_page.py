from pathlib import Path

import pytest
from tests.fake_run import fake_run

from milscope.configs import ReportConfig
from milscope.report._gather import Gathered, gather
from milscope.report._method import splits
from milscope.report._page import write_pages
from milscope.report._sections import _operating

pytestmark = pytest.mark.usefixtures("plain_charts")


def pages(run: Gathered, folder: Path, **config) -> tuple[str, str]:
    """The first page and that of the method."""
    folder.mkdir()
    write_pages(run, ReportConfig(**config), folder, lambda _: None)
    return tuple((folder / name).read_text() for name in ("index.html", "method.html"))


def test_every_section_is_there(tmp_path: Path):
    first, method = pages(gather(fake_run(tmp_path / "run", cells=3)), tmp_path / "pages")
    for page, parts in ((first, ("result", "slides")), (method, ("read", "who", "encoder", "model", "made"))):
        assert [part for part in parts if f'<section id="{part}"' not in page] == []
    assert "collapse" in method
    assert "passes over all training cells" in method.split('id="made"')[1]


def test_a_training_end_to_end_is_told_as_one(tmp_path: Path):
    _, page = pages(gather(fake_run(tmp_path / "run", cells=3, joint=True, leave_out=["pretrain"])), tmp_path / "pages")
    encoder, model = page.split('<section id="encoder"')[1].split('<section id="model"')
    assert "learned together with the slide model" in encoder
    assert "“random” choosing the cells of a step" in model
    assert "which cells of a slide get gradients in a step" in page.split('id="made"')[1]
    assert "The encoder was not trained" not in page


def test_the_models_card_is_part_of_the_method_and_cannot_become_markup(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3))
    record = {"aggregator": "<b>abmil</b>", "tasks": [{"name": "abnormal", "kind": "binary", "classes": ["no", "yes"]}]}
    _, method = pages(run._replace(record=record), tmp_path / "pages")
    card = method.split('<section id="card"')[1].split("</section>")[0]
    assert "<h3>What it predicts</h3>" in card
    assert "<td>binary</td>" in card
    assert "<b>" not in card
    assert '<section id="card"' not in pages(run, tmp_path / "without")[1]


def test_parts_are_counted_by_patient_and_slide(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3))
    rows = {row["split"]: row for row in splits(run._replace(slides=run.slides.assign(patient="one")))}
    assert list(rows) == ["training", "validation", "test"]
    assert rows["test"] == {"split": "test", "patients": 1, "slides": 4, "abnormal_patients": 1, "abnormal": 2, "normal": 2,
                            "unlabelled": 0, "cells": 60}


def test_the_operating_point_lies_at_its_rates():
    assert _operating({"true_positive": 3, "false_negative": 1, "false_positive": 1, "true_negative": 9}) == (0.1, 0.75)
    assert _operating({"true_positive": 3, "false_negative": 1, "false_positive": 0, "true_negative": 0}) is None
    assert _operating({}) is None
