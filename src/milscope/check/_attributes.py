"""What is known of each slide without knowing any of its cells: how it was made, and how it looks on the whole."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from pandas.api.types import is_numeric_dtype

from milscope.check._cells import Cells
from milscope.check._files import Header
from milscope.slides import ALIASES
from milscope.store import CellStore

Family = Literal["made", "looks"]
MANY = 10
"""Numbers with more different values are told by their medians."""
_ABOUT = re.compile(r"(?:^|[^a-z])(site|hospital|cent(?:er|re)|clinic|institution|scanner|microscope|camera|objective|"
                    r"magnification|stain|staining|batch|lab|laboratory|device|operator|technician|vendor|source|cohort|kit|"
                    r"fixation|plate|year|date|day|run)(?:[^a-z]|$)")
"""Names of columns that tell how a slide was made."""


class Attribute(NamedTuple):
    """A property of slides: a column of text or numbers, or several numbers together; "" or NaN where unknown."""

    name: str
    family: Family
    values: pd.DataFrame


def about_columns(table: pd.DataFrame, named: Sequence[str]) -> list[str]:
    """The columns of a slide table that say how slides were made: those with a known name, and those asked for."""
    own = [column for column in table.columns if column not in ALIASES]
    return [column for column in own if column in named or _ABOUT.search(column.lower())]


def gather_attributes(table: pd.DataFrame, about: Sequence[str], headers: Mapping[str, Header], store: CellStore | None,
                      cells: Cells | None) -> list[Attribute]:
    """Every attribute of the slides of the table, a row a slide, in its order."""
    slides = list(table["slide"])
    read = pd.DataFrame([headers.get(slide, Header()) for slide in slides], columns=list(Header._fields))
    read["mpp"] = read["mpp"].fillna(table["mpp"].reset_index(drop=True))
    found = [Attribute(f"`{column}`", "made", table[[column]].reset_index(drop=True)) for column in about]
    found += [Attribute(name, "made", read[columns]) for name, columns in (
        ("file format", ["format"]), ("scanner", ["scanner"]), ("objective", ["objective"]), ("µm per pixel", ["mpp"]),
        ("JPEG quality", ["quality"]), ("day of the scan", ["day"]))]
    found.append(Attribute("image size", "made", _sizes(read)))
    if store is not None:
        counts = [float(store.count(slide)) if slide in store.slides else math.nan for slide in slides]
        found.append(Attribute("number of cells", "looks", pd.DataFrame({"cells": counts})))
    if cells is not None:
        looks = [cells.looks.get(slide) for slide in slides]
        crops = pd.DataFrame({"format": [look.format if look else "" for look in looks],
                              "side": [look.side if look else math.nan for look in looks],
                              "detail": [look.detail if look else math.nan for look in looks]})
        colours = pd.DataFrame([look.colour if look else [math.nan] * 3 for look in looks], columns=["red", "green", "blue"])
        found += [Attribute("format of the crops", "made", crops[["format"]]),
                  Attribute("size of the crops", "made", crops[["side"]]), Attribute("mean colour", "looks", colours),
                  Attribute("bytes per pixel of the crops", "looks", crops[["detail"]])]
    return found


def _sizes(read: pd.DataFrame) -> pd.DataFrame:
    """Width and height: as one word if few sizes occur, else as numbers."""
    words = [f"{wide:.0f} x {high:.0f}" if wide > 0 else "" for wide, high in zip(read["width"], read["height"], strict=True)]
    return pd.DataFrame({"size": words}) if len(set(words)) <= MANY else read[["width", "height"]]


def varies(attribute: Attribute) -> bool:
    """Whether slides differ in it."""
    return bool((attribute.values.nunique(dropna=False) > 1).any())


def known(attribute: Attribute) -> bool:
    """Whether it is known of any slide."""
    return bool((~_missing(attribute.values)).any(axis=None))


def _missing(values: pd.DataFrame) -> pd.DataFrame:
    return values.apply(lambda column: column.isna() if is_numeric_dtype(column) else column == "")


def spoken(attribute: Attribute, labels: Float[np.ndarray, " slide"]) -> str:
    """How positive and negative slides differ in it: medians, or of each frequent value how many slides are positive."""
    positive, labelled = labels == 1, ~np.isnan(labels)
    words = []
    for name in attribute.values:
        column = attribute.values[name][labelled]
        label = f"{name} " if len(attribute.values.columns) > 1 else ""
        if is_numeric_dtype(column) and column.nunique() > MANY:
            yes, no = (_word(float(column[positive[labelled] == kind].median()), name=name) for kind in (True, False))
            words.append(f"{label}{yes} against {no}")
        elif column.nunique(dropna=False) > 1:
            shown = column.map(partial(_word, name=name))
            yes = shown[positive[labelled]]
            words.append(", ".join(f"{label}{value}: {int((yes == value).sum())} of {number}"
                                   for value, number in shown.value_counts().iloc[:3].items()) + " positive")
    return "; ".join(words)


def _word(value: str | float, *, name: str) -> str:
    """A value as people read it."""
    if not isinstance(value, float):
        return str(value) or "unknown"
    if math.isnan(value):
        return "unknown"
    if name == "day":
        return date.fromordinal(int(value)).isoformat()
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
