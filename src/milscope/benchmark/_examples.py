"""Cells that a method misses and its false alarms, with their pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from milscope.benchmark._gathered import Grid
from milscope.report import Picture, crop
from milscope.store import CellStore

SHOWN = 12
"""Most cells shown of each kind of error at each rate."""
CELLS = "cells"
"""Where the drawn cells of a seed and rate lie, beside the methods."""


class Shown(NamedTuple):
    """One cell: its picture, its rank among the cells of its slide, and whether the slide is positive."""

    picture: Picture
    cell: str
    rank: int
    of: int
    positive: bool


class Examples(NamedTuple):
    """The errors of a method at one rate, over all seeds.

    Attributes:
        rate: Which.
        witnesses: In the test slides.
        missed_count: Those that are not among the first W of their slide.
        missed: Those of the last ranks.
        alarms: Normal cells of the highest scores.
    """

    rate: float
    witnesses: int
    missed_count: int
    missed: list[Shown]
    alarms: list[Shown]


def examples(grid: Grid, method: str) -> list[Examples]:
    """The errors of a method at each rate of which the drawn cells are still there; seeds take turns."""
    found = []
    for rate in grid.rates:
        results = {seed: grid.results[seed, rate, method] for seed in grid.seeds if (seed, rate, method) in grid.results}
        stores = {seed: CellStore(path) for seed in results if (path := drawn_cells(grid.directory, seed, rate))}
        if not stores:
            continue
        shown = {kind: list(_shown(results, stores, kind)) for kind in ("missed", "alarms")}
        count = {name: sum(result[name] for result in results.values()) for name in ("witnesses", "missed_count")}
        found.append(Examples(rate, count["witnesses"], count["missed_count"], **shown))
    return found


def drawn_cells(directory: Path, seed: int, rate: float) -> Path | None:
    """The cell store of a seed and rate; None if it was not kept."""
    path = next((path for path in directory.glob(f"{seed}/*/{CELLS}") if float(path.parent.name) == rate), None)
    return path if path is not None and (path / "manifest.json").exists() else None


def _shown(results: dict[int, dict[str, Any]], stores: dict[int, CellStore], kind: str) -> Iterator[Shown]:
    left = {seed: list(results[seed][kind]) for seed in stores}
    for seed in _turns(left):
        row = left[seed].pop(0)
        picture = _picture(stores[seed], row["slide"], row["cell"])
        if picture is not None:
            yield Shown(picture, row["cell"], row["rank"], row["of"], row["positive"])


def _turns(left: dict[int, list[dict[str, Any]]]) -> Iterator[int]:
    """Seeds that have cells left, in turn, at most `SHOWN`."""
    given = 0
    while given < SHOWN and any(left.values()):
        for seed in left:
            if left[seed] and given < SHOWN:
                given += 1
                yield seed


def _picture(store: CellStore, slide: str, cell: str) -> Picture | None:
    names: Sequence[str] = store.table(slide)["cell"].to_pylist() if slide in store.slides else []
    return crop(store.images(slide, [names.index(cell)])[0]) if cell in names else None
