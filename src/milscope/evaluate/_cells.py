"""The order of the cells of test slides, beside the truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.curves import depth_curve
from milscope.evaluate._about import About
from milscope.evaluate._slides import plain
from milscope.evaluate._words import n
from milscope.metrics import DEPTHS, cell_metrics, found, mean_over_slides
from milscope.progress import progress
from milscope.ranking import find_ranking, rank_slides
from milscope.truth import Truth, match_truth, nothing_matches


class Cells(NamedTuple):
    """What was found on the cells of the test slides, one row a slide."""

    table: pd.DataFrame
    reached: Float[np.ndarray, "slide depth"]
    told: int
    untold: int
    unmatched: int
    elsewhere: int


def measure_cells(scores: Path, test: pd.DataFrame, truth: Truth, rank: str, task: str = "") -> Cells:
    """Compares the order of the cells of each test slide by a task ("": the main one) with the truth.

    Cells that the truth does not tell are left out.
    """
    told = dict(iter(truth.rows.groupby("slide")))
    wanted = set(test["slide"])
    rows, curves, unmatched, first = [], [], 0, None
    with progress("evaluate", len(test), "slides") as advance:
        for slide, cells in rank_slides(scores, find_ranking(rank), task):
            if slide not in wanted:
                continue
            first = cells if first is None else first
            match = match_truth(told.get(slide, truth.rows.iloc[:0]), cells)
            known = np.isfinite(match.witness)
            order, witness = cells["score"].to_numpy()[known], match.witness[known] == 1
            unmatched += match.unmatched
            rows.append({"slide": slide, "cells_told": int(known.sum()), "cells_untold": int((~known).sum()),
                         "witnesses": int(witness.sum()), **cell_metrics(order, witness)})
            depths = np.arange(1, max(DEPTHS) + 1)
            curves.append(found(order, witness, depths) / witness.sum() if witness.any() else np.full(len(depths), np.nan))
            advance(1)
    table = pd.DataFrame(rows)
    if first is None or not table["cells_told"].any():
        raise nothing_matches(truth, first if first is not None else truth.rows.iloc[:0])
    counts = table[["cells_told", "cells_untold"]].sum()
    elsewhere = int((~truth.rows["slide"].isin(wanted)).sum())
    return Cells(table, np.stack(curves), int(counts["cells_told"]), int(counts["cells_untold"]), unmatched, elsewhere)


def cell_figures(test: pd.DataFrame, cells: Cells, about: About) -> tuple[dict[str, Any], dict[str, Any]]:
    """The means over positive slides of which the truth tells cells, and the curve of recall against k.

    Args:
        test: The judged slides with what was found on their cells; `label` 1 is positive.
        cells: The same, and the recall at each depth.
        about: How intervals are made.
    """
    judged = test[(test["label"] == 1) & (test["cells_told"] > 0)]
    if judged.empty:
        return {}, {}
    names = [name for name in cells.table if name not in ("slide", "cells_told", "cells_untold", "witnesses")]
    patients = judged["patient"].tolist()
    figures = mean_over_slides({name: judged[name].to_numpy() for name in names}, patients, about.bootstrap)
    reached = cells.reached[pd.Index(cells.table["slide"]).get_indexer(judged["slide"])]
    return plain(figures), {"recall_at": depth_curve(reached, patients, about.bootstrap)}


def cell_warnings(test: pd.DataFrame, truth: Truth, cells: Cells) -> Iterator[str]:
    positive = test["label"] == 1
    if cells.unmatched:
        yield f"{n(cells.unmatched, 'row', 'rows')} of the truth about test slides match no scored cell and are left out."
    if cells.untold:
        yield f"{n(cells.untold, 'cell', 'cells')} of test slides are not in the truth and are left out of the cell figures."
    if truth.missing or truth.repeated:
        yield f"The truth has {truth.missing} rows without a value and {truth.repeated} repeated rows; they are left out."
    without = int((positive & ~(test["cells_told"] > 0)).sum())
    if without:
        yield f"{n(without, 'positive test slide has', 'positive test slides have')} no told cell: not in cell figures."
    empty = int((positive & (test["cells_told"] > 0) & (test["witnesses"] == 0)).sum())
    if empty:
        yield f"{n(empty, 'positive test slide has', 'positive test slides have')} no witness in the truth: not in recall."
    odd = int((~positive & (test["witnesses"] > 0)).sum())
    if odd:
        yield f"{n(odd, 'negative test slide has', 'negative test slides have')} witnesses: their label or the truth is wrong."
