"""Grades: classes in an order."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from milscope.tasks._base import Answers, Graded, Loss
from milscope.tasks._classes import MultiClass
from milscope.tasks._survival import concordance
from milscope.types import refuse


@dataclass(frozen=True)
class Ordinal(Graded):
    r"""Classes in an order, the normal one first: each logit says whether a slide that reached a grade goes beyond it.

    $$ P(g > k) = \prod_{j \le k} \sigma(y_j / T) $$

    Whatever the logits, a higher grade is never likelier to be passed than a lower one.

    Source:
        Shi, Cao, Raschka, Deep neural networks for rank-consistent ordinal regression based on conditional
        probabilities, 2021, equations 4 to 6. There each step is averaged over the slides that reached it; here every
        slide's steps are summed, which is the likelihood.
    """

    kind: ClassVar[str] = "ordinal"

    @property
    def outputs(self) -> int:
        """See `Task.outputs`: one for each step from a grade to the next."""
        return len(self.classes) - 1

    def fitted(self, table: pd.DataFrame, split: str = "train") -> "Ordinal":
        """See `Task.fitted`; the order of the grades has to be given."""
        if len(self.classes) < 2:
            raise refuse(self.name, "given with its grades in order", "none", f"Say `{self.name}:ordinal(low<middle<high)`.")
        MultiClass(self.name, self.classes).fitted(table, split)
        return self

    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """See `Task.targets`: the number of the grade."""
        return MultiClass(self.name, self.classes).targets(table)

    def loss(self, answers: Answers, how: Loss) -> Float[Tensor, " slide"]:
        """See `Task.loss`: each slide's answers to the steps that it reached."""
        grade, steps = answers.targets, torch.arange(self.outputs, device=answers.targets.device)
        passed, reached = grade > steps, grade >= steps
        truth = functional.logsigmoid(torch.where(passed, answers.logits, -answers.logits))
        found = (how.of(truth.flatten(), ~passed.flatten()).reshape(truth.shape) * reached).sum(1)
        return found if how.weights is None else found * how.weights.to(found.dtype)[grade[:, 0].long()]

    def probabilities(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, "slide class"]:
        """See `Graded.probabilities`."""
        beyond = functional.logsigmoid(logits / self.temperature).cumsum(1).exp()
        ones = beyond.new_ones(len(beyond), 1)
        return torch.cat([ones, beyond], 1) - torch.cat([beyond, 0 * ones], 1)

    def choices(self, answers: Answers) -> tuple[Float[Tensor, "answer *class"], Float[Tensor, " answer"]]:
        """See `Graded.choices`: the steps that slides reached."""
        steps = torch.arange(self.outputs)
        reached = answers.targets >= steps
        return answers.logits[reached], (answers.targets > steps)[reached].to(answers.logits.dtype)

    def suspicion(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicion`: going beyond the first grade."""
        return logits[:, 0] / self.temperature

    def measure(self, answers: Answers) -> float:
        """The share of pairs of slides of unlike grade of which the higher one has the higher expected grade."""
        if not len(answers.targets):
            return math.nan
        expected = self.probabilities(answers.logits.double()).nan_to_num() @ torch.arange(len(self.classes)).double()
        grade = answers.targets[:, 0]
        return concordance(-grade.numpy(), torch.ones(len(grade)).numpy(), expected.numpy())
