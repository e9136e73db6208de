"""Pretraining: an encoder learns from the cells of training slides and the slides' labels, and from nothing else."""

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save_file
from torch import Tensor, nn

from milscope.augment import Views
from milscope.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    seeded,
    step_seed,
)
from milscope.configs import PretrainConfig
from milscope.encoders import Encoder, Projector, choose_device, choose_precision, mixed_precision
from milscope.objectives import NTXent, Similarity
from milscope.progress import progress
from milscope.slides import labels, read_slides
from milscope.store import CellStore, HalvesSampler, Pixels, Stage, fingerprint
from milscope.surgery import SURGERIES
from milscope.telemetry import Telemetry
from milscope.types import refuse

CHECKPOINT_SECONDS = 30
COLLAPSED = 0.95
"""A contrast above this share of its chance value means that projections are alike."""


class Pretrained(NamedTuple):
    """The encoder's directory, and how its training ended."""

    directory: Path
    epochs: int
    cells: int
    contrast_over_chance: float | None
    """Contrast loss over its chance value log(2B - 1) in the last epoch: 1 is collapse; None if untrained."""
    collapsed: bool


def pretrain(cells: Path | str, slides: Path | str | pd.DataFrame, out: Path | str,
             config: PretrainConfig | None = None) -> Pretrained:
    """Trains an encoder on the cells of the training slides: contrast on positive, similarity on negative slides.

    The two gradients are joined by surgery. Cells of validation and test patients are never seen; the artifact
    records the patients that were.

    Args:
        cells: A `cells` artifact (`tile`).
        slides: The slide table with labels and split.
        out: Directory of the encoder.
        config: Settings; the defaults of `PretrainConfig` if None.

    Raises:
        InputError: If there are no positive or no negative training slides with cells, or the training collapses and
            `stop_on_collapse` is set.

    Source:
        SLAM-AGS (arXiv 2511.14639), first stage. One epoch sees every cell once (the authors' about 5 %), both views of
        both halves go through one forward pass, and the encoder's output is the feature, not the projection.
    """
    config = _checked(config or PretrainConfig())
    store = CellStore(cells)
    task, table = training_slides(store, slides, config.task)
    learned = table[["slide", "patient", task]].to_dict("list")
    inputs = {"cells": store.manifest.fingerprint, "labels": fingerprint([task, learned])}
    with Stage(Path(out), "encoder", config, inputs, table["patient"]) as stage:
        if not stage.done:
            extent = store.extent(table["slide"])
            stage.summary.update(task=task, extent=extent if math.isfinite(extent) else None)
            _Training(store, table, task, config, stage.work).run(stage.summary)
    summary = stage.manifest.summary
    return Pretrained(Path(out), **{name: summary[name] for name in Pretrained._fields[1:]})


def training_slides(store: CellStore, slides: Path | str | pd.DataFrame, task: str) -> tuple[str, pd.DataFrame]:
    """The labelled training slides that have cells, and the task's name.

    Raises:
        InputError: If the table has no split, or training slides of one label only.
    """
    task, table = labels(read_slides(slides), task)
    if not (table["split"] == "train").any():
        raise refuse("split", "a column with train, validation and test", "no training slides", "Run `milscope split`.")
    table = table[(table["split"] == "train") & table[task].notna() & table["slide"].isin(store.slides)]
    if table[task].nunique() < 2:
        counts = table[task].value_counts().to_dict()
        raise refuse("slides", "positive and negative among the training slides with cells", counts, "Add slides.")
    return task, table.sort_values("slide", ignore_index=True)


def _checked(config: PretrainConfig) -> PretrainConfig:
    least = {"size": 8, "epochs": 0, "batch": 4, "projection": 1, "margin": 1, "contrast_weight": 0, "similarity_weight": 0,
             "learning_rate": 0, "weight_decay": 0, "warmup": 0, "colour": 0, "cache": 0}
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise refuse(name, f"at least {bound}", getattr(config, name), "Give a larger one.")
    for name in ("contrast_temperature", "similarity_temperature"):
        if not getattr(config, name) > 0:
            raise refuse(name, "above 0", getattr(config, name), "The published one is 0.07.")
    return config


class _Training:
    """Networks, data and position of one pretraining."""

    def __init__(self, store: CellStore, table: pd.DataFrame, task: str, config: PretrainConfig, work: Path) -> None:
        self.config, self.work = config, work
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self._build_networks()
        if config.epochs:
            side = math.ceil(config.size * config.margin)
            self.pixels = Pixels(store, list(table["slide"]), size=side, cache=work / "pixels.npy", budget=config.cache)
            positive = np.repeat(table[task].to_numpy() == 1, np.diff(self.pixels.starts))
            self.sampler = HalvesSampler(np.flatnonzero(positive), np.flatnonzero(~positive),
                                         batch=config.batch, seed=config.seed)

    def _build_networks(self) -> None:
        config = self.config
        with torch.random.fork_rng():
            torch.manual_seed(step_seed(config.seed, -1))
            encoder = Encoder(config.encoder, size=config.size, options=config.encoder_options)
            projector = Projector(encoder.features, config.projection)
        self.encoder = encoder.to(self.device, memory_format=torch.channels_last).train()  # ty: ignore[no-matching-overload]
        self.projector = projector.to(self.device).train()
        self.networks = nn.ModuleDict({"encoder": self.encoder, "projector": self.projector})
        self.parameters = list(self.networks.parameters())
        self.views = Views(config.size, colour=config.colour)
        self.contrast, self.similarity = NTXent(config.contrast_temperature), Similarity(config.similarity_temperature)
        self.surgery = SURGERIES[config.surgery](config.rescale_bound)
        if config.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters, config.learning_rate, momentum=0.9, weight_decay=config.weight_decay, foreach=True)
        else:
            self.optimizer = torch.optim.AdamW(
                self.parameters, config.learning_rate, weight_decay=config.weight_decay, foreach=True)

    def run(self, summary: dict[str, Any]) -> None:
        """Trains from where an earlier attempt was killed, writes the encoder, and says how it ended."""
        log = self._train() if self.config.epochs else []
        columns = Telemetry.COLUMNS if not log else list(log[0])
        pd.DataFrame(log, columns=columns).to_csv(self.work / "log.csv", index=False, float_format="%.6g")
        self.encoder.save(self.work)
        save_file(self.projector.state_dict(), self.work / "projector.safetensors")
        for name in ("checkpoint.safetensors", "pixels.npy"):
            (self.work / name).unlink(missing_ok=True)
        last = log[-1]["contrast_over_chance"] if log else None
        summary.update(epochs=len(log), cells=len(self.pixels) if log else 0, contrast_over_chance=last,
                       collapsed=last is not None and last > COLLAPSED, encoder=self.config.encoder)

    def _train(self) -> list[dict[str, float]]:
        epoch, step, log, telemetry = self._resume()
        total = self.config.epochs * self.sampler.steps
        saved = time.monotonic()
        done = round((epoch + step / self.sampler.steps) * len(self.pixels))
        with progress("pretrain", self.config.epochs * len(self.pixels), "cells", done) as advance:
            while epoch < self.config.epochs:
                for positive, negative in self._batches(epoch, step, telemetry):
                    rate = self._learning_rate(epoch * self.sampler.steps + step, total)
                    self._step(positive, negative, seeded(self.config.seed, epoch, step), rate, telemetry)
                    advance(len(positive) + len(negative))
                    step += 1
                    if time.monotonic() - saved > CHECKPOINT_SECONDS and step < self.sampler.steps:
                        self._save(epoch, step, log, telemetry)
                        saved = time.monotonic()
                log.append({"epoch": epoch + 1, **telemetry.close()})
                self._watch(log)
                epoch, step, telemetry, saved = epoch + 1, 0, Telemetry(), time.monotonic()
                self._save(epoch, step, log, telemetry)
        return log

    def _batches(self, epoch: int, start: int, telemetry: Telemetry) -> Iterator[tuple[Tensor, Tensor]]:
        """The cells of each step, the next ones fetched while the present ones are used."""
        steps = list(self.sampler.epoch(epoch, start))
        fetch = lambda step: tuple(torch.from_numpy(self.pixels[rows]) for rows in step)  # noqa: E731
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(fetch, steps[0])
            for following in [*steps[1:], None]:
                with telemetry.waiting():
                    ready = ahead.result()
                if following is not None:
                    ahead = thread.submit(fetch, following)
                positive, negative = (part.to(self.device, non_blocking=True) for part in ready)
                yield positive, negative

    def _step(self, positive: UInt8[Tensor, "p side side 3"], negative: UInt8[Tensor, "n side side 3"],
              generator: torch.Generator, rate: float, telemetry: Telemetry) -> None:
        cells = torch.cat([positive, positive, negative, negative])
        views = self.views(cells, generator)
        with mixed_precision(self.device, self.precision):
            features = self.encoder(views)
            projections = self.projector(features)
        contrast, similarity = self._losses(projections.float(), len(positive))
        weighted = (self.config.contrast_weight * contrast, self.config.similarity_weight * similarity)
        gradients = [torch.autograd.grad(loss, self.parameters, retain_graph=keep)
                     for loss, keep in zip(weighted, (True, False), strict=True)]
        joined, conflict = self.surgery(gradients)
        for parameter, gradient in zip(self.parameters, joined, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            telemetry.add(contrast=contrast, contrast_over_chance=contrast / NTXent.chance(max(2, len(positive))),
                          similarity=similarity, conflict=conflict, learning_rate=rate, cells=len(cells) // 2)
            telemetry.features = features.detach()

    def _losses(self, projections: Float[Tensor, "view projection"], positive: int) -> tuple[Tensor, Tensor]:
        of_positive = projections[: 2 * positive].unflatten(0, (2, -1))
        of_negative = projections[2 * positive :].unflatten(0, (2, -1))
        return self.contrast(of_positive), self.similarity(of_negative)

    def _learning_rate(self, step: int, total: int) -> float:
        """Linear warm-up, then half a cosine to zero."""
        warmup = max(1, round(self.config.warmup * total))
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def _watch(self, log: list[dict[str, float]]) -> None:
        past_half = len(log) * 2 >= self.config.epochs
        if self.config.stop_on_collapse and past_half and log[-1]["contrast_over_chance"] > COLLAPSED:
            raise refuse("contrast", f"below {COLLAPSED} of its chance value after half of the training",
                         f"{log[-1]['contrast_over_chance']:.3f}: the encoder has collapsed",
                         "Lower `similarity_weight`, or set `surgery` to ags-one-way.")

    def _save(self, epoch: int, step: int, log: list[dict[str, float]], telemetry: Telemetry) -> None:
        tensors = {**self.networks.state_dict(), **optimizer_tensors(self.optimizer)}
        state = {"epoch": epoch, "step": step, "log": log, "telemetry": telemetry.state()}
        save_checkpoint(self.work / "checkpoint.safetensors", tensors, state)

    def _resume(self) -> tuple[int, int, list[dict[str, float]], Telemetry]:
        checkpoint = load_checkpoint(self.work / "checkpoint.safetensors")
        if checkpoint is None:
            return 0, 0, [], Telemetry()
        tensors, state = checkpoint
        self.networks.load_state_dict({name: tensors[name] for name in self.networks.state_dict()})
        restore_optimizer(self.optimizer, tensors)
        return state["epoch"], state["step"], state["log"], Telemetry(state["telemetry"])
