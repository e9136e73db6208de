"""What is exported: the ranked cells of each slide, the boxes that they were cut from, verdicts on them, and its image."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float

from milscope.configs import ExportCellsConfig
from milscope.judged import match_verdicts, read_verdicts
from milscope.ranking import find_scores
from milscope.slides import ALIASES, PLACE_NAMES, match_column, read_text_table
from milscope.store import CellStore, Frame, Manifest, artifact_kind, read_manifest
from milscope.types import refuse

_PLACES = ("x", "y", "width", "height")
_COLUMNS = ("slide", "rank", "cell", "score", *_PLACES)


class Slide(NamedTuple):
    """One slide as it is exported.

    Attributes:
        name: Of the slide.
        cells: Its ranked cells: slide, rank, cell, score, x, y (centre), width, height, left, top (of the box that was cut),
            verdict ("" if nobody judged it), all in slide pixels of level 0; `image` (bytes) if it was asked for.
        frame: Its size and scale; NaN where unknown.
        file: Its image; None if there is none any more.
        thumbnail: A small picture of it; None if there is none.
        on_grid: Whether its cells are the tiles of a grid.
    """

    name: str
    cells: pd.DataFrame
    frame: Frame
    file: Path | None
    thumbnail: Path | None
    on_grid: bool

    @property
    def placed(self) -> Bool[np.ndarray, " cell"]:
        """Which cells have a place on the slide."""
        return np.isfinite(self.cells[[*_PLACES]].to_numpy(float)).all(axis=1)


class Exported(NamedTuple):
    """Where everything is.

    Attributes:
        folder: Of the ranked cells of the task.
        slides: Names of the slides that have some.
        k: Most cells of each; 0: all.
        store: The cells of `tile`, if they are there.
        files: Slide → its image, as `tile` read it.
        verdicts: As `read_verdicts` gives them, with what exactly was said in `verdict`; None if none were given.
        inputs: Name → fingerprint.
        patients: Whose cells the model has learned from.
        warnings: What the user should know.
    """

    folder: Path
    slides: list[str]
    k: int
    store: CellStore | None
    files: dict[str, str]
    verdicts: pd.DataFrame | None
    inputs: dict[str, str]
    patients: list[str]
    warnings: list[str]

    def read(self, slide: str, *, images: bool) -> Slide:
        """A slide's ranked cells, best first."""
        columns = [*_COLUMNS, *(("image",) if images else ())]
        with pa.memory_map(str(self.folder / f"{slide}.arrow")) as file:
            cells = pa.ipc.open_file(file).read_all().select(columns).slice(0, self.k or None).to_pandas()
        cells[[*_PLACES]] = cells[[*_PLACES]].astype(float)
        frame, picture, grid = Frame(math.nan, math.nan, math.nan), None, False
        if self.store is not None:
            frame, grid = self.store.frame(slide), _on_grid(cells, self.store)
            picture = self.store.directory / "thumbnails" / f"{slide}.jpg"
        size = self.store.manifest.config.get("size", 0) if self.store is not None else 0
        cells["left"] = corner(cells["x"].to_numpy(), cells["width"].to_numpy(), frame.width, size)
        cells["top"] = corner(cells["y"].to_numpy(), cells["height"].to_numpy(), frame.height, size)
        if self.verdicts is not None:
            cells["verdict"] = _classes(self.verdicts[self.verdicts["slide"] == slide], cells)
        file = Path(self.files[slide]) if self.files.get(slide) else None
        return Slide(slide, cells, frame, file if file and file.is_file() else None,
                     picture if picture and picture.is_file() else None, grid)


def gather(ranked: Path, config: ExportCellsConfig, *, verdicts: Path | None, cells: Path | None) -> Exported:
    """Finds what belongs to the ranked cells.

    Raises:
        InputError: If there are no ranked cells, none of the task, or the other artifacts are not theirs.
    """
    if artifact_kind(ranked) != "ranked" and artifact_kind(ranked / "retrieve") == "ranked":
        ranked = ranked / "retrieve"
    origin = read_manifest(ranked, "ranked")
    folder = _of_task(ranked, config.task, find_scores(ranked.parent, origin.inputs.get("scores", "")))
    table = pd.read_csv(folder / "ranked.csv", usecols=["slide", "cell"], dtype=str, keep_default_na=False)
    if table.empty:
        raise refuse("ranked", "cells of some slide", "none", "Run `retrieve` on scores of slides that have cells.")
    store = _store(ranked, origin, cells)
    judged = _read_verdicts(verdicts) if verdicts else None
    warnings = [] if store else ["sizes, scales and images of the slides are not known: give the `tile` directory by `--cells`"]
    named = table.iloc[:0] if judged is None else judged.loc[judged["cell"] != "", ["slide", "cell"]]
    lost = len(named) - len(named.merge(table, on=["slide", "cell"]))
    if judged is not None and 0 < lost == len(judged):
        raise refuse("verdicts", "on cells that are among the ranked", f"none of {lost}, in {verdicts}",
                     "Give the table of this run, or rank more cells.")
    if lost:
        warnings.append(f"{lost} of the verdicts are on cells that are not among the ranked, and are left out")
    inputs = {"ranked": origin.fingerprint, **({"cells": store.manifest.fingerprint} if store else {})}
    slides = list(dict.fromkeys(table["slide"]))
    return Exported(folder, slides, config.k, store, _files(store), judged, inputs, origin.patients, warnings)


def read_table(given: Exported) -> pd.DataFrame:
    """Places of all ranked cells, without their pixels."""
    return pd.read_csv(given.folder / "ranked.csv", usecols=["slide", "x", "y"], dtype={"slide": str}, keep_default_na=False,
                       na_values={"x": [""], "y": [""]})


def corner(centre: Float[np.ndarray, " cell"], extent: Float[np.ndarray, " cell"], side: float, size: int,
           ) -> Float[np.ndarray, " cell"]:
    """Where the box of a cell begins along an axis, as `tile` cut it: at a whole pixel if not resampled, and inside the slide.

    Args:
        centre: Of each cell, slide pixels; NaN gives NaN.
        extent: Of each cell, slide pixels.
        side: Of the slide, slide pixels; NaN if unknown.
        size: Of the stored crop, pixels; 0 if unknown.
    """
    start = centre - extent / 2
    start = np.where(extent == size, np.floor(start + 0.5), start)
    return np.maximum(np.minimum(start, side - extent), 0) if np.isfinite(side) else start


def _read_verdicts(path: Path) -> pd.DataFrame:
    """One row a cell with its label, and the word of the table where that says more: artefact, unsure."""
    table, text = read_verdicts(path), read_text_table(path, "verdicts")
    slide, cell, word = (match_column(text, names) for names in (ALIASES["slide"], PLACE_NAMES["cell"], ("verdict",)))
    verdict = pd.Series(np.select([table["label"] == 1, table["label"] == 0], ["abnormal", "normal"], "unsure"), table.index)
    if slide and cell and word:
        said = {(row[0], row[1]): str(row[2]).lower() for row in text[[slide, cell, word]].itertuples(index=False)}
        own = [said.get(key, "") for key in zip(table["slide"], table["cell"], strict=True)]
        verdict = verdict.mask((table["label"] == 0) & np.isin(own, ["artefact", "artifact"]), "artefact")
    return table.assign(verdict=verdict)


def _classes(verdicts: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    """The verdict on each cell of a slide, found by its name or place; "" if there is none."""
    labels = match_verdicts(verdicts, cells)
    named = dict(zip(verdicts["cell"], verdicts["verdict"], strict=True))
    return [named.get(cell, "") or {1.0: "abnormal", 0.0: "normal"}.get(label, "")
            for cell, label in zip(cells["cell"], labels.tolist(), strict=True)]


def _of_task(ranked: Path, task: str, scores: Path) -> Path:
    """The folder of the ranked cells of a task; the scores know the main one's name."""
    main = str(read_manifest(scores, "scores").summary.get("task", "")) if artifact_kind(scores) == "scores" else ""
    if not task or task == main:
        return ranked
    if not (ranked / "tasks" / task / "ranked.csv").is_file():
        others = sorted(path.parent.name for path in ranked.glob("tasks/*/ranked.csv"))
        raise refuse("task", "one by which cells were ranked: " + (", ".join(filter(None, [main, *others])) or "the main one"),
                     task, "Choose one, or leave it out for the main one.")
    return ranked / "tasks" / task


def _store(ranked: Path, origin: Manifest, cells: Path | None) -> CellStore | None:
    """The cells that were ranked; those of `tile` beside them, if nobody names others."""
    beside = ranked.parent / "tile"
    if cells is None and artifact_kind(beside) != "cells":
        return None
    store = CellStore(cells or beside)
    if store.manifest.fingerprint == origin.inputs.get("cells"):
        return store
    if cells is None:
        return None
    raise refuse("cells", "those that were ranked", f"others, in {cells}", "Give the directory that `retrieve` was given.")


def _files(store: CellStore | None) -> dict[str, str]:
    if store is None:
        return {}
    table = pd.read_csv(store.directory / "slides.csv", dtype=str, keep_default_na=False)
    return dict(zip(table["slide"], table["file"], strict=True)) if "file" in table else {}


def _on_grid(cells: pd.DataFrame, store: CellStore) -> bool:
    """Whether all cells lie where the tiles of a grid would."""
    config = store.manifest.config
    size, overlap = config.get("size", 0), config.get("overlap", 0)
    extent = cells["width"].to_numpy()
    if not size or not np.isfinite(cells[["x", "y"]].to_numpy()).all() or np.ptp(extent) > 1e-6:
        return False
    steps = (cells[["x", "y"]].to_numpy() - extent[:, None] / 2) / (extent[:, None] * (size - overlap) / size)
    return bool((np.abs(steps - np.rint(steps)) < 1e-6).all())
