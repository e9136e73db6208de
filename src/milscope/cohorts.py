"""Which slides may be learned from: those with labels, a split, and features or cells; some are set aside for the threshold."""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from milscope.configs import EndToEndConfig, TrainConfig
from milscope.operating import Guarantee, operating_point, patients_highest
from milscope.split import rotations
from milscope.tasks import Graded, Questions, Task, parse_tasks
from milscope.types import SPLITS, InputError, Split, refuse

COHORTS: tuple[Split, ...] = ("train", "validation")

Learning = TrainConfig | EndToEndConfig
"""The settings of a stage that learns from slide labels."""


class Cohort(NamedTuple):
    """The slides that may be learned from, and those that are set aside for the threshold."""

    table: pd.DataFrame
    aside: pd.DataFrame
    questions: Questions
    missing: list[str]
    """Slides of the table without features, or without cells where cells are learned from."""

    @property
    def used(self) -> pd.DataFrame:
        """What of the slide table the model depends on."""
        columns = ["slide", "patient", "split", *dict.fromkeys(name for task in self.questions.tasks for name in task.columns)]
        return pd.concat([self.table, self.aside])[columns]


def read_cohort(available: Sequence[str], frame: pd.DataFrame, config: Learning) -> Cohort:
    """The labelled training and validation slides that are available, divided if a threshold is asked for.

    Args:
        available: The slides that have features, or cells where it is cells that are learned from.
        frame: The slide table.
        config: The tasks, and what is set aside.

    Raises:
        InputError: If there is no split, or training or validation slides lack a class or an event.
    """
    questions = Questions(tuple(parse_tasks(config.task, frame)))
    if not frame["split"].isin(SPLITS).any():
        raise refuse("split", "train, validation or test for the slides", "an empty column",
                     "Run `milscope split`, or add the column.")
    labelled = [frame[list(task.columns)].replace("", np.nan).notna().all(axis=1) for task in questions.tasks]
    table = frame[frame["split"].isin(COHORTS) & np.logical_or.reduce(labelled)]
    has = table["slide"].isin(available)
    missing = table.loc[~has, "slide"].tolist()
    table = table[has].sort_values("slide").reset_index(drop=True)
    check_classes(questions, table, missing)
    questions = Questions(tuple(task.fitted(table[table["split"] == "train"]) for task in questions.tasks))
    aside = np.zeros(len(table), dtype=bool)
    if config.sensitivity is not None:
        aside = _set_aside(table, questions.tasks, config.calibration, config.seed)
    return Cohort(table[~aside].reset_index(drop=True), table[aside].reset_index(drop=True), questions, missing)


def labelled_slides(frame: pd.DataFrame, available: Sequence[str], task: str) -> tuple[pd.DataFrame, list[str]]:
    """The slides that have features and a label of any of the tasks, and the columns by which they are divided into folds."""
    columns = strata(parse_tasks(task, frame))
    labelled = frame[columns].replace("", None).notna().any(axis=1)
    found = frame[frame["slide"].isin(available) & labelled].reset_index(drop=True)
    if found.empty:
        raise refuse("slides", "slides that have features and a label", "none", "Run `milscope encode` on their cells.")
    return found, columns


def strata(tasks: Sequence[Task]) -> list[str]:
    """The columns by which patients are shared out: of classes, or of events."""
    return list(dict.fromkeys(task.columns[-1] for task in tasks))


def check_classes(questions: Questions, table: pd.DataFrame, left_out: Sequence[str]) -> None:
    """Refuses training or validation slides that lack a class or an event; `left_out` slides may be why."""
    for split in COHORTS:
        for task in questions.tasks:
            try:
                task.fitted(table[table["split"] == split], split)
            except InputError as error:
                why = f" {len(left_out)} slides have no features or cells." if left_out else ""
                raise InputError(f"{error}{why}") from error


def check_settings(config: Learning) -> None:
    """Refuses what no training takes: rates, shares and probabilities out of their ranges."""
    if not config.learning_rate > 0:
        raise refuse("learning_rate", "above 0", config.learning_rate, "Correct it.")
    if not config.weight_decay >= 0:
        raise refuse("weight_decay", "at least 0", config.weight_decay, "Correct it.")
    if not 0 <= config.dropout < 1:
        raise refuse("dropout", "at least 0 and below 1", config.dropout, "Correct it.")
    if config.sensitivity is None and config.specificity is not None:
        raise refuse("specificity", "given with `sensitivity`", config.specificity, "Give both, or `sensitivity` alone.")
    for name in ("sensitivity", "specificity", "confidence", "calibration"):
        value = getattr(config, name)
        if value is not None and not 0 < value < 1:
            raise refuse(name, "between 0 and 1", value, "Correct it.")


def check_promise(cohort: Cohort, config: Learning) -> None:
    """Refuses a promise that the patients set aside are too few for, before anything is trained."""
    if config.sensitivity is not None:
        task, table = cohort.questions.tasks[0], cohort.aside
        labels = task.suspicious(task.targets(table)).double().numpy()
        _, nothing, positive = patients_highest(table["patient"].tolist(), np.zeros(len(table)), labels)
        operating_point(nothing, positive, config.sensitivity, cast(Guarantee, config.guarantee),
                        confidence=config.confidence, specificity=config.specificity)


def _set_aside(table: pd.DataFrame, tasks: Sequence[Task], share: float, seed: int) -> Bool[np.ndarray, " slide"]:
    """Which slides are those of the validation patients for the threshold.

    They are that share of the patients who are positive for the rarest task, of those who are for the next, and of the rest.
    """
    held = table["split"].to_numpy() == "validation"
    positive = [set(table.loc[held & (task.suspicious(task.targets(table)).numpy() == 1), "patient"]) for task in tasks]
    left, chosen = set(table.loc[held, "patient"]), set[str]()
    for group in (*sorted(positive, key=len), left):
        own = sorted(group & left)
        order = np.random.default_rng([seed, len(own)]).permutation(len(own))
        chosen.update(own[place] for place in order[: round(share * len(own))])
        left = left - group
    return held & table["patient"].isin(chosen).to_numpy()


def places(part: pd.DataFrame, slides: pd.Series) -> tuple[Int[Tensor, " train"], Int[Tensor, " validation"]]:
    """Where the training and the validation slides of one rotation are among all."""
    split = part.set_index("slide")["split"].reindex(slides).to_numpy()
    train, validation = (torch.from_numpy(np.flatnonzero(split == name)) for name in COHORTS)
    return train, validation


def parts(table: pd.DataFrame, questions: Questions, config: TrainConfig) -> list[pd.DataFrame]:
    """The table once for each part that validates, stratified by class or by event."""
    columns = ",".join(strata(questions.tasks))
    return [table] if config.ensemble == 1 else rotations(table, config.ensemble, seed=config.seed, task=columns)


def described_slides(rows: pd.DataFrame, questions: Questions) -> dict[str, Any]:
    """How many slides, patients, and slides of each class of each task."""
    found: dict[str, Any] = {"slides": len(rows), "patients": rows["patient"].nunique(), "classes": {}}
    for task in questions.tasks:
        targets = task.targets(rows)
        known = targets[task.known(targets)]
        if isinstance(task, Graded):
            counts = known[:, 0].long().bincount(minlength=len(task.classes)).tolist()
            found["classes"][task.name] = dict(zip(task.classes, counts, strict=True))
        else:
            found["classes"][task.name] = {"followed": len(known), "events": int(known[:, 1].sum())}
    return found
