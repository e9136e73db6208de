"""All candidate models of one division of the slides, one after the other; the best on validation slides is kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from milscope.aggregators import Aggregator, restored
from milscope.checkpoints import load_checkpoint, save_checkpoint
from milscope.configs import TrainConfig
from milscope.fitting import Fit, Lesson, Row, merit, unprefixed
from milscope.types import refuse

CHECKPOINT_SECONDS = 2.0


class Member(NamedTuple):
    """A trained model, and how it came to be."""

    model: Aggregator
    best: Row
    candidates: list[Row]
    """The best epoch of each candidate."""
    log: list[Row]


class Candidates:
    """Trains what a checkpoint does not already hold, and keeps one every few seconds between epochs.

    Args:
        lesson: What there is to learn.
        config: The settings.
        checkpoint: The file of the checkpoint.
    """

    def __init__(self, lesson: Lesson, config: TrainConfig, checkpoint: Path) -> None:
        self.lesson, self.config, self.checkpoint = lesson, config, checkpoint
        self.log: list[Row] = []
        self.finished: list[Row] = []
        self.options: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {}

    @property
    def best(self) -> Row:
        """The best epoch of the best candidate; of equal candidates the first."""
        return max(self.finished, key=lambda row: merit(row, self.config.select))

    def run(self, advance: Callable[[int], None]) -> Member:
        """The best of them.

        Args:
            advance: Called with the number of epochs done.
        """
        fresh: dict[str, Any] = {"log": [], "finished": [], "options": {}, "fit": None}
        tensors, state = load_checkpoint(self.checkpoint) or ({}, fresh)
        self.log, self.finished, self.options = state["log"], state["finished"], state["options"]
        self.weights = unprefixed("chosen.", tensors)
        names = candidate_names(self.config)
        advance(len(self.finished) * self.config.epochs)
        for name in names[len(self.finished):]:
            fit = Fit(name, self.lesson, self.config)
            if state["fit"] and state["fit"]["name"] == name:
                fit.restore(tensors, state["fit"])
                advance(len(fit.log))
            self._run(fit, advance)
            self._finish(fit)
            advance(self.config.epochs - len(fit.log))
        model = restored(self.best["aggregator"], self.options, self.weights)
        return Member(model, self.best, self.finished, self.log)

    def _run(self, fit: Fit, advance: Callable[[int], None]) -> None:
        saved = time.monotonic()
        while not fit.finished:
            fit.run_epoch()
            advance(1)
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save(fit)
                saved = time.monotonic()

    def _finish(self, fit: Fit) -> None:
        if fit.best is None:
            raise refuse("learning_rate", "low enough for a finite loss", f"{self.config.learning_rate:g}", "Lower it.")
        self.log = [*self.log, *fit.log]
        self.finished = [*self.finished, fit.best]
        if self.best is fit.best:
            self.options, self.weights = fit.model.options, fit.best_weights
        self._save(None)

    def _save(self, fit: Fit | None) -> None:
        tensors, state = fit.save() if fit else ({}, None)
        chosen = {f"chosen.{name}": tensor for name, tensor in self.weights.items()}
        save_checkpoint(self.checkpoint, {**tensors, **chosen},
                        {"log": self.log, "finished": self.finished, "options": self.options, "fit": state})


def candidate_names(config: TrainConfig) -> Sequence[str]:
    """The aggregators to try, each once."""
    return list(dict.fromkeys(config.aggregators))


def rows_of(members: Mapping[int, Member]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The log of all members and their candidates, as rows of two tables."""
    log = [{"member": number, **row} for number, member in members.items() for row in member.log]
    tried = [{"member": number, **row, "chosen": row is member.best} for number, member in members.items()
             for row in member.candidates]
    return log, tried
