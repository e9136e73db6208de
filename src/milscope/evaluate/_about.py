"""What is judged: which scores, which slides of them, under which settings."""

from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.configs import EvaluateConfig
from milscope.metrics import Bootstrap, Levels
from milscope.slides import read_slides
from milscope.store import Manifest
from milscope.types import refuse


class About(NamedTuple):
    """What every part of an evaluation has to know.

    Attributes:
        task: The main task.
        rank: What orders the cells.
        config: The settings.
        origin: The manifest of the scores.
        judged: The patients whose slides are judged, in any task.
        seen: Those of them that something was learned from.
        missing: Labelled test slides of the slide table without a score.
        unlabelled: How many test slides have no label of the main task.
    """

    task: str
    rank: str
    config: EvaluateConfig
    origin: Manifest
    judged: set[str]
    seen: list[str]
    missing: list[str]
    unlabelled: int

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        return Bootstrap(self.config.draws, self.config.confidence, self.config.seed)

    @property
    def levels(self) -> Levels:
        """Where sensitivity and specificity are told."""
        return Levels(self.config.at_specificity, self.config.at_sensitivity)


def read_scored(path: Path) -> pd.DataFrame:
    """Slide (where there is one), patient, split, label (NaN if none), probability, logit, called, and what else there is.

    Raises:
        InputError: If a probability is none.
    """
    text: dict[Hashable, type] = dict.fromkeys(("slide", "patient", "split", "called", "decision"), str)
    missing: dict[Hashable, list[str]] = {name: ["", "nan", "NaN"] for name in ("label", "probability", "logit")}
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    check_probabilities(table)
    return table.assign(called=yes(table["called"]), label=table["label"].astype(float))


def check_probabilities(table: pd.DataFrame) -> None:
    """Refuses probabilities that are not between 0 and 1."""
    wrong = ~table["probability"].between(0, 1)
    if wrong.any():
        whose = "slide" if "slide" in table else "patient"
        raise refuse("scores", "probabilities between 0 and 1", f"{table.loc[wrong, 'probability'].iloc[0]} for {whose} "
                     f"{table.loc[wrong, whose].iloc[0]}", "Train the model again with a lower learning rate.")


def yes(column: pd.Series) -> pd.Series:
    """Whether each value is a yes."""
    return column.astype(str).str.lower().isin(("true", "1", "1.0"))


def test_rows(scored: pd.DataFrame, *, transductive: bool) -> pd.Series:
    """Whether each row is judged, if it has a label: split `test`; all where no row has a split, or none is `test`."""
    test = scored["split"] == "test"
    if not test.any() and (transductive or (scored["split"] == "").all()):
        test[:] = True
    return test


def test_slides(scored: pd.DataFrame, *, transductive: bool) -> pd.DataFrame:
    """The rows of the main task that are judged.

    Raises:
        InputError: If there is none.
    """
    test = test_rows(scored, transductive=transductive)
    if not test.any():
        splits = ", ".join(sorted(set(scored["split"])))
        raise refuse("scores", "of slides of which some are of split `test`", f"{len(scored)} slides of {splits}",
                     "Predict on test slides, or judge all slides with `transductive`.")
    chosen = scored[test & scored["label"].notna()].reset_index(drop=True)
    if chosen.empty:
        raise refuse("scores", "of test slides with a label", f"{test.sum()} test slides without one",
                     "Add labels to the slide table and predict again.")
    return chosen


def unlabelled(scored: pd.DataFrame) -> int:
    """How many test slides have no label."""
    return int(((scored["split"] == "test") & scored["label"].isna()).sum())


def seen_patients(judged: set[str], origin: Manifest, *, transductive: bool) -> list[str]:
    """The judged patients that were learned from.

    Raises:
        InputError: If there are any, and not `transductive`.
    """
    seen = sorted(judged & set(origin.patients))
    if seen and not transductive:
        raise refuse("scores", "of patients that neither encoder nor model was trained on",
                     f"{len(seen)} of {len(judged)} test patients that were ({few(seen)})",
                     "Train without them, or judge them nevertheless with `transductive`, which the report will say.")
    return seen


def missing_slides(slides: str | Path | pd.DataFrame | None, task: str, scored: pd.DataFrame) -> list[str]:
    """The labelled test slides of the slide table that have no score."""
    if slides is None:
        return []
    table = read_slides(slides)
    labelled = table[task].notna() & (table[task].astype(str) != "") if task in table else True
    return sorted(set(table.loc[(table["split"] == "test") & labelled, "slide"]) - set(scored["slide"]))


def few(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
