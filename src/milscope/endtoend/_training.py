"""Training end to end: epochs of steps, the best of them on validation slides, early stopping, exact resume."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.swa_utils import update_bn

from milscope.checkpoints import load_checkpoint, save_checkpoint, seeded
from milscope.devices import mixed_precision, peak_memory
from milscope.endtoend._networks import Moved, Networks
from milscope.endtoend._rows import Rows
from milscope.endtoend._step import Asked, Step
from milscope.fitting import Row as Epoch
from milscope.fitting import merit, unprefixed
from milscope.memory import LOOKED
from milscope.progress import progress
from milscope.schedule import warm_cosine
from milscope.store import Bags
from milscope.tasks import mean_measure, sampling_weights
from milscope.types import refuse

CHECKPOINT_SECONDS = 30
STATISTICS_ROWS = 2048
"""Rows from which the statistics of batch normalisation are taken after an epoch."""
GIGABYTE = 1e9


class Row(Epoch, total=False):
    """One epoch in the log."""

    cells_per_second: float
    """Rows looked at in training, validation left out."""
    gigabytes: float
    """The most memory so far, of the process or of the GPU."""
    alpha: float
    """Of ABMILX: the weight of what cells that are alike say of each other."""


class Lesson(NamedTuple):
    """What is learned, by which slides, and which slides choose."""

    asked: Asked
    train: Int[Tensor, " trained"]
    validation: Int[Tensor, " held"]


class Training:
    """Encoder and slide model on their way.

    Args:
        moved: Both networks.
        rows: The cells of all slides.
        lesson: What there is to learn.
        step: What moves the networks.
        work: Where checkpoints are kept.
    """

    def __init__(self, moved: Moved, rows: Rows, lesson: Lesson, *, step: Step, work: Path) -> None:
        self.moved, self.rows, self.lesson, self.step = moved, rows, lesson, step
        self.config, self.team, self.plan, self.checkpoint = step.config, step.team, step.plan, work / "checkpoint.safetensors"
        self.steps = -(-len(lesson.train) // self.config.batch)
        if len(lesson.train) // self.steps < self.team.ranks:
            raise refuse("batch", f"large enough for a slide a process, {self.team.ranks} in every step", self.config.batch,
                         "Raise it, or start fewer processes.")
        self.log: list[Row] = []
        self.best: Row | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.position, self.loss = 0, 0.0

    def run(self) -> Networks:
        """Trains from where an earlier attempt was killed; the best epoch of what is kept.

        Raises:
            InputError: If no epoch has a finite loss.
        """
        self._resume()
        with progress("endtoend", self.config.epochs * self.steps, "steps", self.position) as advance:
            while not self.finished:
                self._run_epoch(advance)
            advance(self.config.epochs * self.steps - self.position)
        if self.best is None:
            raise refuse("learning_rate", "low enough for a finite loss", f"{self.config.learning_rate:g}", "Lower it.")
        kept = self.moved.kept
        kept.load_state_dict(self.best_weights)
        return kept

    @property
    def finished(self) -> bool:
        """Whether all epochs are over, or none of the last few was better than the best."""
        best = self.best["epoch"] if self.best else 0
        return len(self.log) >= self.config.epochs or len(self.log) - best >= self.config.patience

    def _run_epoch(self, advance: Any) -> None:  # noqa: ANN401 - what `progress` gives
        epoch, first = divmod(self.position, self.steps)
        order = self._order(epoch)
        saved = started = time.monotonic()
        looked, waited = 0, 0.0
        for number, slides in list(enumerate(order.tensor_split(self.steps)))[first:]:
            loss, rows = self.step(slides, (epoch, number), self._rate(self.position))
            self.loss += float(loss)
            self.position += 1
            looked += rows
            advance(1)
            if time.monotonic() - saved > CHECKPOINT_SECONDS and self.position % self.steps:
                before = time.monotonic()
                self._save()
                saved = time.monotonic()
                waited += saved - before
        speed = looked / max(time.monotonic() - started - waited, 1e-9)
        self._close(epoch + 1, len(order), speed)
        self._save()

    def _close(self, epoch: int, slides: int, speed: float) -> None:
        """Judges what is kept on the validation slides, and remembers it if it is the best so far."""
        self._measure_statistics(epoch)
        loss, auc = self._validate()
        row = Row(aggregator=self.config.aggregator, epoch=epoch, train_loss=self.loss / slides, validation_loss=loss,
                  validation_auc=auc, learning_rate=self._rate(self.position - self.steps),
                  cells_per_second=speed * self.team.ranks, gigabytes=peak_memory(self.step.device) / GIGABYTE)
        alpha = getattr(self.moved.kept.aggregator, "alpha", None)
        if isinstance(alpha, Tensor):
            row["alpha"] = alpha.item()
        self.log.append(row)
        self.loss, select = 0.0, self.config.select
        if math.isfinite(loss) and (self.best is None or merit(row, select) > merit(self.best, select)):
            self.best = row
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.moved.kept.state_dict().items()}

    @torch.no_grad()
    def answers(self, slides: Int[Tensor, " slide"]) -> Float[Tensor, "slide logit"]:
        """The logits of slides, all their rows looked at, by what is kept; processes share the slides."""
        networks, most = self.moved.kept.eval(), LOOKED * self.plan.chunk
        logits = [torch.zeros(0, networks.aggregator.classes, device=self.step.device)]
        held: list[int] = []
        for slide in slides[self.team.share(len(slides))].tolist():
            if held and sum(map(self.rows.count, held)) + self.rows.count(slide) > most:
                logits.append(self._answer(networks, held, most))
                held = []
            held.append(slide)
        if held:
            logits.append(self._answer(networks, held, most))
        return self.team.gather(torch.cat(logits), len(slides)).cpu()

    def _answer(self, networks: Networks, slides: Sequence[int], most: int) -> Float[Tensor, "slide logit"]:
        """The logits of slides whose features are in memory together, so many rows encoded at a time.

        The slide model computes in full precision, as in `predict`, where the operating point has to hold.
        """
        with mixed_precision(self.step.device, self.plan.precision):
            features = [networks.encoder(self.rows.middles(part)).to(self.step.kind)
                        for part in self.rows.all_of(slides).split(most)]
        offsets = torch.tensor([0, *map(self.rows.count, slides)], device=self.step.device).cumsum(0)
        return networks.aggregator(Bags(torch.cat(features), offsets)).logits.float()

    def _validate(self) -> tuple[float, float]:
        asked, held = self.lesson.asked, self.lesson.validation
        logits, targets = self.answers(held), self.lesson.asked.targets[self.lesson.validation]
        measures = asked.questions.measures(logits, targets)
        return (asked.loss(logits, targets) / len(held)).item(), mean_measure(list(measures.values()))

    @torch.no_grad()
    def _measure_statistics(self, epoch: int) -> None:
        """Batch normalisation of what is kept gets the statistics of training cells as prediction sees them.

        The running ones belong to other weights than the average, and to each process its own.
        """
        if self.moved.networks.fixed:
            return
        chosen = self.rows.some_of(self.lesson.train.tolist(), STATISTICS_ROWS, seeded(self.config.seed, epoch, -1))
        parts = chosen.tensor_split(max(1, -(-len(chosen) // self.plan.chunk)))
        with mixed_precision(self.step.device, self.plan.precision):
            update_bn(map(self.rows.middles, parts), self.moved.kept.encoder)

    def _order(self, epoch: int) -> Int[Tensor, " drawn"]:
        own, chance = self.lesson.train, seeded(self.config.seed, epoch)
        if self.config.balance != "sampling":
            return own[torch.randperm(len(own), generator=chance)]
        weights = sampling_weights(self.lesson.asked.questions, self.lesson.asked.targets[own])
        return own[torch.multinomial(weights, len(own), replacement=True, generator=chance)]

    def _rate(self, position: int) -> float:
        return warm_cosine(position, self.config.epochs * self.steps, peak=self.config.learning_rate, warmup=self.config.warmup)

    def _save(self) -> None:
        if self.team.leads:
            best = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
            state = {"position": self.position, "loss": self.loss, "log": self.log, "best": self.best}
            save_checkpoint(self.checkpoint, {**self.moved.tensors(), **best}, state)

    def _resume(self) -> None:
        self.team.wait()
        tensors, state = load_checkpoint(self.checkpoint) or ({}, {})
        if state:
            self.moved.restore(tensors)
            self.best_weights = unprefixed("best.", tensors)
            self.position, self.loss, self.log, self.best = (state[name] for name in ("position", "loss", "log", "best"))
