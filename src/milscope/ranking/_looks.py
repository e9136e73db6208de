"""What cells look like, for orders that learn from few verdicts: features, or plain measures that are kept in files."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from milscope.pool import over_slides
from milscope.progress import progress
from milscope.ranking._measures import measure_cells
from milscope.store import CellStore, feature_slides, read_cells, read_features, temporary_name
from milscope.types import refuse

SIZE = 64
"""Side of a cell when it is measured, pixels."""
ALONE = 3000
"""Fewer cells than these are measured in this process: others would take longer to begin."""
FOLDER = "measures"
"""Where measures lie in a `ranked` artifact: `<slide>.npz` with `rows` of the cell store and `measures` (row, measure)."""


class Looks:
    """Looks of cells, slide by slide.

    Args:
        store: The cells.
        features: A `features` artifact of them; None: cells are measured.
        work: Where measures are kept.
        earlier: Where measures of the same cells may be from before; files of slides that are not there are left out.
    """

    def __init__(self, store: CellStore, features: Path | None, work: Path, earlier: Path | None) -> None:
        self.store, self.features = store, features
        self.places = [work / FOLDER, *([earlier / FOLDER] if earlier else [])]
        if features is None:
            self.places[0].mkdir(parents=True, exist_ok=True)
        self.encoded = set(feature_slides(features)) if features is not None else set[str]()

    def prepare(self, wanted: Iterable[tuple[str, Int[np.ndarray, " row"]]]) -> None:
        """Measures what was not measured before, over all cores; slides that are finished are kept if it is interrupted.

        Args:
            wanted: Slides and the numbers of cells in the store; read only if cells are measured.
        """
        if self.features is not None:
            return
        total, jobs = 0, []
        for slide, rows in wanted:
            total, lacking = total + len(rows), np.setdiff1d(rows, self._kept(slide))
            jobs += [(slide, lacking)] if len(lacking) else []
        cells = sum(len(rows) for _, rows in jobs)
        with progress("measure", total, "cells", total - cells) as advance:
            for (_, rows), _ in over_slides(partial(_measure, self), jobs, 1 if cells < ALONE else 0):
                advance(len(rows))  # a slide whose process died is measured where it is asked for

    def of(self, slide: str, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row look"]:
        """The looks of those cells of a slide.

        Args:
            slide: Its name.
            rows: Numbers of the cells in the store.

        Raises:
            InputError: If features are asked for and are not those of the cells.
        """
        return self._measured(slide, rows) if self.features is None else self._encoded(slide, self.features)[rows]

    def _measured(self, slide: str, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row look"]:
        known, measures = self._kept(slide), self._kept(slide, "measures")
        new = np.setdiff1d(rows, known)
        if len(new):
            groups = measure_cells(self.store.decode(slide, new, SIZE))
            own = np.concatenate([each.reshape(len(new), -1) for each in groups.values()], 1)
            known, measures = np.concatenate([known, new]), np.concatenate([measures, own]) if len(known) else own
        self._keep(slide, known, measures)
        order = np.argsort(known)
        return measures[order[np.searchsorted(known, rows, sorter=order)]]

    def _kept(self, slide: str, what: str = "rows") -> np.ndarray:
        for place in self.places:
            if (place / f"{slide}.npz").exists():
                with np.load(place / f"{slide}.npz") as file:
                    return file[what]
        return np.empty(0, np.int64)

    def _keep(self, slide: str, rows: Sequence[int] | np.ndarray, measures: np.ndarray) -> None:
        path = self.places[0] / f"{slide}.npz"
        if path.exists() and len(self._kept(slide)) == len(rows):
            return
        with temporary_name(path).open("wb") as file:
            np.savez(file, rows=rows, measures=measures)
        temporary_name(path).replace(path)

    def _encoded(self, slide: str, features: Path) -> Float[np.ndarray, "row look"]:
        """The features of all cells in the order of the store, means of cells that were encoded several times."""
        wanted = self.store.table(slide)["cell"].to_pylist()
        if slide in self.encoded:
            found = pd.DataFrame(read_features(features, [slide]).features.numpy(), index=read_cells(features, slide)["cell"])
            found = found if found.index.is_unique else found.groupby(level=0).mean()
            values = found.reindex(wanted).to_numpy()
            if np.isfinite(values).all():
                return values
        raise refuse("features", "of the cells of all slides, and finite", f"none of some cells of slide {slide}",
                     "Encode these cells, or leave `--features` out: then cells are measured.")


def _measure(looks: Looks, job: tuple[str, Int[np.ndarray, " row"]]) -> None:
    """In a process of its own: the measures are left in their file."""
    looks.of(*job)
