"""Training: slide models learn from features and slide labels; the best on validation slides is kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from milscope.aggregators import ENSEMBLE, Aggregator, aggregator_class, restored
from milscope.candidates import Candidates, Member, candidate_names, rows_of
from milscope.card import card_of
from milscope.cohorts import COHORTS, Cohort, check_classes, check_promise, check_settings, parts, places, read_cohort
from milscope.configs import TrainConfig
from milscope.fitting import Computer, Lesson, Slides
from milscope.models import calibrated, operating_points, record_of, write_model
from milscope.operating import Operating
from milscope.progress import progress
from milscope.slides import read_slides
from milscope.store import (
    Manifest,
    Packed,
    Stage,
    feature_slides,
    fingerprint,
    open_features,
    pack_features,
    read_features,
    write_text,
)
from milscope.tasks import Questions, mean_measure
from milscope.types import refuse
from milscope.validation import validation_intervals


class Trained(NamedTuple):
    """The model's directory, which aggregator was chosen, and how it does on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float
    warnings: list[str]


def train(
    features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: TrainConfig | None = None
) -> Trained:
    """Trains every aggregator of the settings on the training slides and keeps the best on the validation slides.

    Test slides are neither read nor counted. Slides of the table that have no features are left out and named in the
    manifest's summary. With an `ensemble` or several `seeds` the model is the mean of theirs. If a sensitivity is asked for, a
    share of the validation patients is set aside before anything is learned, and only the threshold is chosen on them.

    Args:
        features: A `features` artifact (`encode`), or a folder of features as other tools write them.
        slides: The slide table with labels and split.
        out: Directory of the model: model.json, model.safetensors, card.md, log.csv, candidates.csv.
        config: Settings; the defaults of `TrainConfig` if None.

    Raises:
        InputError: If the split is missing, training or validation slides of a class are, an aggregator is unknown,
            a feature is not finite, there are too few patients for the threshold, or the training diverges.
    """
    config = config or TrainConfig()
    _check(config)
    origin = open_features(Path(features))
    cohort = read_cohort(feature_slides(Path(features)), read_slides(slides), config)
    check_promise(cohort, config)
    inputs = {"features": origin.fingerprint, "slides": fingerprint(cohort.used.to_dict("list"))}
    with Stage(Path(out), "model", config, inputs, [*origin.patients, *cohort.used["patient"]]) as stage:
        if not stage.done:
            run = _Training(Path(features), cohort, config, stage.work)
            stage.summary.update(run.run(origin))
            write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
    found = stage.manifest.summary
    return Trained(Path(out), found["aggregator"], found["validation_loss"], found["validation_auc"], found["warnings"])


class _Training:
    """All members of the model, one after the other, and what follows from their answers."""

    def __init__(self, features: Path, cohort: Cohort, config: TrainConfig, work: Path) -> None:
        self.features, self.cohort, self.config, self.work = features, cohort, config, work
        self.computer = Computer.of(config)

    def run(self, origin: Manifest) -> dict[str, Any]:
        """Writes the model and how it came to be; gives the manifest's summary."""
        file = self.work / "packed"
        packed = pack_features(self.features, self.cohort.table["slide"].tolist(), file, self.computer.precision)
        table = self.cohort.table[self.cohort.table["slide"].isin(packed.slides)].reset_index(drop=True)
        questions = self.cohort.questions
        check_classes(questions, table, [*self.cohort.missing, *packed.empty])
        slides = Slides(packed.bags, questions.targets(table))
        lessons = [Lesson(slides, *places(part, table["slide"]), questions, packed.scale)
                   for part in parts(table, questions, self.config)]
        members = self._members(lessons)
        held, answers = self._answers(members, lessons, slides)
        questions = calibrated(questions, answers, slides.targets, held, self.config)
        operating, warnings = self._operating(members, questions)
        summary = _summary(members, questions, answers[held], slides.targets[held])
        patients = table["patient"].iloc[held.numpy()].tolist()
        sure = validation_intervals(questions, answers[held], slides.targets[held], patients)
        summary["validation_intervals"] = {name: each._asdict() for name, each in sure.items()}
        self._write(members, {**summary, **record_of(self.cohort.questions, table, self.cohort.aside, _encoding(origin)),
                              "tasks": [task.describe() for task in questions.tasks],
                              "operating": {name: each._asdict() for name, each in operating.items()}})
        file.unlink()
        counts = {split: table["split"] == split for split in COHORTS}
        lengths = packed.bags.lengths.numpy()
        return {**summary, "slides": {split: int(own.sum()) for split, own in counts.items()},
                "cells": {split: int(lengths[own].sum()) for split, own in counts.items()},
                "skipped": [*self.cohort.missing, *packed.empty],
                "warnings": [*outside_warnings(origin), *_left_out(self.cohort, packed), *warnings]}

    def _members(self, lessons: Sequence[Lesson]) -> dict[int, Member]:
        """One of each part and seed; the first is of the first part and the seed of the settings."""
        members: dict[int, Member] = {}
        epochs = len(candidate_names(self.config)) * self.config.epochs
        with progress("train", len(lessons) * self.config.seeds * epochs, "epochs") as advance:
            for seed in range(self.config.seeds):
                config = replace(self.config, seed=self.config.seed + seed)
                for lesson in lessons:
                    number = len(members)
                    members[number] = Candidates(lesson, config, self.work / f"checkpoint-{number}.safetensors").run(advance)
        return members

    def _answers(self, members: Mapping[int, Member], lessons: Sequence[Lesson], slides: Slides,
                 ) -> tuple[Int[Tensor, " held"], Float[Tensor, "slide logit"]]:
        """The slides that validated, and the logits of all: the mean over members for which they did, else over the others."""
        count = slides.bags.n_slides
        sums, votes = torch.zeros(2, count, members[0].model.classes), torch.zeros(2, count, 1)
        for number, member in members.items():
            lesson = lessons[number % len(lessons)]
            for kind, own in enumerate((lesson.train, lesson.validation)):
                sums[kind, own] += self.computer.answer(member.model, slides.bags, own)
                votes[kind, own] += 1
        held = votes[1, :, 0] > 0
        return held.nonzero().flatten(), torch.where(held[:, None], sums[1] / votes[1], sums[0] / votes[0])

    def _operating(self, members: Mapping[int, Member], questions: Questions) -> tuple[dict[str, Operating], list[str]]:
        """The operating points of the tasks, from the slides set aside."""
        if self.config.sensitivity is None:
            return {}, []
        table = self.cohort.aside
        logits, filled = score_slides(_joined(members), self.features, table["slide"].tolist())
        return operating_points(questions, logits, table[filled], self.config)

    def _write(self, members: Mapping[int, Member], record: Mapping[str, Any]) -> None:
        """The checkpoints are of no more use then."""
        log, tried = rows_of(members)
        write_model(self.work, _joined(members), record)
        write_text(self.work / "log.csv", _table(log, len(members)).to_csv(index=False))
        candidates = _table(tried, len(members)).rename(columns={"epoch": "best_epoch"})
        columns = [name for name in candidates if name not in ("train_loss", "learning_rate")]
        write_text(self.work / "candidates.csv", candidates[columns].to_csv(index=False))
        for number in members:
            (self.work / f"checkpoint-{number}.safetensors").unlink(missing_ok=True)


def _encoding(origin: Manifest) -> dict[str, Any]:
    """How the cells became features."""
    return {"encoder": origin.inputs.get("encoder", ""), "encoder_name": origin.summary.get("encoder", ""),
            "cells": origin.summary.get("tile", {})}


def outside_warnings(origin: Manifest) -> list[str]:
    """What is to be said of features that milscope did not write itself."""
    return [] if origin.created else list(origin.summary.get("warnings", []))


@torch.inference_mode()
def score_slides(model: Aggregator, features: Path, slides: Sequence[str],
                 ) -> tuple[Float[Tensor, "scored logit"], Bool[np.ndarray, " slide"]]:
    """The logits of slides with cells, read one at a time, in float32, as `predict` computes them; and which have any."""
    bags = (read_features(features, [slide]) for slide in slides)
    found = [model(own).logits if len(own.features) else None for own in bags]
    scored = [logits for logits in found if logits is not None]
    return torch.cat([torch.empty(0, model.classes), *scored]), np.array([logits is not None for logits in found], dtype=bool)


def _joined(members: Mapping[int, Member]) -> Aggregator:
    """The model itself, or the mean of several; on the processor, where it predicts."""
    first = members[0].model.cpu()
    if len(members) == 1:
        return first
    described = [(member.best["aggregator"], member.model.options) for member in members.values()]
    weights = {f"members.{number}.{name}": tensor for number, member in members.items()
               for name, tensor in member.model.state_dict().items()}
    scale = {name: getattr(torch, fill)(len(first.mean)) for name, fill in (("mean", "zeros"), ("deviation", "ones"))}
    options = {"features": len(first.mean), "classes": first.classes, "members": described}
    return restored(ENSEMBLE, options, {**scale, **weights})


def _summary(members: Mapping[int, Member], questions: Questions, answers: Float[Tensor, "slide logit"],
             targets: Float[Tensor, "slide column"]) -> dict[str, Any]:
    """Of one model its best epoch; of several their mean loss, and the measure of answers about slides not learned from."""
    rows = [member.best for member in members.values()]
    measures = questions.measures(answers, targets)
    alone = len(members) == 1
    return {"aggregator": rows[0]["aggregator"] if alone else ENSEMBLE, "members": [row["aggregator"] for row in rows],
            "task": questions.tasks[0].name, "best_epoch": rows[0]["epoch"] if alone else [row["epoch"] for row in rows],
            "validation_loss": sum(row["validation_loss"] for row in rows) / len(rows),
            "validation_auc": rows[0]["validation_auc"] if alone else mean_measure(list(measures.values())),
            "validation": measures}


def _table(rows: Sequence[Mapping[str, Any]], members: int) -> pd.DataFrame:
    """Rows as a table; the number of the member is said only if there are several."""
    table = pd.DataFrame(rows)
    return table if members > 1 else table.drop(columns="member")


def _left_out(cohort: Cohort, packed: Packed) -> list[str]:
    notes = [(cohort.missing, "without features"), (packed.empty, "without cells")]
    return [f"{len(names)} slides {what} were left out of training: {', '.join(names)}" for names, what in notes if names]


def _check(config: TrainConfig) -> None:
    if not config.aggregators:
        raise refuse("aggregators", "at least one name", "none", "Name one, such as `abmil-gated`.")
    for name in (*config.aggregators, *config.options):
        aggregator_class(name)
    for name in ("epochs", "patience", "batch", "cells", "ensemble", "seeds"):
        if getattr(config, name) < 1:
            raise refuse(name, "at least 1", getattr(config, name), "Correct it.")
    check_settings(config)
