"""Yes or no, and one of several classes."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from milscope.tasks._base import Answers, Graded, Loss
from milscope.types import refuse


@dataclass(frozen=True)
class MultiClass(Graded):
    r"""One of several classes that exclude each other; the first is the normal one.

    $$ p = \mathrm{softmax}(y / T), \qquad s = \log \sum_{c > 0} e^{y_c / T} - y_0 / T $$
    """

    kind: ClassVar[str] = "multiclass"

    @property
    def outputs(self) -> int:
        """See `Task.outputs`."""
        return len(self.classes)

    def fitted(self, table: pd.DataFrame, split: str = "train") -> "MultiClass":
        """See `Task.fitted`: without names given, the classes are those of the table, in the order of the alphabet."""
        found = sorted(set(_names(table[self.name])) - {""})
        if self.classes and (odd := set(found) - set(self.classes)):
            raise refuse(self.name, "one of " + ", ".join(self.classes), f"`{min(odd)}`", "Add it to the classes of the task.")
        if len(found) < 2:
            raise refuse(f"{split} slides", f"of at least two classes of `{self.name}`", ", ".join(found) or "no label",
                         "Divide the slides again with `milscope split`, or add slides.")
        return replace(self, classes=self.classes or tuple(found))

    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """See `Task.targets`: the number of the class; a class that training slides do not have is unknown."""
        places = {name: float(place) for place, name in enumerate(self.classes)}
        return torch.tensor([[places.get(label, math.nan)] for label in _names(table[self.name])])

    def loss(self, answers: Answers, how: Loss) -> Float[Tensor, " slide"]:
        """See `Task.loss`."""
        truth = answers.targets[:, 0].long()
        log_shares = functional.log_softmax(answers.logits, 1).gather(1, truth[:, None])[:, 0]
        found = how.of(log_shares, truth == 0)
        return found if how.weights is None else found * how.weights.to(found.dtype)[truth]

    def probabilities(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, "slide class"]:
        """See `Graded.probabilities`."""
        return (logits / self.temperature).softmax(1)

    def suspicion(self, logits: Float[Tensor, "slide logit"]) -> Float[Tensor, " slide"]:
        """See `Task.suspicion`."""
        scaled = logits / self.temperature
        return scaled[:, 1:].logsumexp(1) - scaled[:, 0]

    def membership(self, targets: Float[Tensor, "slide column"]) -> Float[Tensor, "slide logit"]:
        """See `Task.membership`."""
        own = torch.arange(self.outputs, device=targets.device) == targets
        return torch.where(targets.isnan(), math.nan, own.to(targets.dtype))

    def attention(self, attention: Float[Tensor, "cell logit"]) -> Float[Tensor, " cell"]:
        """See `Task.attention`."""
        return attention[:, 1:].mean(1)

    def measure(self, answers: Answers) -> float:
        """The mean over classes of the AUC of each against the rest; classes without slides, or all of them, are left out."""
        shares, truth = answers.logits.double().softmax(1).nan_to_num().numpy(), answers.targets[:, 0].numpy()
        areas = [float(roc_auc_score(truth == place, shares[:, place])) for place in range(self.outputs)
                 if 0 < (truth == place).sum() < len(truth)]
        return sum(areas) / len(areas) if areas else math.nan


@dataclass(frozen=True)
class Binary(MultiClass):
    """Yes or no: two classes, from a column of 0 and 1."""

    classes: tuple[str, ...] = ("negative", "positive")
    kind: ClassVar[str] = "binary"

    def fitted(self, table: pd.DataFrame, split: str = "train") -> "Binary":
        """See `Task.fitted`."""
        for value, name in enumerate(self.classes):
            if not (table[self.name] == value).any():
                raise refuse(f"{split} slides", f"of both classes of `{self.name}`", f"no {name} one",
                             "Divide the slides again with `milscope split`, or add slides.")
        return self

    def targets(self, table: pd.DataFrame) -> Float[Tensor, "slide column"]:
        """See `Task.targets`."""
        return torch.tensor(table[[self.name]].to_numpy(dtype="float32"))

    def measure(self, answers: Answers) -> float:
        """The AUC."""
        truth = answers.targets[:, 0].numpy()
        if not 0 < truth.sum() < len(truth):
            return math.nan
        return float(roc_auc_score(truth, self.suspicion(answers.logits).nan_to_num().numpy()))


def _names(column: pd.Series) -> list[str]:
    """Labels as text, "" for none; a column that could be read as yes and no holds numbers."""
    return [label if isinstance(label, str) else "" if math.isnan(label) else f"{label:g}" for label in column]
