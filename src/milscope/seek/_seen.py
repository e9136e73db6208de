"""Which slides are scored and which of them learned from, and what is seen of their cells."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8

from milscope.configs import SeekConfig
from milscope.slides import labels, read_slides
from milscope.store import GIGABYTE, CellStore, Pixels, feature_slides, read_cells, read_features
from milscope.types import InputError, refuse


class Cohort(NamedTuple):
    """The slides that are scored, by name, and the features of their cells.

    Attributes:
        task: The column of labels.
        table: slide, patient, split, and the task's column.
        label: 1 or 0 for slides to learn from, NaN for others.
        slide: The number of each cell's slide.
        starts: Where each slide's cells begin, and the number of all.
        features: Of all cells, in the order of the store; no columns without an encoder.
        left_out: Slides of the table that cannot be scored, and why.
    """

    task: str
    table: pd.DataFrame
    label: Float[np.ndarray, " slide"]
    slide: Int[np.ndarray, " cell"]
    starts: Int[np.ndarray, " bound"]
    features: Float[np.ndarray, "cell feature"]
    left_out: dict[str, str]


def read_cohort(store: CellStore, slides: Path | str | pd.DataFrame, features: Path | None, task: str) -> Cohort:
    """The slides of a table that have cells, and what a ranking may know of them.

    Raises:
        InputError: If there is no such task, no split, or not two slides of each class to learn from.
    """
    frame = read_slides(slides)
    task, _ = labels(frame, task)
    if not (frame["split"] == "train").any():
        raise refuse("split", "a column with train, validation and test", "no training slides", "Run `milscope split`.")
    frame = frame.sort_values("slide", ignore_index=True)
    found, left_out = _read(store, frame["slide"].tolist(), features)
    table = frame.loc[frame["slide"].isin(found), ["slide", "patient", "split", task]].reset_index(drop=True)
    label = np.where(table["split"].isin(("train", "validation")), table[task].astype(float), np.nan)
    counts = {name: int((label == value).sum()) for name, value in (("positive", 1), ("normal", 0))}
    if min(counts.values()) < 2:
        raise refuse("slides", "at least two positive and two normal ones with cells in training and validation",
                     ", ".join(f"{count} {name}" for name, count in counts.items()), "Add slides, or divide them otherwise.")
    cells = [store.count(slide) for slide in table["slide"]]
    return Cohort(task, table, label, np.repeat(np.arange(len(cells)), cells), np.cumsum([0, *cells]),
                  np.concatenate([found[slide] for slide in table["slide"]]), left_out)


def read_pixels(store: CellStore, cohort: Cohort, config: SeekConfig, cache: Path) -> UInt8[np.ndarray, "cell side side 3"]:
    """The decoded cells, as a memory map.

    Raises:
        InputError: If they do not fit.
    """
    size, need = config.size, len(cohort.slide) * config.size**2 * 3 / GIGABYTE
    if need > config.cache:
        raise refuse("cache", f"room for {len(cohort.slide):,} cells of {size} pixels, {need:.3g} GB", f"{config.cache:g} GB",
                     "Give more with `--cache`, or take a smaller `--size`.")
    Pixels(store, cohort.table["slide"].tolist(), size=size, cache=cache, budget=config.cache)
    return np.load(cache, mmap_mode="r")


def _read(store: CellStore, slides: list[str], features: Path | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The features of each slide that can be scored, and why others cannot."""
    encoded = set(feature_slides(features)) if features is not None else set()
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for slide in slides:
        if slide not in store.slides:
            left_out[slide] = "no cells"
        elif features is None:
            found[slide] = np.zeros((store.count(slide), 0), np.float32)
        elif slide not in encoded:
            left_out[slide] = "no features"
        else:
            own = _own_features(store, slide, features)
            found |= {} if isinstance(own, str) else {slide: own}
            left_out |= {slide: own} if isinstance(own, str) else {}
    if features is not None and not found:
        raise refuse("features", "of the slides' cells", next(iter(left_out.values())), "Encode the cells of this store.")
    return found, left_out


def _own_features(store: CellStore, slide: str, features: Path) -> Float[np.ndarray, "cell feature"] | str:
    """The features of a slide's cells as they stand in the store, means of cells encoded several times; else why not."""
    try:
        names, rows = read_cells(features, slide)["cell"], read_features(features, [slide]).features.numpy()
    except InputError as error:
        return str(error)
    if not np.isfinite(rows).all():
        return "features that are not finite"
    own = pd.Index(store.table(slide)["cell"].to_pylist())
    place = own.get_indexer(pd.Index(names))
    times = np.bincount(place[place >= 0], minlength=len(own))
    if (place < 0).any() or (times == 0).any():
        return "features of other cells than those in the store"
    if (times == 1).all():
        return rows[np.argsort(place)]
    sums = np.zeros((len(own), rows.shape[1]), np.float64)
    np.add.at(sums, place, rows)
    return (sums / times[:, None]).astype(np.float32)
