"""Fits one aggregator: epochs of packed bags, the best of them on validation slides, early stopping, exact resume."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from milscope.aggregators import aggregator_class
from milscope.checkpoints import optimizer_tensors, restore_optimizer, step_seed
from milscope.configs import TrainConfig
from milscope.store import Bags


class Cohort(NamedTuple):
    """Slides with labels."""

    bags: Bags
    labels: Int[Tensor, " slide"]


class Row(TypedDict):
    """One epoch in the log."""

    aggregator: str
    epoch: int
    train_loss: float
    validation_loss: float
    validation_auc: float
    learning_rate: float
    """Of the epoch's first step."""


class Fit:
    """One aggregator on its way: `run_epoch` until `finished`; between two epochs it can be saved and restored.

    The loss is the cross-entropy with classes weighted so that each counts alike, plus the aggregator's penalty.
    Everything random in a step follows from the seed, the aggregator's name, the epoch and the step.

    Args:
        name: Which aggregator.
        train: The slides it learns from.
        validation: The slides that choose the epoch.
        config: The settings.
    """

    def __init__(self, name: str, train: Cohort, validation: Cohort, config: TrainConfig) -> None:
        self.name, self.train, self.validation, self.config = name, train, validation, config
        self.log: list[Row] = []
        self.best: Row | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.class_weights = len(train.labels) / (2 * train.labels.bincount(minlength=2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed())
            self.model = aggregator_class(name)(train.bags.features.shape[1], 2, config.dropout)
        self.model.fit_scale(train.bags.features)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), config.learning_rate,
                                           weight_decay=config.weight_decay)

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or none of the last few was better than the best."""
        best = self.best["epoch"] if self.best else 0
        return len(self.log) >= self.config.epochs or len(self.log) - best >= self.config.patience

    def run_epoch(self) -> None:
        """One pass over the training slides, then the measures on the validation slides."""
        epoch = len(self.log) + 1
        order = torch.randperm(self.train.bags.n_slides, generator=torch.Generator().manual_seed(self._seed(epoch)))
        batches = order.split(self.config.batch)
        self.model.train()
        total = 0.0
        for step, slides in enumerate(batches):
            rate = self._learning_rate(epoch - 1 + step / len(batches))
            total += self._step(slides, rate, self._seed(epoch, step)) * len(slides)
        loss, auc = self._validate()
        row = Row(aggregator=self.name, epoch=epoch, train_loss=total / len(order), validation_loss=loss,
                  validation_auc=auc, learning_rate=self._learning_rate(epoch - 1))
        self.log.append(row)
        select = self.config.select
        if math.isfinite(loss) and (self.best is None or merit(row, select) > merit(self.best, select)):
            self.best = row
            self.best_weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that `restore` needs: tensors, and plain values."""
        tensors = {**_prefixed("model.", self.model.state_dict()), **_prefixed("best.", self.best_weights),
                   **optimizer_tensors(self.optimizer)}
        return tensors, {"name": self.name, "log": self.log, "best": self.best}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Goes back to where `save` was called."""
        self.log, self.best = list(state["log"]), state["best"]
        self.best_weights = unprefixed("best.", tensors)
        self.model.load_state_dict(unprefixed("model.", tensors))
        restore_optimizer(self.optimizer, tensors)

    def _step(self, slides: Int[Tensor, " slide"], rate: float, seed: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = self.model(self.train.bags.select(slides))
        loss = self._loss(found.logits, self.train.labels[slides]).mean() + found.penalty
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def _validate(self) -> tuple[float, float]:
        self.model.eval()
        groups = torch.arange(self.validation.bags.n_slides).split(self.config.batch)
        logits = torch.cat([self.model(self.validation.bags.select(group)).logits for group in groups])
        loss = self._loss(logits, self.validation.labels).mean().item()
        margin = (logits[:, 1] - logits[:, 0]).nan_to_num()
        return loss, float(roc_auc_score(self.validation.labels.numpy(), margin.numpy()))

    def _loss(self, logits: Float[Tensor, "slide 2"], labels: Int[Tensor, " slide"]) -> Float[Tensor, " slide"]:
        return functional.cross_entropy(logits, labels, reduction="none") * self.class_weights[labels]

    def _learning_rate(self, epochs_done: float) -> float:
        return self.config.learning_rate * (1 + math.cos(math.pi * epochs_done / self.config.epochs)) / 2

    def _seed(self, *numbers: int) -> int:
        return step_seed(self.config.seed, int.from_bytes(self.name.encode(), "big"), *numbers)


def merit(row: Row, select: str) -> tuple[float, float]:
    """What is compared, the larger the better: the loss, or the AUC and among equal ones the loss."""
    return (0.0 if select == "loss" else row["validation_auc"], -row["validation_loss"])


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
