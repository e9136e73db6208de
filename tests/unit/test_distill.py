"""A student learns from labels and teacher, is judged by labels, and names its teacher; strange teachers are refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.card import describe
from milscope.configs import DistillConfig, TrainConfig
from milscope.distill import distill
from milscope.models import load_model
from milscope.store import read_manifest
from milscope.train import train
from milscope.training import slide_logits
from milscope.types import InputError

REFUSED = [
    ({"task": "abnormal"}, "`teacher` should be of the student's tasks, abnormal: binary of negative, positive. Found abnorm"),
    ({"task": "grade:ordinal(normal<low<high),abnormal"}, "`teacher` should be of the student's tasks, grade"),
    ({"task": "abnormal,grade:multiclass(normal,low,high)"}, "grade: multiclass of normal, low, high. Found"),
    ({"softening": 0.0}, "`softening` should be above 0"),
    ({"margin": 1.0}, "`margin`"),
    ({"focus_positive": -1.0}, "`focus_positive`"),
    ({"focus_negative": -1.0}, "`focus_negative`"),
    ({"distillation_weight": float("nan")}, "`distillation_weight`"),
    ({"aggregators": ("meen",)}, "Found `meen`"),
]
TASKS = "abnormal,grade:ordinal(normal<low<high)"
QUICK = DistillConfig(aggregators=("mean",), task=TASKS, epochs=3, batch=8, learning_rate=1e-2, precision="float32")
TEACHER = TrainConfig(aggregators=("mean",), task=TASKS, epochs=3, batch=8, learning_rate=6e-2, precision="float32",
                      balance="sampling", seed=5)


@pytest.fixture(scope="module")
def taught(simulate_in, tmp_path_factory):
    """Simulated slides of two tasks, some labels of the second missing, and a teacher of them."""
    directory = tmp_path_factory.mktemp("taught")
    data = simulate_in(directory, slides=36, cells=8, shift=2.0)
    random = np.random.default_rng(0)
    grade = np.where(data.table["abnormal"] == 1, random.choice(["low", "high"], 36), "normal")
    data = data._replace(table=data.table.assign(grade=np.where(np.arange(36) % 5 == 0, "", grade)))
    return data, train(data.directory, data.table, directory / "teacher", TEACHER).directory


def student(data, teacher, out, **settings):
    return distill(data.directory, data.table, out, replace(QUICK, **settings), teacher=teacher)


def logits_of(model, data):
    return slide_logits(load_model(model).aggregator, data.directory, data.table["slide"].tolist())[0]


def test_writes_a_model_that_names_its_teacher(taught, tmp_path):
    data, teacher = taught
    found = student(data, teacher, tmp_path / "student", task="")  # as the teacher's
    manifest, told = read_manifest(found.directory, "model"), read_manifest(teacher, "model")
    assert manifest.inputs["teacher"] == told.fingerprint
    assert set(told.patients) <= set(manifest.patients)
    model = load_model(found.directory)
    assert [(task.name, task.kind) for task in model.questions.tasks] == [("abnormal", "binary"), ("grade", "ordinal")]
    beside = model.record["teacher"]
    assert (beside["model"], beside["aggregator"]) == (told.fingerprint, "mean")
    rows = data.table[data.table["split"] == "validation"]
    held = data._replace(table=rows)
    for who, directory in (("student", found.directory), ("teacher", teacher)):
        measures = model.questions.measures(logits_of(directory, held), model.questions.targets(rows))
        assert {name: each[who] for name, each in beside["validation"].items()} == pytest.approx(measures)
    assert found.teacher_auc == beside["validation_auc"] == pytest.approx(
        np.mean([each["teacher"] for each in beside["validation"].values()]))
    assert found.warnings == []
    for said in ((found.directory / "card.md").read_text(), describe(found.directory)):
        assert f"a student of `mean` ({told.fingerprint})" in said
        assert f"grade: student {beside['validation']['grade']['student']:.4g}, teacher " in said
        assert "distillation" not in said, "as the defaults"
    assert {path.name for path in found.directory.iterdir()} == {
        "model.json", "model.safetensors", "card.md", "log.csv", "candidates.csv", "manifest.json"}


def test_without_distillation_it_is_what_train_makes(taught, tmp_path):
    data, teacher = taught
    alone = train(data.directory, data.table, tmp_path / "alone", TrainConfig(
        **{name: getattr(QUICK, name) for name in TrainConfig.__dataclass_fields__}))
    beside = student(data, teacher, tmp_path / "beside", distillation="none")
    assert weights(alone.directory) == weights(beside.directory)
    weightless = student(data, teacher, tmp_path / "weightless", distillation_weight=0.0)
    assert weights(weightless.directory) == weights(alone.directory)


@pytest.mark.parametrize("way", ["kl", "asymmetric"])
def test_a_heavy_teacher_is_followed(taught, tmp_path, way):
    """Its weight is 100 times that of the labels; the asymmetric one without asymmetry, whose optimum is the teacher."""
    data, teacher = taught
    settings = {"distillation": way, "focus_positive": 0.0, "focus_negative": 0.0, "dropout": 0.0, "epochs": 10}
    gaps = []
    for weight in (0.0, 100.0):
        found = student(data, teacher, tmp_path / f"{weight}", **settings, distillation_weight=weight, learning_rate=0.1)
        gaps.append((logits_of(found.directory, data)[:, 1:] - logits_of(teacher, data)[:, 1:]).abs().mean().item())
    assert gaps[1] < gaps[0] / 2


def test_epochs_are_chosen_by_the_labels(taught, tmp_path):
    data, teacher = taught
    found = student(data, teacher, tmp_path / "student")
    rows = data.table[data.table["split"] == "validation"]
    model = load_model(found.directory)
    logits = logits_of(found.directory, data._replace(table=rows))
    losses = []
    for task, answers in model.questions.known(logits, model.questions.targets(rows)):
        targets = answers.targets[:, 0].long()
        losses.append(-task.probabilities(answers.logits).log().gather(1, targets[:, None]).sum().item())
    train_rows = data.table[data.table["split"] == "train"]
    share = (train_rows["grade"] != "").mean()
    assert found.validation_loss == pytest.approx((losses[0] + losses[1] / share) / 2 / len(rows), rel=1e-5)


def test_interrupted_it_ends_bit_identical(taught, tmp_path, interrupted):
    data, teacher = taught
    student(data, teacher, tmp_path / "whole")
    with interrupted(3):
        student(data, teacher, tmp_path / "resumed")
    again = student(data, teacher, tmp_path / "resumed")
    assert again._replace(directory="") == student(data, teacher, tmp_path / "whole")._replace(directory="")
    assert weights(tmp_path / "whole") == weights(tmp_path / "resumed")
    for name in ("model.json", "log.csv", "candidates.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "resumed" / name).read_text()


def test_members_of_an_ensemble_have_the_same_teacher(taught, tmp_path):
    data, teacher = taught
    found = student(data, teacher, tmp_path / "student", ensemble=2, epochs=2)
    assert found.aggregator == "ensemble"
    assert found.teacher_auc > 0.5


def test_other_patients_of_the_teacher_are_warned_of(taught, tmp_path):
    data, teacher = taught
    fewer = data._replace(table=data.table[data.table["slide"] != "s000"])
    assert "other patients than the student" in student(fewer, teacher, tmp_path / "student", epochs=1).warnings[-1]


def test_refuses_what_cannot_be_distilled(taught, tmp_path):
    data, teacher = taught
    for settings, line in REFUSED:
        with pytest.raises(InputError) as error:
            student(data, teacher, tmp_path / "student", **settings)
        assert line in str(error.value)
    other = shutil.copytree(teacher, tmp_path / "other")
    path = other / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder": "e2"}))
    with pytest.raises(InputError, match="of encoder e2"):
        student(data, other, tmp_path / "student")
    assert list(tmp_path.glob("*student*")) == []


def test_refuses_times(taught, tmp_path):
    data, _ = taught
    table = data.table.assign(months=1.0 + np.arange(36), died=1)
    config = replace(TEACHER, task="abnormal,death:cox(months,died,9)", epochs=1)
    teacher = train(data.directory, table, tmp_path / "of-time", config).directory
    with pytest.raises(InputError, match="`death`, of kind cox"):
        student(data._replace(table=table), teacher, tmp_path / "student", task="")
    assert student(data._replace(table=table), teacher, tmp_path / "student", task="", distillation="none").teacher_auc > 0


def test_the_log_tells_what_was_learned_from(taught, tmp_path):
    """The loss of training holds the teacher's share, that of validation does not."""
    data, teacher = taught
    logs = [pd.read_csv(student(data, teacher, tmp_path / str(weight), distillation_weight=weight, epochs=1, dropout=0.0,
                                distillation="kl", learning_rate=1e-9).directory / "log.csv").iloc[0] for weight in (0.0, 1.0)]
    assert logs[1]["train_loss"] > logs[0]["train_loss"] + 1e-3
    assert logs[1]["validation_loss"] == pytest.approx(logs[0]["validation_loss"])
    assert torch.isfinite(torch.tensor(logs[1]["train_loss"]))


def weights(directory):
    """Bytes of each weight."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_file(directory / "model.safetensors").items()}
