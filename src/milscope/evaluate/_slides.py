"""Figures of slides that a yes or no is told of, and of their patients."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from milscope.evaluate._about import About, read_scored
from milscope.metrics import Decisions, Interval, SlideScores, review_metrics, slide_metrics
from milscope.types import refuse

Figures = dict[str, dict[str, float]]


def slide_scores(table: pd.DataFrame, about: About) -> SlideScores:
    """The rows as scores; `label` above 0 is positive."""
    return SlideScores(table["label"].to_numpy() > 0, table["probability"].to_numpy(dtype=float),
                       table["called"].to_numpy(dtype=bool), table["patient"].tolist(), about.levels)


def review_figures(table: pd.DataFrame, about: About) -> Figures:
    """The figures of the review band; empty if the scores have no decisions.

    Raises:
        InputError: If a decision is none of the three.
    """
    if "decision" not in table:
        return {}
    odd = sorted(set(table["decision"]) - {"positive", "review", "negative"})
    if odd:
        raise refuse("decision", "positive, review or negative", f"`{odd[0]}`", "Run `predict` again.")
    said = table["decision"].to_numpy(dtype=str)
    decisions = Decisions(table["label"].to_numpy() > 0, said == "review", said == "positive", table["patient"].tolist())
    return plain(review_metrics(decisions, about.bootstrap))


def patient_figures(scores: Path, test: pd.DataFrame, about: About) -> Figures:
    """The figures of patients as yes or no, by their highest slide; empty where every patient has one slide.

    The patients' own table of the scores is taken if there is one; else the judged slides of each.
    """
    own = scores / "patients.csv"
    if own.exists():
        table = read_scored(own)
        table = table[table["patient"].isin(test["patient"]) & table["label"].notna()]
        if not (table["slides"] > 1).any():
            return {}
    elif not test["patient"].duplicated().any():
        return {}
    else:
        table = test.groupby("patient", as_index=False)[["label", "probability", "called"]].max()
    return plain(slide_metrics(slide_scores(table, about), about.bootstrap)) if len(table) else {}


class Grouped(NamedTuple):
    """One row a patient, and the patients whose slides are of different classes."""

    rows: pd.DataFrame
    mixed: int


def highest_slides(table: pd.DataFrame, by: str, *, nominal: bool) -> Grouped:
    """Of each patient the slide with the highest value of `by`; its `label` is the highest of the patient's known ones.

    Args:
        table: `patient`, `label` (a number, NaN where unknown; known of at least one slide of each patient) and `by`. A
            `time` is that of the highest slide whose label is known.
        by: The column.
        nominal: Whether the classes have no order, so that patients with slides of different classes are left out.
    """
    table = table.reset_index(drop=True)
    labels = table.groupby("patient")["label"].agg(["min", "max"])
    rows = table.loc[table.groupby("patient")[by].idxmax()].set_index("patient")
    rows["label"] = labels["max"].reindex(rows.index)
    if "time" in table:
        known = table[table["label"].notna()]
        rows["time"] = known.loc[known.groupby("patient")[by].idxmax()].set_index("patient")["time"].reindex(rows.index)
    mixed = labels["min"] != labels["max"]
    return Grouped(rows[~mixed.reindex(rows.index) | (not nominal)].reset_index(), int(mixed.sum()) if nominal else 0)


def plain(figures: dict[str, Interval]) -> Figures:
    """The figures as JSON has them."""
    return {name: interval._asdict() for name, interval in figures.items()}


def patients_of(table: pd.DataFrame, chosen: Any = slice(None)) -> int:  # noqa: ANN401 - what numpy takes as an index
    """How many patients the chosen rows are of."""
    return len(set(np.asarray(table["patient"], dtype=str)[chosen]))
