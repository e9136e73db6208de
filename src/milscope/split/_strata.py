"""Who has which class of which task: what a division has to share out."""

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.api.types import is_numeric_dtype

from milscope.slides import tasks
from milscope.types import refuse

Strata = dict[tuple[str, str], Counter[str]]
"""Task and class → who has it, with how many patients: a patient with one, or a site. Class "" is unknown."""


def columns_of(frame: pd.DataFrame, task: str) -> list[str]:
    names = [task] if task in frame else [name.strip() for name in task.split(",") if name.strip()]
    for name in names:
        if name not in frame:
            raise refuse("task", "a column of the slide table", f"`{name}`", f"There is: {', '.join(tasks(frame))}.")
    return names or tasks(frame)


def sites_of(frame: pd.DataFrame, site: str) -> dict[str, str]:
    """Patient → site."""
    if site not in frame:
        raise refuse("site", "a column of the slide table", f"`{site}`", f"There is: {', '.join(frame.columns)}.")
    values = frame[site].where(frame[site].notna(), "").astype(str)
    if (values == "").any():
        raise refuse(site, "given for every slide", f"none for `{frame['slide'][values == ''].iloc[0]}`", "Complete it.")
    sites: dict[str, str] = {}
    for patient, value in zip(frame["patient"], values, strict=True):
        if sites.setdefault(patient, value) != value:
            raise refuse(site, "the same for all slides of a patient", f"`{sites[patient]}` and `{value}` for `{patient}`",
                         "Correct the column.")
    return sites


def strata_of(frame: pd.DataFrame, names: Sequence[str], units: Mapping[str, str] | None = None) -> Strata:
    """The patients of each class of each task, counted by patient, or by the unit each belongs to."""
    strata: Strata = {}
    for name in names or ["patients"]:
        for patient, labels in _classes(frame, name).items():
            for label in sorted(labels):
                strata.setdefault((name, label), Counter())[units[patient] if units else patient] += 1
    return strata


def _classes(frame: pd.DataFrame, name: str) -> dict[str, set[str]]:
    """The classes of each patient, in the order of their names; {""} if unlabelled."""
    slides = frame.groupby("patient")
    if name not in frame:
        return {str(patient): {""} for patient in slides.groups}
    if is_numeric_dtype(frame[name]):
        spoken = {0.0: "negative", 1.0: "positive"}
        return {str(patient): {spoken.get(label, "")} for patient, label in slides[name].max().items()}
    return {str(patient): set(labels) - {""} or {""} for patient, labels in slides[name]}
