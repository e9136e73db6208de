"""Fits one aggregator: epochs of packed bags, the best of them on validation slides, early stopping, exact resume."""

import copy
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from milscope.aggregators import Aggregated, Aggregator, Targets, aggregator_class
from milscope.checkpoints import optimizer_tensors, restore_optimizer, step_seed
from milscope.configs import TrainConfig
from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.objectives import Guide
from milscope.store import Bags, Scale
from milscope.tasks import JointLoss, Questions, mean_measure, sampling_weights
from milscope.types import refuse

MARKED = 256
"""Most judged cells a step."""


class Slides(NamedTuple):
    """All slides there are to learn from and to choose with; their features are standardised."""

    bags: Bags
    targets: Float[Tensor, "slide column"]


class Marks(NamedTuple):
    """Single cells of the slides about which something is known, beside the slides' labels."""

    cells: Bags
    """Each as a slide of its own, standardised; a cell that was encoded several times has several rows."""
    slide: Int[Tensor, " marked"]
    """The number of each one's slide."""
    target: Float[Tensor, " marked"]
    """1 for an abnormal cell, 0 for a normal one."""
    weight: float = 1.0
    """Of all of them together, beside the mean loss of the slides."""

    def of(self, slides: Int[Tensor, " some"]) -> Int[Tensor, " own"]:
        """The numbers of the marked cells that lie on those slides."""
        return torch.isin(self.slide, slides).nonzero().flatten()


class Row(TypedDict):
    """One epoch in the log."""

    aggregator: str
    epoch: int
    train_loss: float
    validation_loss: float
    validation_auc: float
    """The mean over tasks of their measures (AUC, or what stands for it)."""
    learning_rate: float
    """Of the epoch's first step."""


class Lesson(NamedTuple):
    """What there is to learn."""

    slides: Slides
    train: Int[Tensor, " trained"]
    """Numbers of the slides to learn from."""
    validation: Int[Tensor, " held"]
    """Numbers of the slides that choose epoch and model."""
    questions: Questions
    scale: Scale
    """By which the features were standardised."""
    guide: Guide | None = None
    """A teacher beside the labels of the training slides."""
    start: Aggregator | None = None
    """The model to go on from, of which only what asks for gradients learns; None: a new one."""
    marks: Marks | None = None
    """Cells that were judged; those of the slides to learn from are learned from."""


class Computer(NamedTuple):
    """Where it is computed, in which arithmetic, and on how many cells at a time."""

    device: torch.device
    precision: torch.dtype
    cells: int

    @classmethod
    def of(cls, config: TrainConfig) -> "Computer":
        """The one that the settings ask for."""
        device = choose_device(config.device)
        return cls(device, choose_precision(config.precision, device), config.cells)

    def look(self, model: Aggregator, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """What a model says of standardised slides."""
        with mixed_precision(self.device, self.precision):
            return model.aggregate(Bags(bags.features.to(self.device), bags.offsets.to(self.device)), targets)

    def groups(self, slides: Int[Tensor, " slide"], bags: Bags) -> Iterator[Int[Tensor, " group"]]:
        """Slides in their order, in groups of at most so many cells; a slide with more is a group of its own."""
        start, held = 0, 0
        for place, length in enumerate(bags.lengths[slides].tolist()):
            if held and held + length > self.cells:
                yield slides[start:place]
                start, held = place, 0
            held += length
        yield slides[start:]

    @torch.no_grad()
    def answer(self, model: Aggregator, bags: Bags, slides: Int[Tensor, " slide"]) -> Float[Tensor, "slide logit"]:
        """The logits of some of the slides."""
        model.eval().to(self.device)
        return torch.cat([self.look(model, bags.select(group)).logits.float().cpu() for group in self.groups(slides, bags)])


class Fit:
    """One aggregator on its way: `run_epoch` until `finished`; between two epochs it can be saved and restored.

    The loss is the mean of the tasks' losses plus the aggregator's penalty, and with marked cells that of their evidence for
    the main task: of the logit of a slide that held the cell alone. Everything random in a step follows from the
    seed, the aggregator's name, the epoch and the step. A step's slides go through in groups of at most `cells` cells,
    whose gradients are added: the same step, in bounded memory. Tasks that compare slides with each other (Cox) need all
    of a step at once.

    Args:
        name: Which aggregator.
        lesson: What there is to learn.
        config: The settings.
    """

    def __init__(self, name: str, lesson: Lesson, config: TrainConfig) -> None:
        self.name, self.lesson, self.config = name, lesson, config
        self.questions, self.computer = lesson.questions, Computer.of(config)
        if any(task.compares for task in lesson.questions.tasks):
            self.computer = self.computer._replace(cells=sys.maxsize)
        self.log: list[Row] = []
        self.best: Row | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.loss = JointLoss.of(self.questions, lesson.slides.targets[lesson.train], config.loss,
                                 weighted=config.balance == "weights")
        self.model = (self._new() if lesson.start is None else copy.deepcopy(lesson.start)).to(self.computer.device)
        self.marked = torch.empty(0, dtype=torch.int64) if lesson.marks is None else lesson.marks.of(lesson.train)
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
        order = self._order(torch.Generator().manual_seed(self._seed(epoch)))
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
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}

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

    def _new(self) -> Aggregator:
        lesson, config = self.lesson, self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed())
            model = new_aggregator(self.name, len(lesson.scale.mean), lesson.questions.widths, config.dropout,
                                   config.options.get(self.name, {}))
        model.set_scale(lesson.scale)
        return model

    def _order(self, chance: torch.Generator) -> Int[Tensor, " drawn"]:
        own = self.lesson.train
        if self.config.balance != "sampling":
            return own[torch.randperm(len(own), generator=chance)]
        weights = sampling_weights(self.questions, self.lesson.slides.targets[own])
        return own[torch.multinomial(weights, len(own), replacement=True, generator=chance)]

    def _step(self, slides: Int[Tensor, " slide"], rate: float, seed: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        total, computer, (bags, labels) = 0.0, self.computer, self.lesson.slides
        with torch.random.fork_rng(devices=[computer.device] if computer.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for group in computer.groups(slides, bags):
                targets = labels[group].to(computer.device)
                found = computer.look(self.model, bags.select(group), self.questions.membership(targets))
                loss = (self._loss(found, group, targets) + found.penalty * len(group)) / len(slides)
                loss.backward()
                total += loss.item()
            if (marks := self.lesson.marks) is not None and len(self.marked) and marks.weight:
                total += self._learn_marks(marks)
        self.optimizer.step()
        return total

    def _learn_marks(self, marks: Marks) -> float:
        """Adds the gradient of the marked cells' loss, for which both kinds count alike; at most `MARKED` of them a step."""
        chosen = self.marked[torch.randperm(len(self.marked))[:MARKED]]
        counts = marks.target[self.marked].long().bincount(minlength=2)
        logits = self.computer.look(self.model, marks.cells.select(chosen)).logits.float()
        evidence = self.questions.tasks[0].suspicion(next(self.questions.logits(logits)))
        own = marks.target[chosen]
        weight = len(self.marked) / (int((counts > 0).sum()) * counts[own.long()])
        losses = functional.binary_cross_entropy_with_logits(evidence, own.to(evidence), weight.to(evidence))
        loss = marks.weight * losses
        loss.backward()
        return loss.item()

    def _loss(self, found: Aggregated, slides: Int[Tensor, " slide"], targets: Float[Tensor, "slide column"],
              ) -> Float[Tensor, ""]:
        """The sum over slides; where several streams of logits are trained, the mean of theirs."""
        streams = [logits.float() for logits in ([found.logits] if found.streams is None else found.streams)]
        losses = [self.loss(logits, targets) for logits in streams]
        if (guide := self.lesson.guide) is not None:
            losses = [loss + guide.loss(self.loss, slides, logits, targets)
                      for loss, logits in zip(losses, streams, strict=True)]
        return torch.stack(losses).mean()

    def _validate(self) -> tuple[float, float]:
        slides = self.lesson.slides
        logits = self.computer.answer(self.model, slides.bags, self.lesson.validation)
        targets = slides.targets[self.lesson.validation]
        measures = self.questions.measures(logits, targets)
        return (self.loss(logits, targets) / len(targets)).item(), mean_measure(list(measures.values()))

    def _learning_rate(self, epochs_done: float) -> float:
        return self.config.learning_rate * (1 + math.cos(math.pi * epochs_done / self.config.epochs)) / 2

    def _seed(self, *numbers: int) -> int:
        return step_seed(self.config.seed, int.from_bytes(self.name.encode(), "big"), *numbers)


def merit(row: Row, select: str) -> tuple[float, float]:
    """What is compared, the larger the better: the loss, or the AUC and among equal ones the loss."""
    return (0.0 if select == "loss" else row["validation_auc"], -row["validation_loss"])


def new_aggregator(name: str, features: int, outputs: Sequence[int], dropout: float, options: Mapping[str, Any]) -> Aggregator:
    """An untrained aggregator of that name.

    Args:
        name: Which one.
        features: Width of the features.
        outputs: Number of logits of each task.
        dropout: Share of hidden features dropped while training.
        options: Its own settings.

    Raises:
        InputError: If there is none of that name, or it does not take the options.
    """
    kind = aggregator_class(name)
    own = {"outputs": list(outputs), **options} if kind.by_task else options
    try:
        return kind(features, sum(outputs), dropout, **own)
    except TypeError as error:
        raise refuse("options", f"what `{name}` takes", f"{dict(options)} ({error})", "Correct them.") from error


def unprefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}
