"""Which cells are witnesses, from a table that only measuring may read."""

import math
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.slides import ALIASES, MISSING, PLACE_NAMES, match_column, read_text_table, where
from milscope.types import InputError, refuse

PLACE_DIGITS = 2
"""Places are the same if they are equal when rounded to this many digits, in slide pixels."""
_NOT_VALUES = {"width", "height", *(alias for names in (*ALIASES.values(), *PLACE_NAMES.values()) for alias in names)}


class Truth(NamedTuple):
    """A table of cells with their truth: one row a cell.

    Attributes:
        column: The column the truth was read from.
        rows: slide, cell ("" if the table has none), x, y (slide pixels, NaN if the table has none), witness (bool).
        missing: Rows left out because their value is empty.
        repeated: Rows left out because they repeat another row and agree with it.
    """

    column: str
    rows: pd.DataFrame
    missing: int
    repeated: int


class Match(NamedTuple):
    """What the truth tells of one slide's cells.

    Attributes:
        witness: 1 for a witness, 0 for a normal cell, NaN for a cell the truth does not tell.
        unmatched: Rows of the truth that are none of these cells.
    """

    witness: Float[np.ndarray, " cell"]
    unmatched: int


def read_truth(path: str | Path, task: str, column: str = "", normal: str = "0") -> Truth:
    """The truth table, checked.

    Args:
        path: CSV or Parquet with `slide`, a value column, and `cell` or `x` and `y` (slide pixels, centre of the cell), or the
            other names that a cell table may have.
        task: The task's name: the value column, if it has that name and `column` is empty.
        column: The value column; empty: the task's name, else the only candidate.
        normal: The value of a normal cell; numbers are compared as numbers. Any other value is a witness.

    Raises:
        InputError: If columns are missing or ambiguous, no cell is normal, or a cell is told twice, differently.
    """
    text = read_text_table(path, "truth")
    slide, cell, x, y = (match_column(text, names) for names in (ALIASES["slide"], *PLACE_NAMES.values()))
    if not slide or not (cell or (x and y)):
        raise refuse("truth", "a table with `slide`, and `cell` or `x` and `y`", ", ".join(text.columns),
                     "Rename the columns.")
    column = _value_column(text, task, column)
    known = ~text[column].str.lower().isin(MISSING)
    rows = pd.DataFrame({
        "slide": text[slide],
        "cell": text[cell] if cell else "",
        "x": _numbers(text[x], "x") if x and y else np.nan,
        "y": _numbers(text[y], "y") if x and y else np.nan,
        "witness": ~_is_normal(text[column], normal),
    })[known]
    if rows["witness"].all():
        values = ", ".join(text.loc[known, column].unique()[:6]) or "none"
        raise refuse("truth_normal", f"a value of the truth's `{column}`", f"`{normal}`, its values are {values}",
                     "Name the value of a normal cell; normal cells have to be listed too.")
    named = bool(cell) and (rows["cell"] != "").any()
    unique = _without_repeats(rows, ["slide", "cell"] if named else ["slide", "x", "y"])
    return Truth(column, unique.reset_index(drop=True), int((~known).sum()), len(rows) - len(unique))


def value_columns(path: str | Path) -> list[str]:
    """The columns of a truth table that may hold the truth."""
    return _candidates(read_text_table(path, "truth"))


def match_truth(rows: pd.DataFrame, cells: pd.DataFrame) -> Match:
    """Finds a slide's cells in the truth: by name; if no name is found, by place.

    Args:
        rows: The slide's rows of the truth.
        cells: The slide's cells, with `cell`, `x`, `y`.
    """
    by_name = _looked_up(rows["cell"].tolist(), rows["witness"], cells["cell"].tolist())
    if np.isfinite(by_name.witness).any() or not rows["x"].notna().any():
        return by_name
    return _looked_up(_places(rows), rows["witness"], _places(cells))


def nothing_matches(truth: Truth, cells: pd.DataFrame) -> InputError:
    """The error for a truth of which no row is a scored test cell, with examples from both sides.

    Args:
        truth: The table.
        cells: Some scored cells: slide, cell, x, y.
    """
    def example(frame: pd.DataFrame) -> str:
        if not len(frame):
            return "none"
        row = frame.iloc[0]
        name = f" cell `{row['cell']}`" if row["cell"] else ""
        return f"slide `{row['slide']}`{name}" + (f" at {row['x']:g}, {row['y']:g}" if np.isfinite(row["x"]) else "")

    shared = truth.rows[truth.rows["slide"].isin(cells["slide"])]
    told = example(shared if len(shared) else truth.rows)
    return refuse("truth", "about the scored test cells",
                  f"none of them in it: the truth has {told}, the scores {example(cells)}",
                  "Use the names (or the centres, in slide pixels) of the cell store.")


def _value_column(text: pd.DataFrame, task: str, column: str) -> str:
    candidates = _candidates(text)
    chosen = column or (task if task in candidates else candidates[0] if len(candidates) == 1 else "")
    if chosen not in text.columns:
        found = f"`{chosen}`" if chosen else f"{len(candidates)} to choose from"
        raise refuse("truth_column", "the truth's value column", found,
                     f"The table has: {', '.join(candidates) or 'no value column'}.")
    return chosen


def _candidates(text: pd.DataFrame) -> list[str]:
    return [name for name in text.columns if name.lower() not in _NOT_VALUES]


def _is_normal(values: pd.Series, normal: str) -> pd.Series:
    same = values.str.strip().str.lower() == normal.strip().lower()
    number = pd.to_numeric(pd.Series([normal]), errors="coerce")[0]
    return same | (pd.to_numeric(values, errors="coerce") == number)


def _numbers(text: pd.Series, name: str) -> pd.Series:
    numbers = pd.to_numeric(text, errors="coerce")
    wrong = ~np.isfinite(numbers) & (text != "")
    if wrong.any():
        raise refuse(f"truth: {name}", "numbers, in slide pixels", f"`{text[wrong].iloc[0]}` in {where(wrong.idxmax())}",
                     "Correct the table.")
    return numbers


def _without_repeats(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    keys = rows[key].round(PLACE_DIGITS)
    unique = rows[~keys.assign(witness=rows["witness"]).duplicated()]
    contradicting = unique[keys.loc[unique.index].duplicated()]
    if len(contradicting):
        row = contradicting.iloc[0]
        first = ", ".join(f"{name} {row[name]}" for name in key)
        raise refuse("truth", "one answer per cell", f"{len(contradicting)} both normal and not, the first {first}",
                     "Keep one row of each.")
    return unique


def _looked_up(keys: list[Hashable], witness: pd.Series, wanted: list[Hashable]) -> Match:
    told = dict(zip(keys, witness.astype(float), strict=True))
    found = set(wanted) & told.keys() - {None, ""}
    values = [told[key] if key in found else np.nan for key in wanted]
    return Match(np.array(values, dtype=float), sum(key not in found for key in keys))


def _places(frame: pd.DataFrame) -> list[Hashable]:
    """Rounded places as keys; None for a cell without one."""
    x, y = (frame[name].to_numpy(dtype=float).round(PLACE_DIGITS).tolist() for name in ("x", "y"))
    return [place if all(map(math.isfinite, place)) else None for place in zip(x, y, strict=True)]
