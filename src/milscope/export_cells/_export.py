"""The stage: ranked cells, slide by slide, in every form that was asked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.configs import ExportCellsConfig
from milscope.export_cells._crops import write_crops
from milscope.export_cells._gather import Exported, Slide, gather, read_table
from milscope.export_cells._qupath import write_geojson
from milscope.export_cells._tissuumaps import write_project
from milscope.progress import progress
from milscope.store import Stage, fingerprint_files
from milscope.types import refuse

PER_SLIDE: Mapping[str, Callable[[Slide, Path], None]] = {
    "qupath": write_geojson, "tissuumaps": write_project, "crops": write_crops}
FORMATS = ("qupath", "tissuumaps", "csv", "parquet", "crops")
PLACED = ("qupath", "tissuumaps")
"""Forms that say where cells lie on the image of a slide."""


class CellsExported(NamedTuple):
    """Where the files are, and how many cells of how many slides they hold."""

    directory: Path
    slides: int
    cells: int
    warnings: list[str]


def export_cells(ranked: str | Path, out: str | Path, config: ExportCellsConfig | None = None, *,
                 verdicts: str | Path | None = None, cells: str | Path | None = None) -> CellsExported:
    """Writes ranked cells as QuPath GeoJSON, TissUUmaps projects, tables or crops; a directory for each form.

    A cell's box is the square that its pixels were cut from: at the border of the slide it was moved inside.

    Args:
        ranked: A `ranked` artifact (`retrieve`), or a run that has one.
        out: Directory of the files.
        config: Settings; the defaults of `ExportCellsConfig` if None.
        verdicts: A table of `milscope verdicts`; its verdicts become the classes of cells.
        cells: The `cells` artifact (`tile`) of these slides, which knows their sizes and images; None: `tile` beside `ranked`.

    Raises:
        InputError: If a form is unknown, the cells have no places and a form needs them, or there is nothing to write.
    """
    config = config or ExportCellsConfig()
    unknown = [name for name in config.to if name not in FORMATS]
    if unknown or not config.to:
        raise refuse("to", "some of " + ", ".join(FORMATS), ", ".join(unknown) or "none", "For example `--to qupath,csv`.")
    if config.k < 0:
        raise refuse("k", "0 or more", config.k, "Give 0 for all that are ranked.")
    given = gather(Path(ranked), config, verdicts=_path(verdicts), cells=_path(cells))
    inputs = {**given.inputs, **({"verdicts": fingerprint_files([Path(verdicts)])} if verdicts else {})}
    with Stage(Path(out), "exported", config, inputs, given.patients) as stage:
        if not stage.done:
            table, warnings = _write_all(given, config, stage.work)
            stage.summary.update(slides=int(table["slide"].nunique()), cells=len(table), warnings=[*given.warnings, *warnings])
    summary = stage.manifest.summary
    return CellsExported(Path(out), summary["slides"], summary["cells"], summary["warnings"])


def _write_all(given: Exported, config: ExportCellsConfig, work: Path) -> tuple[pd.DataFrame, list[str]]:
    """Every slide in every form; gives all cells as one table, and what was left out."""
    needing = [name for name in config.to if name in PLACED]
    placed = read_table(given)["x"].notna()
    if needing and not placed.any():
        raise refuse("to", "csv, parquet or crops for cells without a place on a slide", ", ".join(needing),
                     "Leave it out; crops that were cut elsewhere have no place.")
    tables, warnings = [], []
    with progress("export", len(given.slides), "slides") as advance:
        for name in given.slides:
            slide = given.read(name, images="crops" in config.to)
            for form in config.to:
                if form in PLACED and not slide.placed.any():
                    warnings.append(f"no {form} file of slide {name}: its cells have no places")
                elif form in PER_SLIDE:
                    folder = work / form
                    folder.mkdir(exist_ok=True)
                    PER_SLIDE[form](slide, folder)
            tables.append(slide.cells.drop(columns="image", errors="ignore"))
            advance(1)
    table = pd.concat(tables, ignore_index=True)
    if "csv" in config.to:
        table.to_csv(work / "cells.csv", index=False)
    if "parquet" in config.to:
        table.to_parquet(work / "cells.parquet", index=False)
    return table, warnings


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
