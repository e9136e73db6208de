"""Training: slide models learn from features and slide labels; the best on validation slides is kept."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from milscope.aggregators import Aggregator, aggregator_class
from milscope.checkpoints import load_checkpoint, save_checkpoint
from milscope.configs import TrainConfig
from milscope.fitting import Cohort, Fit, Row, merit, unprefixed
from milscope.progress import progress
from milscope.slides import labels, read_slides
from milscope.store import Bags, Stage, feature_slides, fingerprint, read_features, read_manifest, write_text
from milscope.types import SPLITS, Split, refuse

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 2.0
CLASSES = ("negative", "positive")
COHORTS: tuple[Split, ...] = ("train", "validation")


class Trained(NamedTuple):
    """The model's directory, which aggregator was chosen, and how it does on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float


def train(
    features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: TrainConfig | None = None
) -> Trained:
    """Trains every aggregator of the settings on the training slides and keeps the best on the validation slides.

    Test slides are neither read nor counted. Slides of the table that have no features are left out and named in the
    manifest's summary.

    Args:
        features: A `features` artifact (`encode`).
        slides: The slide table with labels and split.
        out: Directory of the model: model.json, model.safetensors, log.csv, candidates.csv.
        config: Settings; the defaults of `TrainConfig` if None.

    Raises:
        InputError: If the split is missing, training or validation slides of a class are, an aggregator is unknown,
            a feature is not finite, or the training diverges.
    """
    config = config or TrainConfig()
    _check(config)
    origin = read_manifest(Path(features), "features")
    task, table, missing = _cohort(Path(features), slides, config.task)
    used = table[["slide", "patient", "split", task]]
    inputs = {"features": origin.fingerprint, "slides": fingerprint(used.to_dict("list"))}
    with Stage(Path(out), "model", config, inputs, [*origin.patients, *table["patient"]]) as stage:
        if not stage.done:
            cohorts, empty = _read_cohorts(Path(features), table, task)
            run = _Training(cohorts, config, stage.work / CHECKPOINT)
            run.run()
            run.write(stage.work, {"task": task, "classes": CLASSES, "encoder": origin.inputs.get("encoder", "")})
            stage.summary.update(task=task, **_summary(run, cohorts, missing, empty))
    found = stage.manifest.summary
    return Trained(Path(out), found["aggregator"], found["validation_loss"], found["validation_auc"])


def load_model(directory: Path | str) -> tuple[Aggregator, dict[str, Any]]:
    """The aggregator of a `model` artifact, ready to predict, and its record (model.json).

    Raises:
        InputError: If there is no model, or it is of an aggregator that this milscope does not know.
    """
    directory = Path(directory)
    read_manifest(directory, "model")
    record = json.loads((directory / "model.json").read_text())
    model = aggregator_class(record["aggregator"])(**record["options"])
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval(), record


class _Training:
    """All candidates one after the other, with a checkpoint every few seconds between epochs."""

    def __init__(self, cohorts: Mapping[str, Cohort], config: TrainConfig, checkpoint: Path) -> None:
        self.cohorts, self.config, self.checkpoint = cohorts, config, checkpoint
        self.log: list[Row] = []
        self.finished: list[Row] = []
        self.options: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {}

    @property
    def best(self) -> Row:
        """The best epoch of the best candidate; of equal candidates the first."""
        return max(self.finished, key=lambda row: merit(row, self.config.select))

    def run(self) -> None:
        """Trains what a checkpoint does not already hold."""
        fresh: dict[str, Any] = {"log": [], "finished": [], "options": {}, "fit": None}
        tensors, state = load_checkpoint(self.checkpoint) or ({}, fresh)
        self.log, self.finished, self.options = state["log"], state["finished"], state["options"]
        self.weights = unprefixed("chosen.", tensors)
        names = list(dict.fromkeys(self.config.aggregators))
        done = len(self.finished) * self.config.epochs
        with progress("train", len(names) * self.config.epochs, "epochs", done=done) as advance:
            for name in names[len(self.finished):]:
                fit = Fit(name, self.cohorts["train"], self.cohorts["validation"], self.config)
                if state["fit"] and state["fit"]["name"] == name:
                    fit.restore(tensors, state["fit"])
                    advance(len(fit.log))
                self._run(fit, advance)
                self._finish(fit)
                advance(self.config.epochs - len(fit.log))

    def write(self, directory: Path, record: Mapping[str, Any]) -> None:
        """Writes the chosen model and how it was chosen; the checkpoint is of no more use then."""
        best = self.best
        model = {"aggregator": best["aggregator"], "options": self.options, **record, "best_epoch": best["epoch"],
                 "validation_loss": best["validation_loss"], "validation_auc": best["validation_auc"]}
        save_checkpoint(directory / "model.safetensors", self.weights, {})
        write_text(directory / "model.json", json.dumps(model, indent=1))
        write_text(directory / "log.csv", pd.DataFrame(self.log).to_csv(index=False))
        candidates = pd.DataFrame(self.finished).rename(columns={"epoch": "best_epoch"})
        candidates["chosen"] = candidates["aggregator"] == best["aggregator"]
        columns = ["aggregator", "best_epoch", "validation_loss", "validation_auc", "chosen"]
        write_text(directory / "candidates.csv", candidates[columns].to_csv(index=False))
        self.checkpoint.unlink(missing_ok=True)

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


def _check(config: TrainConfig) -> None:
    if not config.aggregators:
        raise refuse("aggregators", "at least one name", "none", "Name one, such as `abmil-gated`.")
    for name in config.aggregators:
        aggregator_class(name)
    for name in ("epochs", "patience", "batch"):
        if getattr(config, name) < 1:
            raise refuse(name, "at least 1", getattr(config, name), "Correct it.")
    if not config.learning_rate > 0:
        raise refuse("learning_rate", "above 0", config.learning_rate, "Correct it.")
    if not config.weight_decay >= 0:
        raise refuse("weight_decay", "at least 0", config.weight_decay, "Correct it.")
    if not 0 <= config.dropout < 1:
        raise refuse("dropout", "at least 0 and below 1", config.dropout, "Correct it.")


def _cohort(features: Path, slides: Path | str | pd.DataFrame, task: str) -> tuple[str, pd.DataFrame, list[str]]:
    """The task, the labelled training and validation slides that have features, and the names of those that have none."""
    task, table = labels(read_slides(slides), task)
    if not table["split"].isin(SPLITS).any():
        raise refuse("split", "train, validation or test for the slides", "an empty column",
                     "Run `milscope split`, or add the column.")
    table = table[table["split"].isin(COHORTS)]
    has = table["slide"].isin(feature_slides(features))
    missing = table.loc[~has, "slide"].tolist()
    table = table[has].sort_values("slide").reset_index(drop=True)
    _check_classes(table, task, missing)
    return task, table, missing


def _check_classes(table: pd.DataFrame, task: str, left_out: Sequence[str]) -> None:
    for split in COHORTS:
        counts = table.loc[table["split"] == split, task].value_counts()
        for value, name in enumerate(CLASSES):
            if not counts.get(value):
                also = f" ({len(left_out)} slides have no features)" if left_out else ""
                raise refuse(f"{split} slides", f"of both classes of `{task}`", f"no {name} one{also}",
                             "Divide the slides again with `milscope split`, or add slides.")


def _read_cohorts(features: Path, table: pd.DataFrame, task: str) -> tuple[dict[str, Cohort], list[str]]:
    """The packed slides and labels of each cohort, and the names of slides without any cell, which are left out."""
    cohorts, empty = {}, []
    for split in COHORTS:
        rows = table[table["split"] == split]
        bags = read_features(features, rows["slide"].tolist())
        _check_finite(bags, rows["slide"].tolist())
        filled = bags.lengths > 0
        if not filled.all():
            empty += rows.loc[~filled.numpy(), "slide"].tolist()
            bags, rows = bags.select(filled.nonzero().flatten()), rows[filled.numpy()]
        cohorts[split] = Cohort(bags, torch.from_numpy(rows[task].to_numpy().astype(np.int64)))
    _check_classes(table[~table["slide"].isin(empty)], task, empty)
    return cohorts, empty


def _check_finite(bags: Bags, slides: Sequence[str]) -> None:
    wrong = ~torch.isfinite(bags.features).all(1)
    if wrong.any():
        slide = slides[int(bags.owner[wrong][0])]
        raise refuse("features", "finite", f"nan or inf in {int(wrong.sum())} cells, first in slide `{slide}`",
                     "Encode that slide again.")


def _summary(run: _Training, cohorts: Mapping[str, Cohort], missing: Sequence[str], empty: Sequence[str]) -> dict[str, Any]:
    notes = [(missing, "without features"), (empty, "without cells")]
    return {
        "aggregator": run.best["aggregator"], "best_epoch": run.best["epoch"],
        "validation_loss": run.best["validation_loss"], "validation_auc": run.best["validation_auc"],
        "slides": {split: cohort.bags.n_slides for split, cohort in cohorts.items()},
        "cells": {split: len(cohort.bags.features) for split, cohort in cohorts.items()},
        "skipped": [*missing, *empty],
        "warnings": [f"{len(names)} slides {what} were left out of training: {', '.join(names)}"
                     for names, what in notes if names],
    }
