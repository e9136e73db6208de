"""Training: slide models learn from features and slide labels; the best on validation slides is kept."""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from milscope.card import card_of
from milscope.cohorts import Cohort, check_promise, read_cohort
from milscope.configs import CELL_WEIGHT, TrainConfig
from milscope.fitting import Marks
from milscope.judged import match_verdicts, read_verdicts
from milscope.slides import read_slides
from milscope.store import Bags, Packed, Stage, feature_slides, fingerprint, open_features, read_cells, write_text
from milscope.tasks import Graded
from milscope.training import Training, check_training
from milscope.types import refuse


class Trained(NamedTuple):
    """The model's directory, which aggregator was chosen, and how it does on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float
    warnings: list[str]


def train(features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: TrainConfig | None = None, *,
          cell_labels: Path | str | None = None, cell_weight: float = CELL_WEIGHT) -> Trained:
    """Trains every aggregator of the settings on the training slides and keeps the best on the validation slides.

    Test slides are neither read nor counted. Slides of the table that have no features are left out and named in the
    manifest's summary. With an `ensemble` or several `seeds` the model is the mean of theirs. If a sensitivity is asked for, a
    share of the validation patients is set aside before anything is learned, and only the threshold is chosen on them.

    Args:
        features: A `features` artifact (`encode`), or a folder of features as other tools write them.
        slides: The slide table with labels and split.
        out: Directory of the model: model.json, model.safetensors, card.md, log.csv, candidates.csv.
        config: Settings; the defaults of `TrainConfig` if None.
        cell_labels: Table of verdicts on cells, see `read_verdicts`: their evidence for the main task is learned, too, of
            cells of training slides.
        cell_weight: What the judged cells of a step count together, beside its slides.

    Raises:
        InputError: If the split is missing, training or validation slides of a class are, an aggregator is unknown,
            a feature is not finite, there are too few patients for the threshold, the training diverges, or no verdict is on
            a cell of a training slide.
    """
    config = config or TrainConfig()
    check_training(config)
    origin = open_features(Path(features))
    frame = read_slides(slides)
    cohort = read_cohort(feature_slides(Path(features)), frame, config)
    check_promise(cohort, config)
    if not cell_weight >= 0:
        raise refuse("cell_weight", "at least 0", cell_weight, "Correct it.")
    inputs = {"features": origin.fingerprint, "slides": fingerprint(cohort.used.to_dict("list"))}
    said = None if cell_labels is None else _Said(Path(features), read_verdicts(cell_labels), frame, cohort, config)
    if said is not None:
        inputs["cell_labels"] = fingerprint({"verdicts": said.own.to_dict("list"), "weight": cell_weight})
    with Stage(Path(out), "model", config, inputs, [*origin.patients, *cohort.used["patient"]]) as stage:
        if not stage.done:
            training = Training(Path(features), cohort, config, stage.work,
                                marks=None if said is None else functools.partial(said.marks, weight=cell_weight))
            learned = training.run(origin)
            training.write(learned, learned.record)
            stage.summary.update(learned.summary)
            if said is not None:
                stage.summary["verdicts"] = said.counts
                stage.summary["warnings"] = [*learned.summary["warnings"], *said.warnings()]
            write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
    found = stage.manifest.summary
    return Trained(Path(out), found["aggregator"], found["validation_loss"], found["validation_auc"], found["warnings"])


class _Said:
    """The verdicts that are learned from: those on cells of slides to learn from.

    Args:
        features: Where the features are.
        verdicts: As `read_verdicts` gives them.
        frame: The slide table.
        cohort: The slides to learn from and to choose with.
        config: The settings.

    Raises:
        InputError: If there are none, or the main task is of times.
    """

    def __init__(self, features: Path, verdicts: pd.DataFrame, frame: pd.DataFrame, cohort: Cohort,
                 config: TrainConfig) -> None:
        if not isinstance(task := cohort.questions.tasks[0], Graded):
            raise refuse("task", "one of classes first, for verdicts on cells", f"`{task.name}`, a time", "Name another.")
        splits = ("train",) if config.ensemble == 1 else ("train", "validation")
        rows = cohort.table[cohort.table["split"].isin(splits)]
        verdicts = verdicts[verdicts["label"].notna()]
        self.features, self.own = features, verdicts[verdicts["slide"].isin(rows["slide"])].reset_index(drop=True)
        if self.own.empty:
            raise refuse("cell_labels", "about cells of training slides", f"{len(verdicts)} verdicts on other slides",
                         "Judge cells of training slides, or leave it out.")
        test = frame.loc[~frame["split"].isin(("train", "validation")), "slide"]
        self.tested = int(verdicts["slide"].isin(test).sum())
        self.others = len(verdicts) - len(self.own) - self.tested
        self.counts: dict[str, int] = {}

    def marks(self, packed: Packed, weight: float = 1.0) -> Marks:
        """The judged cells among packed slides."""
        parts, slides, targets = [], [], []
        for number, slide in enumerate(packed.slides):
            rows = self.own[self.own["slide"] == slide]
            if len(rows):
                cells = read_cells(self.features, slide)
                start = int(packed.bags.offsets[number])
                names = cells.drop_duplicates("cell")
                for name, label in zip(names["cell"], match_verdicts(rows, names), strict=True):
                    if not np.isnan(label):
                        parts.append(packed.bags.features[start + np.flatnonzero(cells["cell"] == name)])
                        slides.append(number)
                        targets.append(label)
        if not parts:
            raise refuse("cell_labels", "about cells that have features", f"none of {len(self.own)} verdicts, the first on "
                         f"`{self.own['cell'].iloc[0]}` of slide {self.own['slide'].iloc[0]}", "Use the names of the store.")
        offsets = torch.tensor([0, *map(len, parts)]).cumsum(0)
        self.counts = {"abnormal": int(sum(targets)), "normal": int(len(targets) - sum(targets)), "tested": self.tested,
                       "others": self.others, "unmatched": len(self.own) - len(targets)}
        return Marks(Bags(torch.cat(parts), offsets), torch.tensor(slides), torch.tensor(targets), weight)

    def warnings(self) -> list[str]:
        """What was not learned from, and why."""
        found = [(self.tested, "on cells of test slides, which are never learned from"),
                 (self.others, "on cells of slides that choose the model or have no label"),
                 (self.counts["unmatched"], "on cells without features")]
        return [f"{count} verdicts were left out: they are {what}" for count, what in found if count]
