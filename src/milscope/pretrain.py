"""Pretraining: an encoder learns from the cells of training slides and the slides' labels, and from nothing else."""

import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor

from milscope.checkpoints import load_checkpoint, save_checkpoint, seeded
from milscope.configs import PretrainConfig
from milscope.distributed import team
from milscope.learner import Learner, named_method, own_device
from milscope.objectives import Method
from milscope.progress import progress
from milscope.schedule import warm_cosine
from milscope.slides import labels, read_slides, tasks
from milscope.store import CellStore, HalvesSampler, Pixels, Stage, fingerprint, fingerprint_files, read_manifest, write_text
from milscope.telemetry import Telemetry, group_cosines
from milscope.types import refuse

CHECKPOINT_SECONDS = 30
PACE_STEPS = 9
"""Steps that are timed to plan a training from a time budget."""
COLLAPSED = 0.95
"""A contrast above this share of its chance value means that projections are alike."""


class Pretrained(NamedTuple):
    """The encoder's directory, and how its training ended."""

    directory: Path
    epochs: float
    """Passes over the training cells; not whole where a time was given."""
    cells: int
    contrast_over_chance: float | None
    """Contrast loss over its chance value log(2B - 1) in the last epoch: 1 is collapse; None without a contrast."""
    collapsed: bool


def pretrain(cells: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: PretrainConfig | None = None,
             *, init: Path | str | None = None, method: Method | None = None) -> Pretrained:
    """Trains an encoder on the cells of the training slides: contrast on positive, similarity on negative slides.

    The gradients of the tasks are joined by surgery. Cells of validation and test patients are never seen; the artifact
    records the patients that were; an encoder that is not trained (no epochs, or the method `random`) has seen nobody.
    Under torchrun the processes share every step.

    Args:
        cells: A `cells` artifact (`tile`).
        slides: The slide table with labels and split.
        out: Directory of the encoder.
        config: Settings; the defaults of `PretrainConfig` if None.
        init: An `encoder` artifact to go on from; its patients count as seen.
        method: Tasks of your own instead of the `method` of the settings.

    Raises:
        InputError: If there are no positive or no negative training slides with cells, a setting is out of range, or the
            training collapses and `stop_on_collapse` is set.

    Source:
        SLAM-AGS (arXiv 2511.14639), first stage. One epoch sees every cell once (the authors' about 5 %), both views of
        both halves go through one forward pass, and the encoder's output is the feature, not the projection.
    """
    config = _checked(config or PretrainConfig())
    store = CellStore(cells)
    task, table = training_slides(store, slides, config, method)
    inputs = {"cells": store.manifest.fingerprint,
              "labels": fingerprint([task, table[["slide", "patient", *filter(None, [task])]].to_dict("list")])}
    seen = set(table["patient"]) if config.epochs and config.method != "random" else set()
    if init is not None:
        origin = read_manifest(Path(init), "encoder")
        inputs["init"] = origin.fingerprint
        seen |= set(origin.patients)
    if Path(config.weights).is_file():
        inputs["weights"] = fingerprint_files([Path(config.weights)])
    if method is not None:
        inputs["method"] = fingerprint(repr(method))
    with team(own_device(config.device)) as together:
        with Stage(Path(out), "encoder", config, inputs, seen, leads=together.leads) as stage:
            together.wait()
            if not stage.done:
                extent = store.extent(table["slide"])
                stage.summary.update(task=task, extent=extent if math.isfinite(extent) else None)
                learner = Learner(config, together, method=method, init=Path(init) if init is not None else None)
                _Training(store, table, task, learner, stage.work).run(stage.summary)
        together.wait()
    summary = stage.manifest.summary
    return Pretrained(Path(out), **{name: summary[name] for name in Pretrained._fields[1:]})


def training_slides(store: CellStore, slides: Path | str | pd.DataFrame, config: PretrainConfig,
                    method: Method | None = None) -> tuple[str, pd.DataFrame]:
    """The training slides that have cells and the label that is needed, and its column (see `guide`).

    Raises:
        InputError: If the table has no split, or training slides of one label only.
    """
    task, table = guide(read_slides(slides), config, method)
    if not (table["split"] == "train").any():
        raise refuse("split", "a column with train, validation and test", "no training slides", "Run `milscope split`.")
    table = table[(table["split"] == "train") & table["slide"].isin(store.slides)]
    if task and table[task].nunique() < 2:
        counts = table[task].value_counts().to_dict()
        raise refuse("slides", "positive and negative among the training slides with cells", counts, "Add slides.")
    if table.empty:
        raise refuse("slides", "training slides with cells", "none", "Add slides.")
    return task, table.sort_values("slide", ignore_index=True)


def guide(frame: pd.DataFrame, config: PretrainConfig, method: Method | None = None) -> tuple[str, pd.DataFrame]:
    """The column whose labels guide the encoder, and the slides that have one.

    "" and all slides if no label is looked at, `config` names no column, and there is none or more than one to guess.

    Raises:
        InputError: If labels are needed and there is no such column, or several.
    """
    blind = config.epochs == 0 or config.method == "random" or (method or named_method(config)).blind
    if blind and not config.task and len(tasks(frame)) != 1:
        return "", frame
    return labels(frame, config.task)


def _checked(config: PretrainConfig) -> PretrainConfig:
    least = {"size": 8, "epochs": 0, "batch": 4, "projection": 1, "margin": 1, "contrast_weight": 0, "similarity_weight": 0,
             "learning_rate": 0, "weight_decay": 0, "warmup": 0, "colour": 0, "stain": 0, "groups_every": 0, "cache": 0}
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise refuse(name, f"at least {bound}", getattr(config, name), "Give a larger one.")
    if config.budget and seconds(config.budget) is None:
        raise refuse("budget", "a time such as 90s, 10m or 2h", config.budget, "Correct it.")
    named_method(config)
    for name in ("contrast_temperature", "similarity_temperature"):
        if not getattr(config, name) > 0:
            raise refuse(name, "above 0", getattr(config, name), "The published one is 0.07.")
    return config


def seconds(budget: str) -> float | None:
    """The seconds in a time such as `90s`, `1.5m` or `2h`; None if it is none.

    >>> seconds("1.5m"), seconds("2h"), seconds("soon")
    (90.0, 7200.0, None)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget.strip())
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found and float(found[1]) > 0 else None


class _Training:
    """Data, plan and position of one pretraining."""

    def __init__(self, store: CellStore, table: pd.DataFrame, task: str, learner: Learner, work: Path) -> None:
        self.learner, self.config, self.team, self.work = learner, learner.config, learner.team, work
        self.started = time.monotonic()
        self.epochs = 0 if self.config.method == "random" else self.config.epochs
        if self.epochs:
            self.pixels = self._decoded(store, list(table["slide"]))
            cells = np.diff(self.pixels.starts)  # without labels any halves will do: every other cell
            positive = np.repeat(table[task].to_numpy() == 1, cells) if task else np.arange(cells.sum()) % 2 == 1
            self.sampler = HalvesSampler(np.flatnonzero(positive), np.flatnonzero(~positive),
                                         batch=self.config.batch, seed=self.config.seed)
            self.steps = self._planned_steps()

    def _decoded(self, store: CellStore, slides: list[str]) -> Pixels:
        """The training cells; one process decodes them, the others find them done."""
        options: dict[str, Any] = {"size": math.ceil(self.config.size * self.config.margin), "cache": self.work / "pixels.npy",
                   "budget": self.config.cache}
        pixels = Pixels(store, slides, **options) if self.team.leads else None
        self.team.wait()
        return pixels or Pixels(store, slides, **options)

    def _planned_steps(self) -> int:
        """Steps of the whole training; from a time budget, as measured once and kept for a resumed training."""
        if not self.config.budget:
            return self.epochs * self.sampler.steps
        plan = self.work / "plan.json"
        fresh = not plan.exists()
        self.team.wait()
        if fresh:
            pace = self._pace()
            left = (seconds(self.config.budget) or 0) - (time.monotonic() - self.started)
            if self.team.leads:
                write_text(plan, json.dumps({"steps": max(1, int(left / pace)), "seconds_per_step": pace}))
            self.team.wait()
        return json.loads(plan.read_text())["steps"]

    def _pace(self) -> float:
        """Seconds a step takes, the first ones left out; the networks are made anew for the training itself."""
        trial = Learner(self.config, self.team, method=self.learner.method)
        times = [time.monotonic()]
        batches = (batch for epoch in itertools.count() for batch in self._batches(epoch, 0, Telemetry()))
        for place, (halves, counts) in enumerate(itertools.islice(batches, PACE_STEPS)):
            float(next(iter(trial.step(halves, counts, seeded(0, 0, place), 0.0).losses.values())))
            times.append(time.monotonic())
        return float(np.median(np.diff(times)[PACE_STEPS // 3 :]))

    def run(self, summary: dict[str, Any]) -> None:
        """Trains from where an earlier attempt was killed, writes the encoder, and says how it ended."""
        log = self._train() if self.epochs else []
        if self.team.leads:
            table = pd.DataFrame(log, columns=None if log else ["epoch"])
            table.to_csv(self.work / "log.csv", index=False, float_format="%.6g")
            self.learner.encoder.save(self.work)
            save_file(self.learner.head.state_dict(), self.work / "projector.safetensors")
            if self.config.tensorboard:
                write_tensorboard(self.work / "tensorboard", log)
            for name in ("checkpoint.safetensors", "pixels.npy", "plan.json"):
                (self.work / name).unlink(missing_ok=True)
        epochs = self.steps / self.sampler.steps if log else 0
        last = log[-1].get("contrast_over_chance") if log else None
        summary.update(epochs=int(epochs) if epochs == int(epochs) else round(epochs, 2), steps=self.steps if log else 0,
                       cells=len(self.pixels) if log else 0, contrast_over_chance=last,
                       collapsed=last is not None and last > COLLAPSED, encoder=self.learner.encoder.name,
                       processes=self.team.ranks)

    def _train(self) -> list[dict[str, float]]:
        position, log, telemetry = self._resume()
        saved = time.monotonic()
        cells = round(len(self.pixels) * self.steps / self.sampler.steps)
        with progress("pretrain", cells, "cells", round(cells * position / self.steps)) as advance:
            while position < self.steps:
                epoch, first = divmod(position, self.sampler.steps)
                for halves, counts in self._batches(epoch, first, telemetry):
                    self._step(position, halves, counts, telemetry)
                    position += 1
                    advance(sum(counts.values()))
                    if time.monotonic() - saved > CHECKPOINT_SECONDS and position % self.sampler.steps:
                        self._save(position, log, telemetry)
                        saved = time.monotonic()
                    if position == self.steps:
                        break
                log.append({"epoch": epoch + 1, **telemetry.close()})
                self._watch(log, position)
                telemetry, saved = Telemetry(), time.monotonic()
                self._save(position, log, telemetry)
        return log

    def _batches(self, epoch: int, start: int, telemetry: Telemetry) -> Iterator[tuple[dict[str, Tensor], dict[str, int]]]:
        """This process's cells of each step and the counts of all, the next ones fetched while the present ones are used."""
        steps = [{half: rows for half, rows in step._asdict().items() if half in self.learner.halves}
                 for step in self.sampler.epoch(epoch, start)]

        def fetch(step: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
            return {half: torch.from_numpy(self.pixels[rows[self.team.share(len(rows))]]) for half, rows in step.items()}

        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(fetch, steps[0])
            for present, following in zip(steps, [*steps[1:], None], strict=True):
                with telemetry.waiting():
                    ready = ahead.result()
                if following is not None:
                    ahead = thread.submit(fetch, following)
                yield ({half: part.to(self.learner.device, non_blocking=True) for half, part in ready.items()},
                       {half: len(rows) for half, rows in present.items()})

    def _step(self, position: int, halves: dict[str, Tensor], counts: dict[str, int], telemetry: Telemetry) -> None:
        rate = warm_cosine(position, self.steps, peak=self.config.learning_rate, warmup=self.config.warmup)
        chance = seeded(self.config.seed, *divmod(position, self.sampler.steps))
        said = self.learner.step(halves, counts, chance, rate)
        telemetry.add(said.losses, said.conflict, learning_rate=rate, cells=sum(counts.values()))
        telemetry.features = said.features
        every = self.config.groups_every
        if every and position % self.sampler.steps % every == 0 and len(said.gradients) > 1:
            telemetry.add_groups(group_cosines(self.learner.names, said.gradients))

    def _watch(self, log: list[dict[str, float]], position: int) -> None:
        contrast = log[-1].get("contrast_over_chance", 0.0)
        if self.config.stop_on_collapse and position * 2 >= self.steps and contrast > COLLAPSED:
            raise refuse("contrast", f"below {COLLAPSED} of its chance value after half of the training",
                         f"{contrast:.3f}: the encoder has collapsed",
                         "Lower `similarity_weight`, or set `surgery` to ags-one-way.")

    def _save(self, position: int, log: list[dict[str, float]], telemetry: Telemetry) -> None:
        if self.team.leads:
            state = {"position": position, "log": log, "telemetry": telemetry.state()}
            save_checkpoint(self.work / "checkpoint.safetensors", self.learner.tensors(), state)

    def _resume(self) -> tuple[int, list[dict[str, float]], Telemetry]:
        checkpoint = load_checkpoint(self.work / "checkpoint.safetensors")
        if checkpoint is None:
            return 0, [], Telemetry()
        tensors, state = checkpoint
        self.learner.restore(tensors)
        return state["position"], state["log"], Telemetry(state["telemetry"])


def write_tensorboard(directory: Path, log: list[dict[str, float]]) -> None:
    """The log as TensorBoard's events, a point an epoch.

    Raises:
        InputError: If TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise refuse("tensorboard", "off, or TensorBoard installed", "no TensorBoard",
                     "Run `pip install milscope[tensorboard]`.") from error
    with SummaryWriter(str(directory)) as writer:
        for row in log:
            for name, value in row.items():
                writer.add_scalar(f"pretrain/{name}", value, int(row["epoch"]))
