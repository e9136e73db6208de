"""Does anything but the cells tell the label: the scanner, the format, the size, the colour?"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from pandas.api.types import is_numeric_dtype
from scipy.stats import rankdata

from milscope.check._attributes import Attribute, Family, known, spoken, varies
from milscope.metrics import Bootstrap, bounds, resample, weighted_auc

FOLDS, REPEATS = 5, 10
"""Parts of the patients, each left out once, and how often they are divided anew."""
ENOUGH = 5000
"""Rows that are left out in all; of many patients one division is enough."""
LEVELS = 10
"""Numbers with no more different values are taken as categories."""
RARE = 3
"""Categories of fewer slides are taken together."""
ERROR = 0.05
"""Chance that any attribute of a task is called telling although none is."""
TELLING = 0.65
"""The AUC from which an attribute is warned of."""
FEWEST = 5
"""Patients of each class below which nothing can be told."""
EVERYTHING = "all about how slides were made"
_BLOCK = 2_000_000


class Told(NamedTuple):
    """How well an attribute tells a task's label of patients left out."""

    task: str
    attribute: str
    family: Family
    auc: float
    low: float
    high: float
    chance: float
    """What shuffled labels reach: more is no accident."""
    patients: int
    detail: str

    @property
    def warns(self) -> bool:
        """Whether it is no accident, and enough to matter."""
        return self.auc > self.chance and self.auc >= TELLING


class Rows(NamedTuple):
    """The labelled patients of a task: one row for each patient and class."""

    labels: Bool[np.ndarray, " row"]
    patients: list[str]
    of: list[np.ndarray]
    """The slides of each row, by their places in the table."""


def judge_attributes(task: str, labels: Float[np.ndarray, " slide"], patients: Sequence[str], attributes: Sequence[Attribute],
                     bootstrap: Bootstrap) -> list[Told]:
    """Every attribute that differs between slides, and those of their making together; [] if there are too few patients.

    The attribute predicts the label by ridge regression of its ranks, their squares, or its categories, on patients
    left out together (five parts, ten divisions), so that an attribute with many values does not seem telling for that. What
    shuffled labels reach, of as many attributes as there are, is computed in the same way.

    Args:
        task: Its name.
        labels: 1, 0 or NaN for each slide.
        patients: The patient of each slide.
        attributes: See `gather_attributes`.
        bootstrap: Draws, coverage and seed; as many shuffles are made as draws.
    """
    rows = _rows(labels, patients)
    if min(rows.labels.sum(), (~rows.labels).sum()) < FEWEST:
        return []
    judged = [(each, _encoded(each, rows)) for each in attributes if known(each) and varies(each)]
    judged = [(each, columns) for each, columns in judged if columns.shape[1]]
    made = [columns for each, columns in judged if each.family == "made"]
    if len(made) > 1:
        judged.append((Attribute(EVERYTHING, "made", pd.DataFrame(index=range(len(labels)))), np.concatenate(made, axis=1)))
    level = 1 - ERROR / max(1, len(judged))
    return [_told(task, attribute, columns, rows, bootstrap, level)._replace(
        detail=spoken(attribute, np.asarray(labels))) for attribute, columns in judged]


def _rows(labels: Float[np.ndarray, " slide"], patients: Sequence[str]) -> Rows:
    places: dict[tuple[str, bool], list[int]] = {}
    for place, (patient, label) in enumerate(zip(patients, labels, strict=True)):
        if not math.isnan(label):
            places.setdefault((patient, bool(label == 1)), []).append(place)
    return Rows(np.array([label for _, label in places], bool), [patient for patient, _ in places],
                [np.array(each) for each in places.values()])


def _told(task: str, attribute: Attribute, columns: Float[np.ndarray, "row column"], rows: Rows, bootstrap: Bootstrap,
          level: float) -> Told:
    labels = rows.labels[:, None].astype(float)
    repeats = max(1, min(REPEATS, ENOUGH // len(labels)))
    parts = [part for turn in range(repeats) for part in _parts(rows.patients, np.random.default_rng([bootstrap.seed, turn]))]
    auc = _left_out_auc(columns, labels, parts)[0]
    low, high = bounds(_drawn(columns, rows, parts, bootstrap), bootstrap.confidence)
    generator = np.random.default_rng([bootstrap.seed, REPEATS])
    size = max(1, _BLOCK // len(labels))
    by_chance = [_left_out_auc(columns, _shuffled(rows.labels, min(size, bootstrap.draws - start), generator), parts)
                 for start in range(0, bootstrap.draws, size)]
    chance = float(np.nanquantile(np.concatenate(by_chance), level))
    return Told(task, attribute.name, attribute.family, float(auc), low, high, chance, len(set(rows.patients)), "")


def _shuffled(labels: Bool[np.ndarray, " row"], times: int, generator: np.random.Generator) -> Float[np.ndarray, "row time"]:
    return generator.permuted(np.repeat(labels[:, None].astype(float), times, axis=1), axis=0)


def _parts(patients: Sequence[str], generator: np.random.Generator) -> Iterator[Bool[np.ndarray, " row"]]:
    """Which rows are left out, part after part; those of a patient together."""
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    dealt = generator.permutation(np.arange(len(names)) % FOLDS)[owner]
    yield from (dealt == part for part in range(FOLDS))


def _left_out_auc(columns: Float[np.ndarray, "row column"], labels: Float[np.ndarray, "row time"],
                  parts: Sequence[Bool[np.ndarray, " row"]]) -> Float[np.ndarray, " time"]:
    """The AUC of each set of labels: the share of pairs, both left out together, that are in the right order."""
    right, pairs = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for out in parts:
        ranks = rankdata(_scores(columns, labels, out), axis=0)
        positive = labels[out].sum(0)
        right += (ranks * labels[out]).sum(0) - positive * (positive + 1) / 2
        pairs += positive * (out.sum() - positive)
    return np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _drawn(columns: Float[np.ndarray, "row column"], rows: Rows, parts: Sequence[Bool[np.ndarray, " row"]],
           bootstrap: Bootstrap) -> Float[np.ndarray, " draw"]:
    """The AUC of each draw of patients."""
    labels = rows.labels[:, None].astype(float)
    scores = [_scores(columns, labels, out)[:, 0] for out in parts]
    values = []
    for weights in resample(rows.patients, rows.labels, bootstrap):
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for out, score in zip(parts, scores, strict=True):
            mine, kind = weights[:, out], rows.labels[out]
            both = mine[:, kind].sum(1) * mine[:, ~kind].sum(1)
            right += np.nan_to_num(weighted_auc(kind, score, mine)) * both
            pairs += both
        values.append(np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.concatenate(values)


def _scores(columns: Float[np.ndarray, "row column"], labels: Float[np.ndarray, "row time"],
            out: Bool[np.ndarray, " row"]) -> Float[np.ndarray, "left time"]:
    """What ridge regression on the other rows says of those left out."""
    ridge = np.eye(columns.shape[1]) * columns.shape[1]
    centred = labels[~out] - labels[~out].mean(0)
    return np.round(columns[out] @ np.linalg.solve(columns[~out].T @ columns[~out] + ridge, columns[~out].T @ centred), 9)


def _encoded(attribute: Attribute, rows: Rows) -> Float[np.ndarray, "row column"]:
    """The attribute as columns of mean 0 and spread 1: categories as 0 and 1, numbers as ranks and their squares."""
    columns = [column for name in attribute.values for column in _columns(attribute.values[name], rows)]
    found = np.stack(columns, axis=1) if columns else np.zeros((len(rows.labels), 0))
    spread = found.std(0)
    return ((found - found.mean(0))[:, spread > 0]) / spread[spread > 0]


def _columns(values: pd.Series, rows: Rows) -> Iterator[Float[np.ndarray, " row"]]:
    number = is_numeric_dtype(values)
    if number and values.nunique() > LEVELS:
        means = np.array([values.iloc[places].mean() for places in rows.of])
        there = ~np.isnan(means)
        ranks = np.zeros(len(means))
        ranks[there] = 2 * (rankdata(means[there]) - 0.5) / max(1, there.sum()) - 1
        yield ranks
        yield np.where(there, ranks**2 - 1 / 3, 0.0)
        yield (~there).astype(float)
        return
    common = [values.iloc[places].mode(dropna=False).iloc[0] for places in rows.of]
    names = pd.Series(common, dtype=object).map(lambda value: "" if pd.isna(value) else str(value))
    seen = names.value_counts()
    names = names.where(names.map(seen) >= RARE, "\0rare")
    for name in names.unique():
        yield (names == name).to_numpy().astype(float)
