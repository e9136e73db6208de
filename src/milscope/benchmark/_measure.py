"""What one method reached on the test slides of one witness rate: the only place of a benchmark that reads the truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from milscope.metrics import SlideScores, cell_metrics, found, weighted_slide_metrics
from milscope.ranking import find_ranking, order, rank_slides
from milscope.truth import match_truth
from milscope.types import refuse

SLIDE_MEASURES = ("auc", "average_precision", "f1", "sensitivity", "specificity")
"""The figures of slides."""
CELL_MEASURES = ("cell_auc", "cell_average_precision", "recall_at_10", "precision_at_10", "recall_at_witnesses",
                 "recall_at_400")
"""The figures of the order of cells, of each positive slide, then the mean over slides; the last of large slides only."""
TOP = 400
"""The cells that SLAM-AGS looks at."""
EXAMPLES = 24
"""Most cells named of each kind of error."""
_DIGITS = 5
_NAMES = {"cell_auc": "auc", "cell_average_precision": "average_precision"}


def measure(scores: Path, truth: pd.DataFrame, rank: str) -> dict[str, Any]:
    """What a method reached on test slides, as plain values for `result.json`.

    `slides` and `cells` hold the figures; `each` holds one row a test slide, from which intervals are made: slide,
    patient, label, probability, called, cells, and on positive slides witnesses, the figures of the order of cells and
    `recall`, the share of its witnesses among the first 1, 2, … cells. `missed` names witnesses that are not among the first W
    cells of their slide, W its witnesses, the last ranks first; `alarms` the normal cells of the highest scores.

    Args:
        scores: A `scores` artifact. Only its test slides count, or all where no slide has a split.
        truth: The cells of those slides: slide, cell, witness (true or false); x, y (slide pixels) where cells have no names.
        rank: What orders the cells, a name of `ranking`.

    Raises:
        InputError: If there is no labelled test slide, or the truth tells no cell of a positive one.
    """
    table = _test_slides(scores / "slides.csv")
    told = dict(iter(truth.reindex(columns=["slide", "cell", "x", "y", "witness"]).groupby("slide")))
    rows: dict[str, dict[str, Any]] = {}
    cells = []
    for slide, ranked in rank_slides(scores, find_ranking(rank)):
        if slide in table.index:
            own = ranked.assign(witness=match_truth(told[slide], ranked).witness if slide in told else np.nan)
            own = own[own["witness"].notna()]
            rows[slide] = _order_of(own["score"].to_numpy(dtype=float), own["witness"].to_numpy() == 1)
            cells.append(_placed(own, bool(table.at[slide, "label"])))
    each = [_row(row, rows.get(row["slide"], {"cells": 0})) for row in table.to_dict("records")]
    if not any("recall" in row for row in each):
        raise refuse("truth", "about the cells of positive test slides", f"none of them with a witness in {scores}",
                     "Give the truth of the drawn slides.")
    return {"rank": rank, "slides": _slide_figures(table), "cells": _means(each), "each": each, **_errors(pd.concat(cells))}


def _test_slides(path: Path) -> pd.DataFrame:
    """The labelled test slides, by name."""
    table = pd.read_csv(path, dtype={"slide": str, "patient": str, "split": str}, keep_default_na=False,
                        na_values={name: [""] for name in ("label", "probability", "called")})
    test = table[table["split"] == "test"] if (table["split"] != "").any() else table
    test = test[test["label"].notna()]
    if test.empty:
        raise refuse("scores", "of labelled test slides", f"none in {path}", "Score the test slides too.")
    return test.assign(label=test["label"].astype(int)).set_index("slide", drop=False)


def _order_of(score: Float[np.ndarray, " cell"], witness: Bool[np.ndarray, " cell"]) -> dict[str, Any]:
    """The figures of one slide; those of the order only where there is a witness."""
    if not witness.any():
        return {"cells": len(score)}
    figures = cell_metrics(score, witness, (10, TOP))
    if len(score) <= TOP:
        figures[f"recall_at_{TOP}"] = np.nan
    reached = found(score, witness, np.arange(1, len(score) + 1)) / witness.sum()
    return {"cells": len(score), "witnesses": int(witness.sum()),
            **{name: _plain(figures[_NAMES.get(name, name)]) for name in CELL_MEASURES},
            "recall": np.round(reached, _DIGITS).tolist()}


def _row(slide: dict[Any, Any], cells: dict[str, Any]) -> dict[str, Any]:
    return {"slide": slide["slide"], "patient": slide["patient"], "label": int(slide["label"]),
            "probability": float(slide["probability"]), "called": int(slide["called"]), **cells}


def _slide_figures(table: pd.DataFrame) -> dict[str, float | None]:
    scores = SlideScores(table["label"].to_numpy() == 1, table["probability"].to_numpy(dtype=float),
                         table["called"].to_numpy() == 1, table["patient"].tolist())
    figures = weighted_slide_metrics(scores, np.ones((1, len(table))))
    return {name: _plain(float(figures[name][0])) for name in SLIDE_MEASURES}


def _means(each: list[dict[str, Any]]) -> dict[str, float | None]:
    """Over the positive slides for which a figure is defined."""
    return {name: _plain(float(pd.Series([row.get(name) for row in each], dtype=float).mean())) for name in CELL_MEASURES}


def _placed(cells: pd.DataFrame, positive: bool) -> pd.DataFrame:
    """The cells in their order, each with its rank, its slide's label, cells and witnesses."""
    ranked = cells.iloc[order(cells["score"].to_numpy(dtype=float))]
    return ranked.assign(rank=np.arange(1, len(ranked) + 1), of=len(ranked), positive=positive,
                         witnesses=int((ranked["witness"] == 1).sum()))


def _errors(cells: pd.DataFrame) -> dict[str, Any]:
    """How many witnesses there are and are missed, and examples of both kinds of error."""
    witness = cells["witness"] == 1
    missed = cells[witness & (cells["rank"] > cells["witnesses"])].sort_values("rank", ascending=False, kind="stable")
    alarms = cells[~witness].sort_values("score", ascending=False, kind="stable")
    return {"witnesses": int(witness.sum()), "missed_count": len(missed), "missed": _named(missed), "alarms": _named(alarms)}


def _named(cells: pd.DataFrame) -> list[dict[str, Any]]:
    return [{"slide": row["slide"], "cell": row["cell"], "rank": int(row["rank"]), "of": int(row["of"]),
             "score": _plain(float(row["score"])), "positive": bool(row["positive"])}
            for row in cells.head(EXAMPLES).to_dict("records")]


def _plain(value: float) -> float | None:
    """As JSON has it: None where undefined."""
    return round(value, _DIGITS) if np.isfinite(value) else None
