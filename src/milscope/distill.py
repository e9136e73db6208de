"""Distillation: a student learns from the labels of all slides, and from what a teacher of balanced slides says of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from milscope.card import card_of
from milscope.cohorts import check_promise, read_cohort
from milscope.configs import DistillConfig
from milscope.models import Model, check_encoder, load_model
from milscope.objectives import AsymmetricDistillation, Distillation, Guide, SoftLabels, check_distilled
from milscope.slides import read_slides
from milscope.store import Manifest, Stage, feature_slides, fingerprint, open_features, read_manifest, write_text
from milscope.tasks import Graded, Task, mean_measure, spelled_task
from milscope.training import Learned, Training, check_training, slide_logits
from milscope.types import refuse


class Distilled(NamedTuple):
    """The student's directory, which aggregator was chosen, and how it and its teacher do on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float
    teacher_auc: float
    warnings: list[str]


def distill(features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: DistillConfig | None = None, *,
            teacher: Path | str) -> Distilled:
    """Trains every aggregator of the settings on labels and the teacher's answers, and keeps the best on validation slides.

    Everything is as in `train`, but for what a teacher adds to the loss of a step. Epoch and model are chosen by the labels.
    The teacher says what it says of the training slides once, before anything is learned.

    Args:
        features: A `features` artifact (`encode`), or a folder of features as other tools write them.
        slides: The slide table with labels and split.
        out: Directory of the model: model.json, model.safetensors, card.md, log.csv, candidates.csv.
        config: Settings; the defaults of `DistillConfig` if None. Without `task` the tasks are the teacher's.
        teacher: A `model` artifact of the same encoder and the same tasks. Its patients count as seen.

    Raises:
        InputError: If the teacher is of another encoder or of other tasks, a task has no classes, or `train` refuses.
    """
    config = config or DistillConfig()
    check_training(config)
    _check(config)
    origin, told = open_features(Path(features)), read_manifest(Path(teacher), "model")
    master = load_model(teacher)
    check_encoder(origin, master.record)
    frame = read_slides(slides)
    task = config.task or ",".join(map(spelled_task, master.questions.tasks))
    cohort = read_cohort(feature_slides(Path(features)), frame, replace(config, task=task))
    _check_tasks(cohort.questions.tasks, master.questions.tasks)
    if config.distillation != "none":
        check_distilled(cohort.questions.tasks)
    check_promise(cohort, config)
    inputs = {"features": origin.fingerprint, "slides": fingerprint(cohort.used.to_dict("list")), "teacher": told.fingerprint}
    patients = [*origin.patients, *told.patients, *cohort.used["patient"]]
    with Stage(Path(out), "model", config, inputs, patients) as stage:
        if not stage.done:
            answers, _ = slide_logits(master.aggregator, Path(features), cohort.table["slide"].tolist())
            training = Training(Path(features), cohort, config, stage.work, guide=_guide(config, answers))
            learned = training.run(origin)
            beside = _beside(learned, master, answers, told)
            training.write(learned, {**learned.record, "teacher": beside})
            stage.summary.update(learned.summary, teacher=beside)
            stage.summary["warnings"] = [*learned.summary["warnings"], *_strange(learned, master)]
            write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
    return _done(stage.manifest, Path(out))


def _done(manifest: Manifest, out: Path) -> Distilled:
    found = manifest.summary
    return Distilled(out, found["aggregator"], found["validation_loss"], found["validation_auc"],
                     found["teacher"]["validation_auc"], found["warnings"])


def _guide(config: DistillConfig, answers: Float[Tensor, "slide logit"]) -> Guide | None:
    how: Distillation = SoftLabels(config.softening)
    if config.distillation == "asymmetric":
        how = AsymmetricDistillation(config.softening, config.focus_positive, config.focus_negative, config.margin)
    return None if config.distillation == "none" else Guide(how, config.distillation_weight, answers)


def _beside(learned: Learned, master: Model, answers: Float[Tensor, "slide logit"], told: Manifest) -> dict[str, Any]:
    """The teacher: which it is, and how it does on the slides that validated the student, task by task, the student beside."""
    theirs = learned.questions.measures(answers[learned.held], learned.targets[learned.held])
    own = learned.record["validation"]
    return {"model": told.fingerprint, "aggregator": master.record["aggregator"],
            "validation_auc": mean_measure(list(theirs.values())),
            "validation": {name: {"student": own[name], "teacher": value} for name, value in theirs.items()}}


def _strange(learned: Learned, master: Model) -> list[str]:
    """A warning where the two learned from other patients: what is the student's validation may be the teacher's training."""
    if learned.record["patients_fingerprint"] == master.record.get("patients_fingerprint"):
        return []
    return ["the teacher learned from other patients than the student: its validation figures may be of slides it learned from"]


def _check_tasks(own: Sequence[Task], taught: Sequence[Task]) -> None:
    """Refuses a teacher of other tasks, or of the same in another order: its logits would mean something else."""
    student, teacher = ([_asked(task) for task in tasks] for tasks in (own, taught))
    if student != teacher:
        raise refuse("teacher", "of the student's tasks, " + "; ".join(student), "; ".join(teacher),
                     "Give another teacher, or leave `task` out: it is then as the teacher's.")


def _asked(task: Task) -> str:
    """What makes two tasks the same."""
    parts = task.classes if isinstance(task, Graded) else task.columns
    return f"{task.name}: {task.kind} of {', '.join(parts)}"


def _check(config: DistillConfig) -> None:
    for name, rule, good in (
        ("distillation_weight", "at least 0", config.distillation_weight >= 0),
        ("softening", "above 0", config.softening > 0),
        ("focus_positive", "at least 0", config.focus_positive >= 0),
        ("focus_negative", "at least 0", config.focus_negative >= 0),
        ("margin", "at least 0 and below 1", 0 <= config.margin < 1),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")
