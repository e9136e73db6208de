"""How sure the figures of validation slides are: the measure of each task, with an interval over patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milscope.metrics import (
    Bootstrap,
    Interval,
    SurvivalScores,
    intervals,
    mean_of_defined,
    weighted_auc,
    weighted_c_index,
)
from milscope.tasks import Answers, Ordinal, Questions, Survival, Task


def validation_intervals(
    questions: Questions, logits: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"],
    patients: Sequence[str], bootstrap: Bootstrap | None = None,
) -> dict[str, Interval]:
    """The measure of each task by name (see `Task.measure`), and between what it would mostly fall with other patients.

    Patients are drawn with replacement, all slides of one together, those of each class (with and without the event)
    apart. That epoch and model were chosen on the same patients, no interval shows.

    Args:
        questions: The tasks.
        logits: What was said of the slides.
        targets: What is known of them.
        patients: Of each slide.
        bootstrap: How intervals are made.
    """
    owners, found = np.asarray(patients, dtype=str), {}
    for task, answers in zip(questions.tasks, questions.answers(logits, targets), strict=True):
        known = task.known(answers.targets)
        own = Answers(answers.logits[known], answers.targets[known])
        scores = _Measured(task, own, owners[known.numpy()].tolist())
        found[task.name] = intervals(scores, bootstrap or Bootstrap(), {"measure": task.measure(own)})["measure"]
    return found


class _Measured(NamedTuple):
    """Slides with labels of one task, to be drawn from."""

    task: Task
    answers: Answers
    patients: Sequence[str]

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """The class of each slide, or whether the event was seen."""
        return self.answers.targets[:, -1].long().numpy()

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The measure in many draws at once."""
        return {"measure": _drawn(self.task, self.answers, weights)}


def _drawn(task: Task, answers: Answers, weights: Float[np.ndarray, "draw slide"]) -> Float[np.ndarray, " draw"]:
    """`Task.measure`, each slide counting as often as its weight in the draw says."""
    logits, truth = answers.logits.double(), answers.targets[:, 0].double().numpy()
    if isinstance(task, Ordinal):
        expected = task.probabilities(logits).nan_to_num() @ torch.arange(len(task.classes)).double()
        return _concordance(-truth, np.ones(len(truth), dtype=bool), expected, weights)
    if isinstance(task, Survival):
        return _concordance(truth, answers.targets[:, 1].numpy() == 1, task.risk(logits).nan_to_num(), weights)
    if task.outputs == 2:
        return weighted_auc(truth > 0, task.suspicion(answers.logits).nan_to_num().double().numpy(), weights)
    shares = logits.softmax(1).nan_to_num().numpy()
    areas = [weighted_auc(truth == place, share, weights) for place, share in enumerate(shares.T)]
    return mean_of_defined(np.stack(areas, axis=1))


def _concordance(
    times: Float[np.ndarray, " slide"], events: Bool[np.ndarray, " slide"], risks: Float[Tensor, " slide"],
    weights: Float[np.ndarray, "draw slide"],
) -> Float[np.ndarray, " draw"]:
    return weighted_c_index(SurvivalScores(times, events, risks.double().numpy(), [""] * len(times)), weights)
