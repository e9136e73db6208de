"""A slide table read leniently: what `read_slides` would refuse is told and set aside, so that all of it is told at once."""

import math
import os
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.check._finding import Finding, count, some, verb
from milscope.slides import (
    ALIASES,
    MISSING,
    is_file_name,
    match_column,
    other_columns,
    read_scale,
    read_slides,
    read_text_table,
    tasks,
    where,
)
from milscope.types import SPLITS

TABLE, SPLIT = "slide table", "splits"
FEW = 0.05
"""A smaller share of values that are neither yes nor no is taken for slips; numbers are grades."""


class Loaded(NamedTuple):
    """The slide table without what is wrong in it, the splits as they were written, and what was found."""

    table: pd.DataFrame
    splits: dict[str, str]
    """Slide → its split, also where patients are in several; "" if it has none."""
    findings: list[Finding]


def load_table(source: Path | str | pd.DataFrame) -> Loaded:
    """The slide table, repaired as far as the audit needs it.

    Raises:
        InputError: If it is no table at all: nothing to read, no rows, or no column of slides.
    """
    text = read_text_table(source, "slides")
    folder = Path() if isinstance(source, pd.DataFrame) else Path(source).parent
    columns = {name: found for name, names in ALIASES.items() if (found := match_column(text, names))}
    if "slide" not in columns:
        read_slides(text)  # says so
    findings: list[Finding] = []
    text = _usable(text, columns["slide"], findings)
    if "file" in columns:
        text[columns["file"]] = [os.path.abspath(folder / file) if file else "" for file in text[columns["file"]]]
    for name, good, rule in (("mpp", _is_scale, "microns per pixel"), ("split", _is_split, f"one of {', '.join(SPLITS)}")):
        if name in columns:
            text[columns[name]] = _blanked(text[columns[name]], text[columns["slide"]], good, rule, findings)
    if text.empty:
        read_slides(text)
    written = text[columns["split"]] if "split" in columns else pd.Series("", index=text.index)
    if "split" in columns:
        text = text.drop(columns=columns["split"])
    table = read_slides(_slips(text, read_slides(text), findings))
    splits = {slide: _split(value) for slide, value in zip(table["slide"], written, strict=True)}
    table["split"] = table["slide"].map(splits).astype(str)
    findings += [*_patients(table, "patient" in columns), *_splits(table)]
    if not any(finding.check == TABLE for finding in findings):
        findings.insert(0, Finding("fine", TABLE, f"{count(len(table), 'slide')}, each named once."))
    return Loaded(table, splits, findings)


def _usable(text: pd.DataFrame, column: str, findings: list[Finding]) -> pd.DataFrame:
    """The rows whose slide has a name of its own that can be a file's."""
    odd = ~text[column].map(is_file_name).astype(bool)
    if odd.any():
        lines = [f"{name[:40]!r} ({where(row)})" for row, (name, bad) in enumerate(zip(text[column], odd, strict=True)) if bad]
        findings.append(Finding("mend", TABLE, f"{count(int(odd.sum()), 'slide')} with no name, or one that no file can have: "
                                f"{some(lines)}.", "Name them without /, \\ or a leading dot.", tuple(lines)))
    names = _names(text[column], column)
    twice = names.duplicated() & ~odd
    if twice.any():
        meant = tuple(dict.fromkeys(names[twice]))
        findings.append(Finding("mend", TABLE, f"{count(len(meant), 'slide')} {verb(meant, 'is', 'are')} named more than "
                                f"once: {some(meant)}. Only the first row of each is looked at here.",
                                "Keep one row per slide.", meant))
    return text[~(twice | odd)].reset_index(drop=True)


def _names(raw: pd.Series, column: str) -> pd.Series:
    """The slides' names as `read_slides` has them: of some columns it cuts a suffix off."""
    stems = raw.map(lambda name: Path(name).stem)
    doubtful = stems.duplicated(keep=False) & ~raw.duplicated(keep=False) & raw.map(is_file_name)
    return raw.where(~doubtful, [_read_name(name, column) if bad else name for name, bad in zip(raw, doubtful, strict=True)])


def _read_name(name: str, column: str) -> str:
    return str(read_slides(pd.DataFrame({column: [name]}))["slide"].iloc[0])


def _blanked(values: pd.Series, slides: pd.Series, good: Callable[[str], bool], rule: str,
             findings: list[Finding]) -> pd.Series:
    """A column without the values that are against the rule, which are told."""
    bad = [bool(value) and value.lower() not in MISSING and not good(value) for value in values]
    lines = tuple(f"`{value}` ({slide})" for value, slide, odd in zip(values, slides, bad, strict=True) if odd)
    if lines:
        findings.append(Finding("mend", SPLIT if str(values.name).lower() == "split" else TABLE,
                                f"{count(len(lines), 'value')} in `{values.name}` {verb(lines, 'is', 'are')} not {rule}: "
                                f"{some(lines)}.", "Correct them, or leave them empty.", lines))
    return values.where([not odd for odd in bad], "")


def _is_scale(value: str) -> bool:
    try:
        return bool(read_scale(value))
    except ValueError:
        return False


@lru_cache
def _split(value: str) -> str:
    """The split that a word stands for; read by `read_slides`, which knows the words."""
    return str(read_slides(pd.DataFrame({"slide": ["a"], "split": [value]}))["split"].iloc[0])


def _is_split(value: str) -> bool:
    try:
        return bool(_split(value))
    except ValueError:
        return False


def _patients(table: pd.DataFrame, given: bool) -> list[Finding]:
    if not given:
        return [Finding("look", "patients", "No column `patient`: every slide counts as a patient of its own.",
                        "Add it if some patients have several slides; else the same patient may be trained on and tested.")]
    found = []
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(table["patient"]):
        alike.setdefault(_folded(name), []).append(name)
    if same := [" and ".join(f"`{name}`" for name in names) for names in alike.values() if len(names) > 1]:
        found.append(Finding("look", "patients", f"Names that may be the same patient: {some(same)}.",
                             "Write each patient's name in one way.", tuple(same)))
    for task in tasks(table):
        mixed = table.groupby("patient")[task].nunique()
        if names := [str(name) for name, classes in mixed.items() if classes > 1]:
            found.append(Finding("look", "patients", f"{count(len(names), 'patient')} {verb(names, 'has', 'have')} slides of "
                                 f"both classes of `{task}`: {some(names)}.",
                                 "Right if labels are of slides; else correct them.", tuple(names)))
    number = table["patient"].nunique()
    return found or [Finding("fine", "patients", f"{count(number, 'patient')}, no two names alike.")]


def _folded(name: str) -> str:
    """A name without what people write differently: case, marks between, zeros in front of numbers.

    >>> _folded("P-007 a") == _folded("p7_A")
    True
    >>> _folded("1-11") == _folded("11-1")
    False
    """
    parts = re.findall(r"\d+|[^\W\d_]+", name.lower())
    return "-".join(part.lstrip("0") or "0" if part.isdigit() else part for part in parts) or name


def _splits(table: pd.DataFrame) -> list[Finding]:
    if not (table["split"] != "").any():
        return [Finding("open", SPLIT, "No slide has a split yet.", "`milscope split` divides the patients.")]
    found = []
    without = tuple(table["slide"][table["split"] == ""])
    if without:
        found.append(Finding("mend", SPLIT, f"{count(len(without), 'slide')} without a split: {some(without)}.",
                             "Complete the column, or remove it and let `milscope split` divide the patients.", without))
    crossing = table[table["split"] != ""].groupby("patient")["split"].unique()
    crossing = crossing[crossing.map(len) > 1]
    if len(crossing):
        lines = [f"{patient} ({', '.join(sorted(parts, key=SPLITS.index))})" for patient, parts in crossing.items()]
        found.append(Finding("mend", SPLIT, f"{count(len(lines), 'patient')} {verb(lines, 'is', 'are')} in more than one "
                             f"split: {some(lines)}.", "Move all slides of a patient to one split: what is tested must "
                             "not have been trained on.", tuple(lines)))
    return found or [Finding("fine", SPLIT, "Every patient is in one split.")]


@lru_cache
def _is_answer(value: str) -> bool:
    return tasks(read_slides(pd.DataFrame({"slide": ["a"], "label": [value]}))) == ["label"]


def _slips(text: pd.DataFrame, table: pd.DataFrame, findings: list[Finding]) -> pd.DataFrame:
    """The table as text without the few values that make text of a column of yes and no, which are told."""
    text = text.copy()
    for column in other_columns(table):
        odd = table[column].map(lambda value: value != "" and not _is_answer(value) and not _is_number(value)).astype(bool)
        others = table[column][~odd & (table[column] != "")]
        if 0 < odd.sum() <= max(1, FEW * len(others)) and len(others) > 1 and others.map(_is_answer).all():
            lines = tuple(f"`{value}` ({slide})" for value, slide in zip(table[column][odd], table["slide"][odd], strict=True))
            findings.append(Finding("mend", TABLE, f"`{column}` is yes or no but for {count(len(lines), 'value')}: "
                                    f"{some(lines)}.", "Correct them, or leave them empty: now the whole column counts "
                                    "as text.", lines))
            text.loc[odd.to_numpy(), column] = ""
    return text


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False
