"""What people said of single cells: a table of verdicts, and which cells of a slide it speaks of."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.slides import ALIASES, MISSING, PLACE_NAMES, match_column, read_text_table, where
from milscope.truth import match_truth
from milscope.types import refuse

VALUES = ("label", "verdict")
"""Columns that may hold the verdict; the first that is there is read."""
WORDS = {
    **dict.fromkeys(("1", "1.0", "abnormal", "positive", "true", "yes"), 1.0),
    **dict.fromkeys(("0", "0.0", "normal", "negative", "false", "no", "artefact", "artifact"), 0.0),
    **dict.fromkeys(("unsure", *MISSING), np.nan),
}
"""What is said of a cell, as a number: 1 abnormal, 0 normal or no cell at all, NaN nothing that could be learned from."""


def read_verdicts(path: str | Path) -> pd.DataFrame:
    """The verdicts of a table, one row a cell: slide, cell ("" if it has none), x, y (slide pixels, or NaN), label (1, 0, NaN).

    Where a cell stands in several rows, most of them decide; as many against as for it are NaN, as unsure ones are.

    Args:
        path: CSV or Parquet with `slide`, `cell` or `x` and `y`, and `label` or `verdict`; what `milscope verdicts` writes,
            or a cell table of your own.

    Raises:
        InputError: If there is no such table, columns are missing, or a verdict is none of `WORDS`.
    """
    text = read_text_table(path, "labels")
    slide, cell, x, y = (match_column(text, names) for names in (ALIASES["slide"], *PLACE_NAMES.values()))
    value = next((found for name in VALUES if (found := match_column(text, (name,)))), None)
    if not slide or not (cell or (x and y)) or value is None:
        raise refuse("labels", "a table with `slide`, `cell` (or `x` and `y`), and `label` or `verdict`",
                     ", ".join(text.columns), "Give the table of `milscope verdicts`, or rename the columns.")
    said = text[value].str.strip().str.lower()
    odd = ~said.isin(list(WORDS))
    if odd.any():
        raise refuse(value, "one of 1, 0, abnormal, normal, artefact, unsure, or empty",
                     f"`{text.loc[odd, value].iloc[0]}` in {where(int(np.flatnonzero(odd)[0]))}", "Correct the table.")
    rows = pd.DataFrame({"slide": text[slide], "cell": text[cell] if cell else "",
                         "x": _numbers(text, x), "y": _numbers(text, y), "label": said.map(WORDS).astype(float)})
    return _one_a_cell(rows)


def match_verdicts(verdicts: pd.DataFrame, cells: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """What is said of each cell of a slide: 1, 0, or NaN; found by name, and if no name is found, by place.

    Args:
        verdicts: The slide's rows of `read_verdicts`.
        cells: The slide's cells, with `cell`, `x`, `y` (slide pixels).
    """
    known = verdicts[verdicts["label"].notna()]
    return match_truth(known.rename(columns={"label": "witness"}), cells).witness


def _numbers(text: pd.DataFrame, column: str | None) -> pd.Series:
    return pd.to_numeric(text[column], errors="coerce").astype(float) if column else pd.Series(np.nan, index=text.index)


def _one_a_cell(rows: pd.DataFrame) -> pd.DataFrame:
    """Most rows of a cell decide."""
    key = ["slide", "cell"] if (rows["cell"] != "").any() else ["slide", "x", "y"]
    mean = rows.groupby(key, sort=False)["label"].transform("mean")
    decided = np.select([mean > 0.5, mean < 0.5], [1.0, 0.0], np.nan)
    return rows.assign(label=decided).drop_duplicates(key).reset_index(drop=True)
