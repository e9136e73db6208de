"""Several tasks side by side: their logits and labels next to each other, one loss."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from milscope.tasks._base import Answers, Loss, Task


@dataclass(frozen=True)
class Questions:
    """All that is asked about a slide."""

    tasks: tuple[Task, ...]

    @property
    def outputs(self) -> int:
        """The number of logits."""
        return sum(self.widths)

    @property
    def widths(self) -> list[int]:
        """The number of logits of each task."""
        return [task.outputs for task in self.tasks]

    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """The labels of all tasks side by side."""
        return torch.cat([task.targets(table) for task in self.tasks], 1)

    def labels(self, targets: Float[Tensor, "slide column"]) -> Iterator[Float[Tensor, "slide own"]]:
        """Each task's share of the labels."""
        yield from targets.split([len(task.columns) for task in self.tasks], 1)

    def answers(self, logits: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"]) -> Iterator[Answers]:
        """Each task's share of both."""
        yield from map(Answers, self.logits(logits), self.labels(targets))

    def logits(self, logits: Float[Tensor, "row logit"]) -> Iterator[Float[Tensor, "row own"]]:
        """Each task's share of the logits, or of the attention to them."""
        yield from logits.split([task.outputs for task in self.tasks], 1)

    def known(self, logits: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"],
              ) -> Iterator[tuple[Task, Answers]]:
        """Each task with the answers about slides that have its label."""
        for task, answers in zip(self.tasks, self.answers(logits, targets), strict=True):
            has = task.known(answers.targets)
            yield task, Answers(answers.logits[has], answers.targets[has])

    def membership(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, "slide logit"]:
        """See `Task.membership`, of all tasks."""
        return torch.cat([task.membership(own) for task, own in zip(self.tasks, self.labels(targets), strict=True)], 1)

    def measures(self, logits: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"]) -> dict[str, float]:
        """See `Task.measure`, of each task by name."""
        return {task.name: task.measure(answers) for task, answers in self.known(logits, targets)}


@dataclass(frozen=True)
class JointLoss:
    """The mean loss over tasks and slides; a slide counts for the tasks of which it has a label.

    Every task counts alike, however many slides have its label; one of which no training slide has is not counted.
    """

    questions: Questions
    losses: tuple[Loss, ...]
    shares: tuple[float, ...]
    """Share of the training slides that have a label, by task."""

    @classmethod
    def of(cls, questions: Questions, targets: Float[Tensor, "slide column"], name: str, *, weighted: bool) -> "JointLoss":
        """The loss for these training slides, with classes weighted so that each counts alike if asked for."""
        losses, shares = [], []
        for task, own in zip(questions.tasks, questions.labels(targets), strict=True):
            losses.append(Loss(name, task.class_weights(own) if weighted else None))
            shares.append(task.known(own).double().mean().item())
        return cls(questions, tuple(losses), tuple(shares))

    def __call__(self, logits: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"]) -> Float[Tensor, ""]:
        """The sum over slides."""
        total = logits.new_zeros(())
        for (task, answers), how, share in zip(self.questions.known(logits, targets), self.losses, self.shares, strict=True):
            if len(answers.targets):
                total = total + task.loss(answers, how).sum() / share
        return total / sum(share > 0 for share in self.shares)


def sampling_weights(questions: Questions, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " slide"]:
    """How often to draw each slide so that the classes of each task come alike often: the mean over its labelled tasks."""
    sums, counts = torch.zeros(len(targets)), torch.zeros(len(targets))
    for task, own in zip(questions.tasks, questions.labels(targets), strict=True):
        has, weights = task.known(own), task.class_weights(own)
        if weights is not None:
            sums[has] += weights[own[has, 0].long()]
            counts[has] += 1
    return torch.where(counts > 0, sums / counts.clamp_min(1), 1.0)


def mean_measure(measures: Sequence[float]) -> float:
    """The mean of those that are defined."""
    defined = [value for value in measures if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
