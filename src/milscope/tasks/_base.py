"""What a task is: the labels it reads, the logits it wants, its loss, and what the logits say."""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from milscope.operating import fit_temperature

SHIFT, FOCUS_ABNORMAL, FOCUS_NORMAL = 0.05, 0.0, 4.0
FOCUS = 2.0


class Loss(NamedTuple):
    """How wrong answers are counted."""

    name: str = "cross-entropy"
    """`cross-entropy`, `focal` or `asymmetric`."""
    weights: Float[Tensor, " class"] | None = None
    """How much a slide of each class counts; None: all alike."""

    def of(self, truth: Float[Tensor, " answer"], normal: Bool[Tensor, " answer"]) -> Float[Tensor, " answer"]:
        r"""The loss of answers that give the true class this log-probability.

        $$ -\log p, \qquad -(1-p)^2 \log p, \qquad -(1-p)^{\gamma} \log p $$

        Args:
            truth: Logarithm of the probability that was given to what is true.
            normal: Whether what is true is the first class.

        Source:
            Lin et al., Focal loss for dense object detection, 2017, equation 4. Ridnik et al., Asymmetric loss for
            multi-label classification, 2021, equations 5 to 7: gamma is 0 for the abnormal and 4 for the normal, whose
            p is first raised by 0.05, so that easy normal slides count nothing.
        """
        if self.name == "cross-entropy":
            return -truth
        if self.name == "focal":
            return -(1 - truth.exp()) ** FOCUS * truth
        shifted = torch.where(normal, torch.logaddexp(truth, truth.new_tensor(math.log(SHIFT))).clamp_max(0), truth)
        focus = torch.where(normal, (1 - shifted.exp()) ** FOCUS_NORMAL, 1.0)
        return -focus * shifted


class Answers(NamedTuple):
    """What a model says of slides, and what is known of them."""

    logits: Float[Tensor, "slide logit"]
    targets: Float[Tensor, "slide column"]


@dataclass(frozen=True)
class Task(ABC):
    """One question about a slide; `fitted` to labels first, then asked."""

    name: str
    """The column of the slide table, or a name of one's own for a task of several columns."""

    kind: ClassVar[str]
    compares: ClassVar[bool] = False
    """Whether a slide's loss depends on the slides that it is given with."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the slide table that hold the labels."""
        return (self.name,)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many logits it takes."""

    @abstractmethod
    def fitted(self, table: pd.DataFrame, split: str = "train") -> "Task":
        """The task with what follows from the labels of these slides, as a rule the training slides.

        Args:
            table: Rows of a slide table.
            split: What they are called if they do not suffice.

        Raises:
            InputError: If they do not suffice to learn from.
        """

    @abstractmethod
    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """The labels as numbers, NaN where there is none.

        Raises:
            InputError: If a label is impossible.
        """

    @abstractmethod
    def loss(self, answers: Answers, how: Loss) -> Float[Tensor, " slide"]:
        """The loss of each slide; all have labels."""

    @abstractmethod
    def suspicion(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """The logit of `suspicious`: the one number by which slides and cells are ordered."""

    @abstractmethod
    def suspicious(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " slide"]:
        """1 for a slide that one wants to find (not of the first class; an event by the horizon), 0, NaN if unknown."""

    @abstractmethod
    def measure(self, answers: Answers) -> float:
        """How well slides are told apart: an AUC or the like, 0.5 for chance; NaN if undefined."""

    @abstractmethod
    def told(self, logits: Float[Tensor, "slide logit"]) -> pd.DataFrame:
        """What the logits say, as columns: `predicted` and `p:<class>`, or `risk` and `S:<time>`."""

    def class_weights(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " class"] | None:
        """Weights by which every class counts alike; None for tasks without classes."""
        return None

    def membership(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, "slide logit"]:
        """For each logit whether the slide is of its class: 1, 0, or NaN where unknown or no class belongs to it."""
        return targets.new_full((len(targets), self.outputs), math.nan)

    def known(self, targets: Float[Tensor, "slide column"]) -> Bool[Tensor, " slide"]:
        """Which slides have a label."""
        return targets.isfinite().all(1)

    def attention(self, attention: Float[Tensor, "cell logit"]) -> Float[Tensor, " cell"]:
        """How much each cell counts for what is sought: the mean over the logits that speak for it."""
        return attention.mean(1)

    def calibrated(self, train: Answers, held: Answers, *, temperature: bool) -> "Task":
        """The task with what follows from a trained model's answers.

        Args:
            train: On the training slides with labels.
            held: On validation slides with labels.
            temperature: Whether to choose a temperature on the latter.
        """
        return self

    def describe(self) -> dict[str, Any]:
        """Plain values from which `described_task` makes it again."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(frozen=True)
class Graded(Task):
    """A task of classes, the first of which is the normal one."""

    classes: tuple[str, ...] = ()
    """Their names, the normal one first."""
    temperature: float = 1.0
    """By which logits are divided before they become probabilities."""

    def suspicious(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicious`."""
        return torch.where(targets[:, 0].isnan(), math.nan, (targets[:, 0] > 0).to(targets.dtype))

    def choices(self, answers: Answers) -> tuple[Float[Tensor, "answer *class"], Float[Tensor, " answer"]]:
        """Logits that a softmax (or of one, a sigmoid) makes probabilities, and what was true."""
        return answers.logits, answers.targets[:, 0]

    @abstractmethod
    def probabilities(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, "slide class"]:
        """The probability of each class."""

    def told(self, logits: Float[Tensor, "slide logit"]) -> pd.DataFrame:
        """See `Task.told`."""
        shares = self.probabilities(logits).double().numpy()
        predicted = np.asarray(self.classes, dtype=object)[shares.argmax(1)]
        columns = {f"p:{name}": shares[:, place] for place, name in enumerate(self.classes)}
        return pd.DataFrame({"predicted": predicted, **columns})

    def class_weights(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, " class"]:
        """See `Task.class_weights`."""
        found = targets[:, 0][~targets[:, 0].isnan()].long()
        counts = found.bincount(minlength=len(self.classes))
        return len(found) / (len(self.classes) * counts.clamp_min(1))

    def calibrated(self, train: Answers, held: Answers, *, temperature: bool) -> "Graded":
        """With the temperature that makes the held answers likeliest; see `fit_temperature`."""
        if not temperature or not len(held.targets):
            return self
        logits, choices = self.choices(held)
        return replace(self, temperature=fit_temperature(logits.double().numpy(), choices.long().numpy()))
