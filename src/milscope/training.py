"""Slide models from features and labels: all members of a model, one after the other, and what follows from their answers."""

from collections.abc import Callable, Mapping, Sequence
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
from milscope.cohorts import COHORTS, Cohort, check_classes, check_settings, parts, places
from milscope.configs import TrainConfig
from milscope.fitting import Computer, Lesson, Marks, Slides
from milscope.models import calibrated, operating_points, record_of, write_model
from milscope.objectives import Guide
from milscope.operating import Operating
from milscope.progress import progress
from milscope.store import Manifest, Packed, Scale, pack_features, read_features, write_text
from milscope.tasks import Questions, mean_measure
from milscope.types import refuse
from milscope.validation import validation_intervals


class Start(NamedTuple):
    """A model that goes on learning: it answers some questions already, which are not asked again, and then new ones."""

    model: Aggregator
    questions: Questions
    """Those it answers already."""


class Learned(NamedTuple):
    """What came of a training, of the questions that were asked."""

    model: Aggregator
    held: Int[Tensor, " held"]
    """Numbers of the slides that validated."""
    targets: Float[Tensor, "slide column"]
    questions: Questions
    """With what turns their logits into probabilities."""
    record: dict[str, Any]
    """What model.json says."""
    summary: dict[str, Any]
    """What the manifest says."""


class Training:
    """All members of the model, one after the other, and what follows from their answers.

    Args:
        features: Where the features are.
        cohort: The slides and what is asked about them.
        config: The settings.
        work: Where the model and how it came to be are written.
        guide: A teacher beside the labels, with an answer for every slide that has cells.
        start: A model to go on from.
        marks: Finds the judged cells of packed slides.
    """

    def __init__(self, features: Path, cohort: Cohort, config: TrainConfig, work: Path, *, guide: Guide | None = None,
                 start: Start | None = None, marks: Callable[[Packed], Marks] | None = None) -> None:
        self.features, self.cohort, self.config, self.work = features, cohort, config, work
        self.guide, self.start, self.marks, self.computer = guide, start, marks, Computer.of(config)

    def run(self, origin: Manifest) -> Learned:
        """Trains, and writes how it came to be; `write` writes the model."""
        file = self.work / "packed"
        scale = None if self.start is None else Scale(self.start.model.mean.double(), self.start.model.deviation.double())
        packed = pack_features(self.features, self.cohort.table["slide"].tolist(), file, self.computer.precision, scale)
        table = self.cohort.table[self.cohort.table["slide"].isin(packed.slides)].reset_index(drop=True)
        questions = self.cohort.questions
        check_classes(questions, table, [*self.cohort.missing, *packed.empty])
        slides = self._slides(packed, table)
        asked = questions if self.start is None else Questions((*self.start.questions.tasks, *questions.tasks))
        model = None if self.start is None else self.start.model
        marks = None if self.marks is None else self.marks(packed)
        lessons = [Lesson(slides, *places(part, table["slide"]), asked, packed.scale, self.guide, model, marks)
                   for part in parts(table, questions, self.config)]
        members = self._members(lessons)
        held, answers = self._answers(members, lessons, slides)
        targets = questions.targets(table)
        questions = calibrated(questions, answers, targets, held, self.config)
        operating, warnings = self._operating(members, questions)
        told = _told(members, questions, answers[held], targets[held])
        patients = table["patient"].iloc[held.numpy()].tolist()
        sure = validation_intervals(questions, answers[held], targets[held], patients)
        told["validation_intervals"] = {name: each._asdict() for name, each in sure.items()}
        record = {**told, **record_of(self.cohort.questions, table, self.cohort.aside, encoding(origin)),
                  "tasks": [task.describe() for task in questions.tasks],
                  "operating": {name: each._asdict() for name, each in operating.items()}}
        summary = {**told, **self._counts(packed, table),
                   "warnings": [*outside_warnings(origin), *_left_out(self.cohort, packed), *warnings]}
        self._write_log(members)
        return Learned(_joined(members), held, targets, questions, record, summary)

    def write(self, learned: Learned, record: Mapping[str, Any]) -> None:
        """Writes the model; the checkpoints and the packed features are of no more use then."""
        write_model(self.work, learned.model, record)
        for leftover in (self.work / "packed", *self.work.glob("checkpoint-*.safetensors")):
            leftover.unlink(missing_ok=True)

    def _slides(self, packed: Packed, table: pd.DataFrame) -> Slides:
        """All slides; what was asked before has no labels, as it is not learned."""
        targets = self.cohort.questions.targets(table)
        columns = 0 if self.start is None else sum(len(task.columns) for task in self.start.questions.tasks)
        return Slides(packed.bags, torch.cat([targets.new_full((len(targets), columns), torch.nan), targets], 1))

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
        count, logits = slides.bags.n_slides, self.cohort.questions.outputs
        sums, votes = torch.zeros(2, count, logits), torch.zeros(2, count, 1)
        for number, member in members.items():
            lesson = lessons[number % len(lessons)]
            for kind, own in enumerate((lesson.train, lesson.validation)):
                sums[kind, own] += self.computer.answer(member.model, slides.bags, own)[:, -logits:]
                votes[kind, own] += 1
        held = votes[1, :, 0] > 0
        return held.nonzero().flatten(), torch.where(held[:, None], sums[1] / votes[1], sums[0] / votes[0])

    def _operating(self, members: Mapping[int, Member], questions: Questions) -> tuple[dict[str, Operating], list[str]]:
        """The operating points of the tasks, from the slides set aside."""
        if self.config.sensitivity is None:
            return {}, []
        table = self.cohort.aside
        logits, filled = slide_logits(_joined(members), self.features, table["slide"].tolist())
        return operating_points(questions, logits[:, -questions.outputs:], table[filled], self.config)

    def _counts(self, packed: Packed, table: pd.DataFrame) -> dict[str, Any]:
        """How many slides and cells were learned from, and which slides were left out."""
        counts = {split: table["split"] == split for split in COHORTS}
        lengths = packed.bags.lengths.numpy()
        return {"slides": {split: int(own.sum()) for split, own in counts.items()},
                "cells": {split: int(lengths[own].sum()) for split, own in counts.items()},
                "skipped": [*self.cohort.missing, *packed.empty]}

    def _write_log(self, members: Mapping[int, Member]) -> None:
        log, tried = rows_of(members)
        write_text(self.work / "log.csv", _table(log, len(members)).to_csv(index=False))
        candidates = _table(tried, len(members)).rename(columns={"epoch": "best_epoch"})
        columns = [name for name in candidates if name not in ("train_loss", "learning_rate")]
        write_text(self.work / "candidates.csv", candidates[columns].to_csv(index=False))


def check_training(config: TrainConfig) -> None:
    """Refuses settings that no training of slide models takes.

    Raises:
        InputError: If an aggregator is unknown, or a number is out of its range.
    """
    if not config.aggregators:
        raise refuse("aggregators", "at least one name", "none", "Name one, such as `abmil-gated`.")
    for name in (*config.aggregators, *config.options):
        aggregator_class(name)
    for name in ("epochs", "patience", "batch", "cells", "ensemble", "seeds"):
        if getattr(config, name) < 1:
            raise refuse(name, "at least 1", getattr(config, name), "Correct it.")
    check_settings(config)


@torch.inference_mode()
def slide_logits(model: Aggregator, features: Path, slides: Sequence[str],
                 ) -> tuple[Float[Tensor, "scored logit"], Bool[np.ndarray, " slide"]]:
    """The logits of slides with cells, read one at a time, in float32, as `predict` computes them; and which have any."""
    bags = (read_features(features, [slide]) for slide in slides)
    found = [model(own).logits if len(own.features) else None for own in bags]
    scored = [logits for logits in found if logits is not None]
    return torch.cat([torch.empty(0, model.classes), *scored]), np.array([logits is not None for logits in found], dtype=bool)


def encoding(origin: Manifest) -> dict[str, Any]:
    """How the cells became features."""
    return {"encoder": origin.inputs.get("encoder", ""), "encoder_name": origin.summary.get("encoder", ""),
            "cells": origin.summary.get("tile", {})}


def outside_warnings(origin: Manifest) -> list[str]:
    """What is to be said of features that milscope did not write itself."""
    return [] if origin.created else list(origin.summary.get("warnings", []))


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


def _told(members: Mapping[int, Member], questions: Questions, answers: Float[Tensor, "slide logit"],
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
