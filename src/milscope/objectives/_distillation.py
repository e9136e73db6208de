"""What a student takes over from a teacher: soft labels, or asymmetric distillation for findings that are rare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from milscope.tasks import Graded, JointLoss, Ordinal, Task
from milscope.types import refuse


class Distillation(Protocol):
    """How far a student's answers are from a teacher's."""

    def of(self, task: Graded, student: Float[Tensor, "slide logit"], teacher: Float[Tensor, "slide logit"],
           ) -> Float[Tensor, " slide"]:
        """The loss of each slide."""
        ...


@dataclass(frozen=True)
class SoftLabels:
    r"""The divergence of the student's classes from the teacher's, both of softened logits.

    $$ L = T^2 \sum_c \hat z_c \log \frac{\hat z_c}{z_c}, \qquad z = \mathrm{softmax}(y / T) $$

    Of grades, z are their probabilities, made of softened steps. No gradient reaches the teacher.

    Args:
        softening: T, by which the logits of both are divided.

    Source:
        Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, 2015, section 2.
    """

    softening: float = 2.0

    def of(self, task: Graded, student: Float[Tensor, "slide logit"], teacher: Float[Tensor, "slide logit"],
           ) -> Float[Tensor, " slide"]:
        """See `Distillation.of`."""
        own, told = log_shares(task, student / self.softening), log_shares(task, teacher.detach() / self.softening)
        return self.softening**2 * (told.exp() * (told - own)).sum(1)


@dataclass(frozen=True)
class AsymmetricDistillation:
    r"""Soft labels whose yes counts less where the student is sure of it, and whose no counts less where the teacher is.

    $$ L = T^2 \Bigl( w_+ \hat z \log \frac{\hat z}{z} + w_- (1 - \hat z) \log \frac{1 - \hat z}{1 - z} \Bigr), \quad
       z = \sigma(y / T), \; w_+ = (1 - p)^{\gamma_+}, \; w_- = \max(\hat p - a, 0)^{\gamma_-} $$

    p and p̂ are the probabilities of student and teacher, without T; no gradient passes through either weight nor reaches
    the teacher. With both weights fixed the optimum is $z / (1 - z) = w_+ \hat z / (w_- (1 - \hat z))$. It can be below 0.

    Of several classes every one but the first is such a question, against all others; of grades, whether a slide is
    beyond each but the last. A slide's loss is the sum over them.

    Args:
        softening: T.
        focus_positive: $\gamma_+$, at least 0.
        focus_negative: $\gamma_-$, at least 0.
        margin: a, from 0 to below 1.

    Source:
        MECDS (MICCAI 2025, paper 1643). In its second term the teacher's yes is printed where its no must stand: as
        printed, the optimum would not depend on the teacher.
    """

    softening: float = 2.0
    focus_positive: float = 1.0
    focus_negative: float = 4.0
    margin: float = 0.2

    def __call__(self, student: Float[Tensor, "*answer"], teacher: Float[Tensor, "*answer"]) -> Float[Tensor, "*answer"]:
        """The loss of each logit of a yes."""
        teacher = teacher.detach()
        sure = (1 - student.detach().sigmoid()) ** self.focus_positive
        deemed = (teacher.sigmoid() - self.margin).clamp_min(0) ** self.focus_negative
        own, told = student / self.softening, teacher / self.softening
        yes = told.sigmoid() * (functional.logsigmoid(told) - functional.logsigmoid(own))
        no = (-told).sigmoid() * (functional.logsigmoid(-told) - functional.logsigmoid(-own))
        return self.softening**2 * (sure * yes + deemed * no)

    def of(self, task: Graded, student: Float[Tensor, "slide logit"], teacher: Float[Tensor, "slide logit"],
           ) -> Float[Tensor, " slide"]:
        """See `Distillation.of`."""
        return self(log_odds(task, student), log_odds(task, teacher)).sum(1)


class Guide(NamedTuple):
    """A teacher beside the labels."""

    how: Distillation
    weight: float
    answers: Float[Tensor, "slide logit"]
    """The teacher's logits of all slides."""

    def loss(self, labels: JointLoss, slides: Int[Tensor, " some"], logits: Float[Tensor, "some logit"],
             targets: Float[Tensor, "some column"]) -> Float[Tensor, ""]:
        """What is added to the loss of some slides, in sum; a slide counts for a task as it does in the loss of its labels.

        Args:
            labels: That loss.
            slides: The slides' numbers.
            logits: The student's.
            targets: What is known of the slides; where a task's label is missing, nothing is taken over.
        """
        questions, total = labels.questions, logits.new_zeros(())
        told = questions.logits(self.answers[slides].to(logits))
        for (task, own), teacher, known, share in zip(
                zip(questions.tasks, questions.logits(logits), strict=True), told, questions.labels(targets), labels.shares,
                strict=True):
            has = task.known(known)
            if isinstance(task, Graded) and bool(has.any()):
                total = total + self.how.of(task, own[has], teacher[has]).sum() / share
        return self.weight * total / sum(share > 0 for share in labels.shares)


def check_distilled(tasks: Sequence[Task]) -> None:
    """Refuses tasks without classes, whose answers are no probabilities.

    Raises:
        InputError: If there is one.
    """
    for task in tasks:
        if not isinstance(task, Graded):
            raise refuse("task", "of classes or grades, to be distilled", f"`{task.name}`, of kind {task.kind}",
                         "Leave it out, or take distillation `none`.")


def log_shares(task: Graded, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, "slide class"]:
    """The logarithm of each class's probability, without the task's temperature."""
    if not isinstance(task, Ordinal):
        return logits.log_softmax(1)
    reached = functional.pad(functional.logsigmoid(logits).cumsum(1), (1, 0))
    return reached + functional.pad(functional.logsigmoid(-logits), (0, 1))


def log_odds(task: Graded, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, "slide question"]:
    """The logits of yes: of each class but the first, or, of grades, of being beyond each but the last."""
    shares = log_shares(task, logits)
    places = torch.arange(shares.shape[1], device=shares.device)
    found = []
    for place in range(1, shares.shape[1]):
        yes = places >= place if isinstance(task, Ordinal) else places == place
        found.append(shares[:, yes].logsumexp(1) - shares[:, ~yes].logsumexp(1))
    return torch.stack(found, 1)
