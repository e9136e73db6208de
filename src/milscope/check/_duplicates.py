"""The same picture more than once: within a slide, between patients, between splits, under two labels."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from milscope.check._cells import Cells
from milscope.check._finding import Finding, count, some, verb
from milscope.check._pictures import alike
from milscope.slides import tasks

MOST_SLIDES = 50
"""Groups of more slides are not told pair by pair."""
COPY = 0.5
"""Two slides that share this part of the smaller one's cells are copies."""


class Groups(NamedTuple):
    """The group of each cell; -1 for cells that are alone. And whether the copies of a group are identical."""

    group: Int[np.ndarray, " cell"]
    identical: Bool[np.ndarray, " group"]


def group_cells(cells: Cells, least: float) -> Groups:
    """Groups of cells with identical or nearly identical pictures; plain pictures take no part."""
    rows = np.flatnonzero(~cells.plain)
    _, first, content = np.unique(cells.contents[rows], axis=0, return_index=True, return_inverse=True)
    joined = alike(cells.marks[rows[first]], least)
    part = joined[content.ravel()]
    repeated = np.bincount(part)[part] > 1
    group = np.full(len(cells.plain), -1)
    names, group[rows[repeated]] = np.unique(part[repeated], return_inverse=True)
    return Groups(group, np.bincount(joined, minlength=len(names))[names] == 1)


def duplicate_table(cells: Cells, groups: Groups, names: dict[str, list[str]], table: pd.DataFrame) -> pd.DataFrame:
    """A row for every cell of a group: `group`, `kind`, `slide`, `cell`, `patient`, `split`."""
    rows = np.flatnonzero(groups.group >= 0)
    slides = np.array(cells.slides, dtype=object)[cells.owner[rows]]
    inside = rows - np.searchsorted(cells.owner, cells.owner[rows])
    about = table.set_index("slide")[["patient", "split"]].reindex(slides)
    frame = pd.DataFrame({
        "group": groups.group[rows], "kind": np.where(groups.identical[groups.group[rows]], "identical", "alike"),
        "slide": slides, "cell": [names[slide][row] for slide, row in zip(slides, inside, strict=True)],
        "patient": about["patient"].to_numpy(), "split": about["split"].to_numpy()})
    return frame.sort_values(["group", "slide", "cell"], ignore_index=True)


def judge_duplicates(found: pd.DataFrame, cells: Cells, table: pd.DataFrame) -> Iterator[Finding]:
    """What the groups of a duplicate table mean."""
    check = "duplicate cells"
    by = found.groupby("group")
    between = {group for group, patients in by["patient"].unique().items() if len(patients) > 1}
    across = {group for group, splits in by["split"].unique().items() if len(set(splits) - {""}) > 1}
    inside = found[~found["group"].isin(between)]
    extra = len(inside) - inside["group"].nunique()
    for groups, level, where, action in (
        (across, "mend", "in more than one split",
         "What is tested was trained on: remove the copies, or move these slides to one split."),
        (between - across, "look", "on slides of different patients",
         "One patient under two names, images that overlap, or files mixed up: correct `patient`, or remove the copies."),
    ):
        if groups:
            rows = found[found["group"].isin(groups)]
            shared = tuple(_pair_words(rows))
            yield Finding(level, check, f"{count(len(groups), 'picture')} {verb(len(groups), 'is', 'are')} {where}: "
                          f"{some(shared)}.", action, shared)
    if extra:
        share = extra / max(1, len(cells.owner))
        slides = Counter(inside["slide"])
        level = "look" if share >= 0.01 else "fine"
        yield Finding(level, check, f"{count(extra, 'cell')} ({share:.1%}) {verb(extra, 'is', 'are')} on one patient's slides "
                      f"more than once; most on {some(slide for slide, _ in slides.most_common())}.",
                      "Harmless if few; else they count double." if level == "fine" else "They count double: remove them.",
                      tuple(slides))
    for task, groups in _contradictions(found, table).items():
        yield Finding("look", check, f"{count(groups, 'picture')} {verb(groups, 'is', 'are')} on slides of both classes of "
                      f"`{task}`.", "One of the labels may be wrong.")
    twice = {slide: look.twice for slide, look in cells.looks.items() if look.twice}
    if twice:
        total = sum(twice.values())
        yield Finding("look", check, f"{count(total, 'cell')} on {count(len(twice), 'slide')} {verb(total, 'lies', 'lie')} on "
                      f"top of another: {some(twice)}.", "Two detections of one cell: thin out the cell table.", tuple(twice))
    if not len(found) and not twice:
        yield Finding("fine", check, f"None among {count(len(cells.owner), 'cell')}, identical or nearly.")


def judge_copies(found: pd.DataFrame, alike_slides: list[tuple[str, str]], same: list[list[str]], counts: dict[str, int],
                 table: pd.DataFrame) -> Iterator[Finding]:
    """Slides that are copies of each other: by their files, their cells, or their thumbnails."""
    split = dict(zip(table["slide"], table["split"], strict=True))
    reasons: dict[tuple[str, str], str] = {}
    for one, other in alike_slides:
        reasons[one, other] = "thumbnails alike"
    for (one, other), number in _pairs(found).items():
        if number >= COPY * min(counts[one], counts[other]):
            reasons[one, other] = f"{number} of {min(counts[one], counts[other])} cells"
    for group in same:
        for pair in list(combinations(sorted(group), 2))[:MOST_SLIDES]:
            reasons[pair] = "the same file"
    crossing = {pair for pair in reasons if len({split[slide] for slide in pair} - {""}) > 1}
    for pairs, level, action in (
        (crossing, "mend", "They are in different splits: keep one of each."),
        (reasons.keys() - crossing, "look", "Keep one of each, or correct the files."),
    ):
        words = tuple(f"{one} and {other} ({reasons[one, other]})" for one, other in sorted(pairs))
        if words:
            yield Finding(level, "duplicate slides", f"{count(len(words), 'pair')} of slides that are copies: {some(words)}.",
                          action, words)


def _pair_words(rows: pd.DataFrame) -> Iterator[str]:
    """Pairs of slides and how many pictures they share, the most first."""
    split = dict(zip(rows["slide"], rows["split"], strict=True))
    for (one, other), number in _pairs(rows).most_common():
        places = f" in {split[one]} and {split[other]}" if split[one] != split[other] else ""
        yield f"{one} and {other}{places} share {number}"
    for group in _large(rows):
        yield f"one picture is on {group} slides"


def _pairs(rows: pd.DataFrame) -> Counter[tuple[str, str]]:
    pairs: Counter[tuple[str, str]] = Counter()
    for slides in rows.groupby("group")["slide"].unique():
        if len(slides) <= MOST_SLIDES:
            pairs.update((str(one), str(other)) for one, other in combinations(sorted(slides), 2))
    return pairs


def _large(rows: pd.DataFrame) -> list[int]:
    sizes = rows.groupby("group")["slide"].nunique()
    return sorted(sizes[sizes > MOST_SLIDES], reverse=True)


def _contradictions(found: pd.DataFrame, table: pd.DataFrame) -> dict[str, int]:
    """Task → pictures that are on slides of both classes."""
    labels = table.set_index("slide")
    classes = {task: found["slide"].map(labels[task]).groupby(found["group"]).nunique() for task in tasks(table)}
    counts = {task: int((each > 1).sum()) for task, each in classes.items()}
    return {task: number for task, number in counts.items() if number}
