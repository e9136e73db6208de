"""End to end: encoder and slide model learn together from cells and slide labels, within the memory there is."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from milscope.aggregators import aggregator_class
from milscope.card import card_of
from milscope.cohorts import Cohort, check_classes, check_promise, check_settings, places, read_cohort
from milscope.configs import EndToEndConfig
from milscope.distributed import Team, team
from milscope.encoders import Encoder
from milscope.endtoend._networks import Moved, Networks
from milscope.endtoend._rows import Rows
from milscope.endtoend._step import Asked, Step
from milscope.endtoend._training import Lesson, Training
from milscope.learner import own_device
from milscope.memory import Plan, bytes_of, plan_memory
from milscope.models import calibrated, operating_points, record_of, write_model
from milscope.progress import note
from milscope.samplers import make_sampler
from milscope.slides import read_slides
from milscope.store import (
    CellStore,
    Manifest,
    Stage,
    fingerprint,
    fingerprint_files,
    read_manifest,
    windows,
    write_text,
)
from milscope.tasks import JointLoss
from milscope.types import refuse
from milscope.validation import validation_intervals

SCALE_ROWS = 4096
"""Rows by which the features are standardised."""


class EndToEnd(NamedTuple):
    """The directory with `encoder/` and `model/`, and how they do on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float
    memory: str
    """How much was done at a time, and what it was to take."""
    warnings: list[str]


def endtoend(cells: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: EndToEndConfig | None = None, *,
             init: Path | str | None = None) -> EndToEnd:
    """Trains an encoder and a slide model on the cells and labels of the training slides, and keeps the best epoch.

    Test slides are neither read nor counted. The result holds two artifacts, with which the flow goes on: `encode` takes
    `encoder/`, `predict` takes the features and `model/`, and looks at all cells of a slide. Under torchrun the processes
    share every step.

    Args:
        cells: A `cells` artifact (`tile`).
        slides: The slide table with labels and split.
        out: Directory of the result: encoder/, model/, log.csv.
        config: Settings; the defaults of `EndToEndConfig` if None.
        init: An `encoder` artifact to start from; its patients count as seen.

    Raises:
        InputError: If the split is missing, training or validation slides of a class are, a setting is out of range, the
            memory does not suffice, there are too few patients for the threshold, or the training diverges.

    Source:
        Tang et al., Revisiting End-to-End Learning with Slide-level Supervision in Computational Pathology, arXiv
        2506.02408, 2025. With `init`: SLAM-AGS (arXiv 2511.14639), third stage. The epoch is chosen on validation patients
        (theirs, in two configurations, on the test patients), and nothing is padded.
    """
    config = _checked(config or EndToEndConfig())
    store = CellStore(cells)
    cohort = read_cohort(store.slides, read_slides(slides), config)
    check_promise(cohort, config)
    origin = None if init is None else read_manifest(Path(init), "encoder")
    inputs = {"cells": store.manifest.fingerprint, "slides": fingerprint(cohort.used.to_dict("list"))}
    if origin is not None:
        inputs["init"] = origin.fingerprint
    if Path(config.weights).is_file():
        inputs["weights"] = fingerprint_files([Path(config.weights)])
    patients = {*cohort.used["patient"], *(origin.patients if origin else ())}
    with team(own_device(config.device)) as together:
        with Stage(Path(out), "endtoend", config, inputs, patients, leads=together.leads) as stage:
            together.wait()
            if not stage.done:
                _Run(store, cohort, config, stage.work, together).run(Path(init) if init is not None else None, stage.planned)
        together.wait()
    found = stage.manifest.summary
    return EndToEnd(Path(out), **{name: found[name] for name in EndToEnd._fields[1:]})


class _Run:
    """One training from its data to its two artifacts."""

    def __init__(self, store: CellStore, cohort: Cohort, config: EndToEndConfig, work: Path, together: Team) -> None:
        self.store, self.cohort, self.config, self.work, self.team = store, cohort, config, work, together
        check_classes(cohort.questions, cohort.table, cohort.missing)
        self.table = pd.concat([cohort.table, cohort.aside], ignore_index=True)
        self.known = len(cohort.table)
        self.device = own_device(config.device)

    def run(self, init: Path | None, planned: Manifest) -> None:
        """Trains, and writes everything."""
        questions, table = self.cohort.questions, self.cohort.table
        networks = Networks(self.config, questions.widths, init, trained=_trained(init, self.config))
        kind = torch.float64 if self.config.precision == "float64" else torch.float32
        networks = networks.to(self.device, kind, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        rows = self._rows(networks.encoder)
        train, held = places(table, table["slide"])
        targets = questions.targets(self.table)
        loss = JointLoss.of(questions, targets[train], self.config.loss, weighted=self.config.balance == "weights")
        asked = Asked(questions, loss, targets)
        plan = self._plan(networks, rows, train.tolist())
        sampler = make_sampler(self.config, plan.budget)
        moved = Moved(networks, self.config)
        step = Step(moved, rows, asked, sampler=sampler, plan=plan, config=self.config, team=self.team)
        step.fit_scale(train, SCALE_ROWS)
        training = Training(moved, rows, Lesson(asked, train, held), step=step, work=self.work)
        kept = training.run()
        answers = training.answers(torch.arange(len(self.table)))
        if self.team.leads:
            self._write(kept.cpu().float().eval(), training, answers, planned)
        self.team.wait()

    def _rows(self, encoder: Encoder) -> Rows:
        """The decoded cells; one process decodes them, the others find them done."""
        slides = self.table["slide"].tolist()
        options: dict[str, Any] = {"like": next(encoder.parameters()), "size": encoder.size, "work": self.work}
        first = Rows(self.store, slides, self.config, **options) if self.team.leads else None
        self.team.wait()
        return first or Rows(self.store, slides, self.config, **options)

    def _plan(self, networks: Networks, rows: Rows, train: list[int]) -> Plan:
        """How much is done at a time; made once, and kept for a resumed training."""
        file = self.work / "plan.json"
        if self.team.leads and not file.exists():
            plan = plan_memory(self.config, networks.encoder, networks.aggregator, side=rows.side,
                               rows=[rows.count(slide) for slide in train], device=self.device)
            write_text(file, json.dumps({**plan._asdict(), "precision": str(plan.precision).removeprefix("torch.")}))
        self.team.wait()
        found = json.loads(file.read_text())
        note("endtoend", found["said"])
        return Plan(**{**found, "precision": getattr(torch, found["precision"])})

    def _write(self, kept: Networks, training: Training, answers: torch.Tensor, planned: Manifest) -> None:
        """The two artifacts, and how they came to be."""
        encoder = self._write_encoder(kept.encoder, training, planned)
        summary = self._write_model(kept, training, answers, planned, encoder)
        shutil.copy2(self.work / "model/log.csv", self.work / "log.csv")
        plan = training.plan
        planned.summary.update(summary, epochs=len(training.log), encoder=kept.encoder.name, chunk=plan.chunk,
                               budget=plan.budget, precision=str(plan.precision).removeprefix("torch."), memory=plan.said,
                               gigabytes=max(row["gigabytes"] for row in training.log), processes=self.team.ranks,
                               cells=sum(training.rows.cells))
        for name in ("checkpoint.safetensors", "pixels.npy", "plan.json"):
            (self.work / name).unlink(missing_ok=True)

    def _write_encoder(self, encoder: Encoder, training: Training, planned: Manifest) -> Manifest:
        with Stage(self.work / "encoder", "encoder", self.config, planned.inputs, planned.patients) as stage:
            if not stage.done:
                encoder.save(stage.work)
                extent = self.store.extent(self.table["slide"])
                stage.summary.update(task=self.cohort.questions.tasks[0].name, encoder=encoder.name, epochs=len(training.log),
                                     extent=extent if math.isfinite(extent) else None, contrast_over_chance=None,
                                     collapsed=False, cells=sum(training.rows.cells), processes=self.team.ranks)
        return stage.manifest

    def _write_model(self, kept: Networks, training: Training, answers: torch.Tensor, planned: Manifest,
                     encoder: Manifest) -> dict[str, Any]:
        lesson, table = training.lesson, self.cohort.table
        held, targets = lesson.validation, lesson.asked.targets
        known = slice(0, self.known)
        questions = calibrated(lesson.asked.questions, answers[known], targets[known], held, self.config)
        operating, warnings = operating_points(questions, answers[self.known :], self.cohort.aside, self.config)
        best = {name: value for name, value in (training.best or {}).items() if name != "aggregator"}
        patients = table["patient"].iloc[held.numpy()].tolist()
        sure = validation_intervals(questions, answers[held], targets[held], patients)
        summary: dict[str, Any] = {
            "aggregator": self.config.aggregator, "members": [self.config.aggregator], "task": questions.tasks[0].name,
            "best_epoch": best["epoch"], "validation_loss": best["validation_loss"],
            "validation_auc": best["validation_auc"], "validation": questions.measures(answers[held], targets[held]),
            "validation_intervals": {name: each._asdict() for name, each in sure.items()}}
        origin = {"encoder": encoder.fingerprint, "encoder_name": kept.encoder.name, "cells": self.store.manifest.config}
        record = {**summary, **record_of(questions, table, self.cohort.aside, origin),
                  "tasks": [task.describe() for task in questions.tasks],
                  "operating": {name: each._asdict() for name, each in operating.items()}}
        if self.cohort.missing:
            warnings = [f"{len(self.cohort.missing)} slides without cells were left out: {', '.join(self.cohort.missing)}",
                        *warnings]
        with Stage(self.work / "model", "model", self.config, {"encoder": encoder.fingerprint}, planned.patients) as stage:
            if not stage.done:
                write_model(stage.work, kept.aggregator, record)
                _write_log(training, stage.work)
                stage.summary.update(summary, warnings=warnings)
                write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
        return {**summary, "warnings": warnings}


def _write_log(training: Training, work: Path) -> None:
    """The epochs, and the best of them, as `train` writes them."""
    pd.DataFrame(training.log).to_csv(work / "log.csv", index=False, float_format="%.6g")
    best = pd.DataFrame([training.best])[["aggregator", "epoch", "validation_loss", "validation_auc"]].assign(chosen=True)
    best.rename(columns={"epoch": "best_epoch"}).to_csv(work / "candidates.csv", index=False)


def _trained(init: Path | None, config: EndToEndConfig) -> bool:
    """Whether the encoder has learned anything before."""
    if init is None:
        return bool(config.weights)
    origin = read_manifest(init, "encoder")
    return bool(origin.patients or origin.config.get("weights"))


def _checked(config: EndToEndConfig) -> EndToEndConfig:
    aggregator_class(config.aggregator)
    windows(config.scales, config.windows)
    bytes_of(config.memory)
    make_sampler(config, max(1, config.budget))
    check_settings(config)
    least = {"budget": 0, "chunk": 0, "size": 0, "margin": 1, "epochs": 1, "patience": 1, "batch": 1, "warmup": 0,
             "colour": 0, "stain": 0, "cache": 0}
    for name, bound in least.items():
        if not getattr(config, name) >= bound:
            raise refuse(name, f"at least {bound}", getattr(config, name), "Give a larger one.")
    if not 0 <= config.average < 1:
        raise refuse("average", "at least 0 and below 1", config.average, "Correct it.")
    return config
