"""The stage `tile`: slides become cells, one Arrow file a slide, from crops, cell tables or whole slides."""

import json
import math
import shutil
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from milscope.configs import TileConfig
from milscope.pool import over_slides
from milscope.progress import progress
from milscope.slides import (
    Cell,
    DamagedError,
    Skip,
    SlideReader,
    cut_cells,
    encode_pixels,
    find_images,
    folder_cells,
    grid_cells,
    list_crops,
    open_slide,
    read_places,
    read_slides,
)
from milscope.store import CellWriter, Stage, fingerprint, fingerprint_files, write_text
from milscope.types import refuse

THUMBNAIL = 1024
COLUMNS = ("slide", "cells", "skipped", "width", "height", "mpp", "file")


class Tiled(NamedTuple):
    """What `tile` made: its directory, how many slides and cells it holds, and how many of either failed."""

    directory: Path
    slides: int
    cells: int
    failures: int


@dataclass(frozen=True)
class _Job:
    """All that a process needs to know about one slide."""

    slide: str
    source: str
    problem: str
    mpp: float | None
    crops: bool
    places: pd.DataFrame | None


def tile(
    slides: Path | str | pd.DataFrame, out: Path | str, *, cells: Path | str | None = None,
    images: Path | str | None = None, config: TileConfig | None = None,
) -> Tiled:
    """Writes the cells of every slide, with their places, scale and encoded images.

    Where cells come from: `cells` a folder: the crops `cells/<slide>/*.png|jpg|tif|bmp`, kept byte by byte. `cells` a
    table: squares around its centres `slide,x,y` are cut from the slide's image. No `cells`: a grid over the image.
    The image is the table's `file`, else `images/<slide>.*`. A damaged cell or slide is left out and listed in
    `failures.csv`. A run that was stopped goes on with the slides that were not finished.

    Args:
        slides: The slide table, see `read_slides`; labels and split play no part here.
        out: The artifact's directory.
        cells: Folder of crop folders, or cell table (CSV or Parquet; slide pixels of level 0).
        images: Folder of slide images, for slides without a `file`.
        config: Settings; sizes in pixels, scale in microns per pixel.

    Raises:
        InputError: If the input is unusable as a whole: no such path, an odd table, or not one good slide.
    """
    config = config or TileConfig()
    _check(config)
    table = read_slides(slides).sort_values("slide", ignore_index=True)
    jobs, inputs = _plan(table, Path(cells) if cells else None, Path(images) if images else None, config)
    with Stage(Path(out), "cells", config, inputs) as stage:
        if not stage.done:
            records = _work(jobs, stage.work, config)
            stage.summary.update(_finish(jobs, records, stage.work))
    return Tiled(Path(out), **stage.manifest.summary)


def _check(config: TileConfig) -> None:
    for name, rule, good in (
        ("size", "from 1 to 8192 pixels", 1 <= config.size <= 8192),
        ("mpp", "above 0 microns per pixel, or empty", config.mpp is None or 0 < config.mpp < math.inf),
        ("foreground", "a share from 0 to 1", 0 <= config.foreground <= 1),
        ("quality", "from 1 to 100", 1 <= config.quality <= 100),
        ("workers", "0 or more", config.workers >= 0),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")


def _plan(
    table: pd.DataFrame, cells: Path | None, images: Path | None, config: TileConfig
) -> tuple[list[_Job], dict[str, str]]:
    """One job a slide, and the fingerprints of all that goes in."""
    for name, path in (("cells", cells), ("images", images)):
        if path and not (path.exists() if name == "cells" else path.is_dir()):
            raise refuse(name, "there", f"no such {'path' if name == 'cells' else 'folder'}: {path}", "Correct the path.")
    crops = cells is not None and cells.is_dir()
    places: dict[str, pd.DataFrame] | None = None
    if crops:
        sources = [(str(cells / slide), "") for slide in table["slide"]]
        if config.mpp is not None:
            raise refuse("mpp", "empty for folders of crops, which are kept as they are", config.mpp, "Leave it out.")
    else:
        sources = _sources(table, images)
        if cells:
            places = _places(table, cells)
    scales = [None if math.isnan(mpp) else mpp for mpp in table["mpp"]]
    jobs = [_Job(slide, source, problem, mpp, crops, places.get(slide, _NO_PLACES) if places else None)
            for slide, (source, problem), mpp in zip(table["slide"], sources, scales, strict=True)]
    stamps = {job.slide: _stamp(job) for job in jobs}
    absent = [job for job in jobs if job.problem or stamps[job.slide] is None]
    if len(absent) == len(jobs):
        first = absent[0].problem or absent[0].source
        what = "folder of crops in `cells`" if crops else "image"
        raise refuse("slides", f"with a {what} each", f"none for all {len(jobs)}; the first: {first}", "Correct the paths.")
    inputs = {"slides": fingerprint([(job.slide, job.mpp, stamps[job.slide]) for job in jobs])}
    if cells and not crops:
        inputs["cells"] = fingerprint_files([cells])
    return jobs, inputs


_NO_PLACES = pd.DataFrame({"cell": [], "x": [], "y": []})


def _sources(table: pd.DataFrame, images: Path | None) -> list[tuple[str, str]]:
    """Each slide's image, or else what is wrong."""
    if images is None and not (table["file"] != "").any():
        raise refuse("slides", "with images or cells", "neither a column `file`, nor `images`, nor a folder `cells`",
                     "Give `cells` (a folder `cells/<slide>/*.jpg`), or `images` (a folder of `<slide>.*`), "
                     "or a column `file`; the last two with a cell table as `cells`, or without for grid tiles.")
    try:
        known = find_images(images) if images else {}
    except OSError as error:
        raise refuse("images", "a folder that can be listed", f"{error.strerror}: {images}", "Correct it.") from error
    sources = []
    for slide, file in zip(table["slide"], table["file"], strict=True):
        found = known.get(slide, [])
        if file or len(found) == 1:
            sources.append((file or str(found[0]), ""))
        elif found:
            names = ", ".join(path.name for path in found)
            sources.append(("", f"several images of this name: {names}; say which in a column `file`"))
        else:
            sources.append(("", f"no image {slide}.* in {images}" if images else "no `file` in the slide table"))
    return sources


def _places(table: pd.DataFrame, cells: Path) -> dict[str, pd.DataFrame]:
    places = {str(slide): rows[["cell", "x", "y"]] for slide, rows in read_places(cells).groupby("slide", sort=False)}
    if not places.keys() & set(table["slide"]):
        raise refuse("cells", "a table about the slides of the slide table", f"slides like `{next(iter(places))}`, "
                     f"where the slide table has `{table['slide'][0]}`", "Make the names agree.")
    return places


def _stamp(job: _Job) -> Any:  # noqa: ANN401
    """Names, sizes and times of a slide's files, None if there are none; nothing is read."""
    if job.problem:
        return None
    path = Path(job.source)
    try:
        if job.crops:
            return list_crops(path)
        files = sorted(path.glob("*.dcm")) if path.is_dir() else [path]
        return [(str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]] or None
    except OSError:
        return None


def _work(jobs: Sequence[_Job], work: Path, config: TileConfig) -> dict[str, dict[str, Any]]:
    """Does the slides that are not done yet; slide → record."""
    for folder in ("records", "thumbnails"):
        (work / folder).mkdir(exist_ok=True)
    paths = {job.slide: work / "records" / f"{job.slide}.json" for job in jobs}
    records = {slide: json.loads(path.read_text()) for slide, path in paths.items() if path.exists()}
    todo = [job for job in jobs if job.slide not in records]
    with progress("tile", len(jobs), "slides", len(records)) as advance:
        for job, record in over_slides(partial(_one_slide, work=work, config=config), todo, config.workers):
            records[job.slide] = record or _record(failures=[["", "the process that read it died (out of memory, or a crash)"]])
            advance(1)
    return records


def _one_slide(job: _Job, *, work: Path, config: TileConfig) -> dict[str, Any]:
    """Writes the cells of one slide and a record of it; the record is there only if the rest is."""
    record = _record(file=job.source)
    arrow, thumbnail = work / f"{job.slide}.arrow", work / "thumbnails" / f"{job.slide}.jpg"
    skips: list[Skip] = []
    try:
        if job.problem:
            raise DamagedError(job.problem)
        with _quiet(), nullcontext() if job.crops else open_slide(Path(job.source)) as reader:
            record["cells"] = _write_cells(arrow, job.slide, _cells(job, reader, config, record), skips)
            if reader:
                thumbnail.write_bytes(encode_pixels(reader.thumbnail(THUMBNAIL), 90))
        failures = skips
    except DamagedError as error:
        record["cells"] = 0
        failures = [Skip("", str(error)), *skips]
        for path in (arrow, thumbnail):
            path.unlink(missing_ok=True)
    record.update(skipped=len(skips), failures=[list(failure) for failure in failures])
    write_text(work / "records" / f"{job.slide}.json", json.dumps(record))
    return record


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keeps decoders from printing about odd metadata; what cannot be read is listed among the failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _write_cells(path: Path, slide: str, cells: Iterator[Cell | Skip], skips: list[Skip]) -> int:
    """Writes the good cells and adds the others to `skips`; gives the number of good ones."""
    with CellWriter(path, slide) as writer:
        for cell in cells:
            if isinstance(cell, Cell):
                writer.add(cell)
            else:
                skips.append(cell)
    if not writer.count:
        first = f"; the first, {skips[0].cell}: {skips[0].reason}" if skips else ""
        raise DamagedError(f"no good cell among {len(skips)}{first}")
    return writer.count


def _cells(job: _Job, reader: SlideReader | None, config: TileConfig, record: dict[str, Any]) -> Iterator[Cell | Skip]:
    if reader is None:
        record["mpp"] = job.mpp
        return folder_cells(Path(job.source), job.mpp)
    own = reader.mpp or job.mpp
    record.update(width=reader.size[0], height=reader.size[1], mpp=own)
    if config.mpp is not None and own is None:
        raise DamagedError("its scale is unknown, but `mpp` was asked for; give a column `mpp` (microns per pixel)")
    extent = config.size * config.mpp / own if config.mpp is not None and own else config.size
    options = {"extent": extent, "size": config.size, "mpp": config.mpp or own, "quality": config.quality}
    if job.places is None:
        return grid_cells(reader, job.slide, least=config.foreground, **options)
    if not len(job.places):
        raise DamagedError("no cells in the cell table")
    return cut_cells(reader, job.places, **options)


def _record(**values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"cells": 0, "skipped": 0, "width": None, "height": None, "mpp": None, "file": "", "failures": []} | values


def _finish(jobs: Sequence[_Job], records: dict[str, dict[str, Any]], work: Path) -> dict[str, int]:
    """Writes the tables and tidies up; gives the summary."""
    rows = [{"slide": job.slide} | records[job.slide] for job in jobs]
    failures = [(row["slide"], *failure) for row in rows for failure in row["failures"]]
    good = [row for row in rows if row["cells"]]
    if not good:
        slide, _, reason = failures[0]
        raise refuse("slides", "readable, at least one", f"{len(rows)} that are not; the first, {slide}: {reason}",
                     "Mend or replace them.")
    pd.DataFrame(good, columns=COLUMNS).to_csv(work / "slides.csv", index=False)
    pd.DataFrame(failures, columns=["slide", "cell", "reason"]).to_csv(work / "failures.csv", index=False)
    shutil.rmtree(work / "records")
    for leftover in work.glob(".*.tmp"):
        leftover.unlink()
    return {"slides": len(good), "cells": sum(int(row["cells"]) for row in good), "failures": len(failures)}
