"""Is everything there: the files of the slides, their cells, and enough patients of each class in each split?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from milscope.check._files import Header
from milscope.check._finding import Finding, count, some, verb
from milscope.store import CellStore
from milscope.types import SPLITS

SUPPOSED = 0.85
"""The AUC at which is told how exact a measurement would be."""
WIDE = 0.1
"""Half the width of the interval from which too few patients are warned of."""


class ClassCount(NamedTuple):
    """How many slides and patients of a split have a class of a task."""

    task: str
    split: str
    """"" if there is no split."""
    label: str
    """"" if unknown."""
    slides: int
    patients: int


def judge_files(table: pd.DataFrame, files: Mapping[str, str], headers: Mapping[str, Header], looked_for: bool, *,
                crops: bool) -> Iterator[Finding]:
    """Which slides lack an image that can be opened."""
    if not looked_for and crops:
        yield Finding("open", "files", "The cells came as crops: there are no images of slides to look at.")
        return
    if not looked_for:
        yield Finding("open", "files", "The table has no column `file`, and no folder of images was given.",
                      "Give `--images`, or `--cells` with what `milscope tile` made.")
        return
    absent = tuple(slide for slide in table["slide"] if slide not in files)
    if absent:
        yield Finding("mend", "files", f"{count(len(absent), 'slide')} {verb(absent, 'has', 'have')} no image: {some(absent)}.",
                      "Correct names or paths, or remove the rows.", absent)
    broken = tuple(f"{slide} ({header.problem})" for slide, header in headers.items() if header.problem)
    if broken:
        yield Finding("mend", "files", f"{count(len(broken), 'image')} cannot be opened: {some(broken)}.",
                      "Correct the paths, or copy them again.", broken)
    if not absent and not broken:
        yield Finding("fine", "files", f"{count(len(files), 'image')}, every header can be read.")
    scales = [header.mpp for header in headers.values()]
    unknown = [slide for slide, mpp in zip(headers, scales, strict=True) if math.isnan(mpp)]
    unknown = [slide for slide in unknown if math.isnan(table["mpp"][table["slide"] == slide].iloc[0])]
    if unknown and len(unknown) < len(headers):
        yield Finding("look", "files", f"{count(len(unknown), 'slide')} without a scale (µm per pixel) while others have one: "
                      f"{some(unknown)}.", "Give it in a column `mpp`.", tuple(unknown))


def judge_cells(table: pd.DataFrame, store: CellStore, few: int, lost: Mapping[str, str]) -> Iterator[Finding]:
    """Which slides lack cells, or have very few."""
    failures = pd.read_csv(store.directory / "failures.csv", dtype=str, keep_default_na=False)
    failed = failures[(failures["cell"] == "") & failures["slide"].isin(table["slide"])]
    reasons = dict(zip(failed["slide"], failed["reason"], strict=True))
    there = set(store.slides)
    absent = tuple(f"{slide} ({reasons.get(slide, 'not tiled')})" for slide in table["slide"] if slide not in there)
    if absent:
        yield Finding("mend", "cells", f"{count(len(absent), 'slide')} {verb(absent, 'has', 'have')} no cells: {some(absent)}.",
                      "Correct what is wrong and tile again, or remove the rows.", absent)
    if lost:
        words = tuple(f"{slide} ({reason})" for slide, reason in lost.items())
        yield Finding("mend", "cells", f"The cells of {count(len(words), 'slide')} cannot be read: {some(words)}.",
                      "Tile again.", words)
    skipped = int((failures["cell"] != "").sum())
    counts = {slide: store.count(slide) for slide in table["slide"] if slide in there}
    if skipped:
        yield Finding("look", "cells", f"{count(skipped, 'cell')} {verb(skipped, 'was', 'were')} left out.",
                      f"Reasons are in {store.directory / 'failures.csv'}.")
    scarce = {slide: number for slide, number in sorted(counts.items(), key=lambda item: item[1]) if number < few}
    if scarce:
        words = tuple(f"{slide} ({number})" for slide, number in scarce.items())
        yield Finding("look", "cells", f"{count(len(scarce), 'slide')} {verb(scarce, 'has', 'have')} fewer than {few} cells: "
                      f"{some(words)}.", "The cells that show the disease may not be among them.", words)
    if counts and not (absent or lost or scarce or skipped):
        middle = int(np.median(list(counts.values())))
        yield Finding("fine", "cells", f"{count(sum(counts.values()), 'cell')}, {min(counts.values()):,} to "
                      f"{max(counts.values()):,} a slide, half of the slides {middle:,} or more.")


def count_classes(table: pd.DataFrame, tasks: Sequence[str]) -> list[ClassCount]:
    """Slides and patients of every class of every task, in every split that there is."""
    counts = []
    splits = [split for split in (*SPLITS, "") if (table["split"] == split).any()]
    for task in tasks:
        labels = _spoken(table[task])
        for split in splits:
            for label in sorted(set(labels), key=lambda label: (label == "", label)):
                mine = table[(table["split"] == split) & (labels == label)]
                counts.append(ClassCount(task, split, label, len(mine), mine["patient"].nunique()))
    return counts


def judge_classes(counts: Sequence[ClassCount]) -> Iterator[Finding]:
    """Where a class is missing, or too few patients have it for a measurement."""
    good = True
    for task in dict.fromkeys(each.task for each in counts):
        known = [each for each in counts if each.task == task and each.label]
        if len({each.label for each in known}) < 2:
            only = known[0].label if known else "none is known"
            yield Finding("mend", "classes", f"All labels of `{task}` are alike: {only}.",
                          "There is nothing to learn: add slides of the other class.")
            good = False
            continue
        for split in SPLITS:
            mine = [each for each in known if each.split == split]
            lacking = [each.label for each in mine if not each.slides]
            if lacking:
                yield Finding("mend", "classes", f"No {split} slide is {some(lacking)} for `{task}`.",
                              "Divide the patients anew.")
                good = False
            elif split == "test" and len(mine) == 2 and (wide := _half_width(*(each.patients for each in mine))) > WIDE:
                few = min(mine, key=lambda each: each.patients)
                yield Finding("look", "classes", f"Only {count(few.patients, 'test patient')} "
                              f"{verb(few.patients, 'is', 'are')} {few.label} for `{task}`: "
                              f"an AUC of {SUPPOSED:g} could be measured to about ±{wide:.2f}.",
                              "Give more patients to test, or let each take its turn (`milscope crossvalidate`).")
                good = False
    if counts and good:
        yield Finding("fine", "classes", "Every split has every class." if any(each.split for each in counts)
                      else "There are slides of every class.")


def found_images(images: Path | None) -> dict[str, list[Path]]:
    """The images of a folder by their names.

    Raises:
        InputError: If there is no such folder.
    """
    from milscope.slides import find_images
    from milscope.types import refuse

    try:
        return find_images(images) if images else {}
    except OSError as error:
        raise refuse("images", "a folder that can be listed", f"{error.strerror}: {images}", "Correct the path.") from error


def _spoken(values: pd.Series) -> pd.Series:
    if not is_numeric_dtype(values):
        return values
    return values.map(lambda value: "" if math.isnan(value) else "positive" if value == 1 else "negative").astype(str)


def _half_width(one: int, other: int) -> float:
    """Half the 95 % interval of an AUC of `SUPPOSED` on so many patients of either class.

    Source:
        Hanley, McNeil, The meaning and use of the area under a ROC curve, 1982, equation 1.
    """
    area = SUPPOSED
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (one - 1) * (first - area**2) + (other - 1) * (second - area**2)
    return 1.96 * math.sqrt(variance / (one * other))
