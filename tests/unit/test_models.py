"""What makes an aggregator a model, whichever stage trained it."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from milscope.aggregators import AGGREGATORS
from milscope.cohorts import read_cohort
from milscope.configs import EndToEndConfig, TrainConfig
from milscope.models import calibrated, load_model, operating_points, record_of, write_model
from milscope.store import Bags, Stage, fingerprint
from milscope.tasks import Questions, parse_tasks
from milscope.types import InputError

KINDS = [TrainConfig, EndToEndConfig]
ORIGIN = {"encoder": "e1", "encoder_name": "resnet18", "cells": {"size": 96}}


@pytest.fixture
def table() -> pd.DataFrame:
    """40 slides of as many patients, every other one abnormal; half of them validate."""
    names = [f"s{number:02d}" for number in range(40)]
    return pd.DataFrame({"slide": names, "patient": [f"p{name}" for name in names], "abnormal": [0.0, 1.0] * 20,
                         "grade": [*["a", "b"] * 19, "a", "a"], "split": ["train"] * 20 + ["validation"] * 20})


@pytest.fixture
def questions(table: pd.DataFrame) -> Questions:
    """A question of yes and no."""
    return Questions(tuple(parse_tasks("abnormal", table)))


@pytest.mark.parametrize("config_class", KINDS)
def test_a_cohort_is_of_the_slides_that_are_available(config_class: type, table: pd.DataFrame) -> None:
    cohort = read_cohort(table["slide"].tolist()[2:], table, config_class(task="abnormal"))
    assert cohort.missing == ["s00", "s01"]
    assert cohort.table["slide"].tolist() == table["slide"].tolist()[2:]
    config = config_class(task="abnormal", sensitivity=0.5, calibration=0.5)
    assert len(read_cohort(table["slide"].tolist(), table, config).aside) == 10
    with pytest.raises(InputError, match=r"10 slides have no features or cells\.$"):
        read_cohort(table.loc[~((table["split"] == "validation") & (table["abnormal"] == 1)), "slide"].tolist(), table,
                    config_class(task="abnormal"))


def test_each_task_sets_aside_its_share_of_positive_patients_the_rarest_first(table: pd.DataFrame) -> None:
    rare = table.assign(rare=[0.0] * 16 + [1.0] * 4 + [0.0] * 16 + [1.0] * 4)
    for seed in range(5):
        config = TrainConfig(task="abnormal,rare", sensitivity=0.5, calibration=0.5, seed=seed)
        aside = read_cohort(rare["slide"].tolist(), rare, config).aside
        assert (aside["rare"].sum(), len(aside)) == (2, 10)
        assert 4 <= aside["abnormal"].sum() <= 6


def test_a_written_model_is_read_again(table: pd.DataFrame, questions: Questions, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AGGREGATORS["abmilx"](5, 2, hidden=8, heads=2).eval()
    record = {**record_of(questions, table, table.head(0), ORIGIN), "aggregator": "abmilx",
              "tasks": [task.describe() for task in questions.tasks]}
    with Stage(tmp_path / "model", "model", EndToEndConfig(), {}) as stage:
        write_model(stage.work, model, record)
    found = load_model(tmp_path / "model")
    bags = Bags(torch.randn(7, 5), torch.tensor([0, 7]))
    assert torch.equal(found.aggregator(bags).logits, model(bags).logits)
    assert found.questions.tasks[0].name == "abnormal"
    assert found.operating == {}
    assert found.record == json.loads(json.dumps({**record, "options": model.options}))


def test_the_record_names_patients_classes_and_where_the_features_came_from(table: pd.DataFrame, questions: Questions) -> None:
    aside, used = table.tail(4), table.head(36)
    record = record_of(questions, used, aside, ORIGIN)
    assert ORIGIN.items() <= record.items()
    assert record["patients_fingerprint"] == fingerprint(sorted(table["patient"]))
    assert {split: counts["slides"] for split, counts in record["data"].items()} == {
        "train": 20, "validation": 16, "calibration": 4}
    assert set(record_of(questions, used, aside.head(0), ORIGIN)["data"]) == {"train", "validation"}


@pytest.mark.parametrize("config_class", KINDS)
def test_a_temperature_is_fitted_on_what_validated(config_class: type, table: pd.DataFrame, questions: Questions) -> None:
    targets = questions.targets(table)
    right = torch.where(targets == 1, 4.0, -4.0)
    answers = torch.cat([-right / 2, right / 2], dim=1)
    answers[20:25] = answers[20:25].flip(1)
    held = torch.arange(20, 40)
    assert calibrated(questions, answers, targets, held, config_class()).tasks[0].temperature == 1
    hot = calibrated(questions, answers, targets, held, config_class(temperature=True)).tasks[0].temperature
    assert hot == pytest.approx(4 / math.log(3), rel=0.02), "a quarter of those that validated was told wrong"


@pytest.mark.parametrize("config_class", KINDS)
def test_the_main_task_needs_its_operating_point_and_the_others_are_warned_of(config_class: type, table: pd.DataFrame) -> None:
    both = Questions(tuple(parse_tasks("abnormal,grade:ordinal(a<b)", table)))
    logits = torch.linspace(0, 1, 40)[:, None].repeat(1, both.outputs)
    logits[:, 0] = 0
    assert operating_points(both, logits, table, config_class()) == ({}, [])
    asked = config_class(sensitivity=0.5, confidence=0.8)
    found, warnings = operating_points(both, logits, table, asked)
    assert set(found) == {"abnormal", "grade"}
    assert found["abnormal"].positives == 20
    mixed = table.assign(grade="a")
    found, warnings = operating_points(both, logits, mixed, asked)
    assert set(found) == {"abnormal"}
    assert warnings[0].startswith("task grade has no operating point: ")
    with pytest.raises(InputError):
        operating_points(both, logits, table.assign(abnormal=0.0), asked)
