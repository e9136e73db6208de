"""Where the cells of each slide come from: crops, an image, places; found before any of them is read."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from milscope.configs import TileConfig
from milscope.slides import find_images, list_crops, list_geojson, read_places
from milscope.store import fingerprint
from milscope.types import refuse

_NO_PLACES = pd.DataFrame({"cell": [], "x": [], "y": []})


@dataclass(frozen=True)
class Job:
    """All that a process needs to know about one slide.

    Attributes:
        slide: Its name.
        source: Its image, or its folder of crops.
        problem: What is wrong already; "" if nothing is.
        mpp: Microns per pixel of level 0 as the slide table says, None if it does not.
        crops: Whether `source` is a folder of crops.
        places: Its cells, columns `cell`, `x`, `y`, or the GeoJSON file that holds them; None if they are still to be found.
        stamp: Of all that goes into it: another one, another result.
    """

    slide: str
    source: str
    problem: str
    mpp: float | None
    crops: bool
    places: pd.DataFrame | Path | None
    stamp: str = ""


def plan_jobs(
    table: pd.DataFrame, cells: Path | None, images: Path | None, config: TileConfig
) -> tuple[list[Job], dict[str, str]]:
    """One job a slide, and the fingerprint of all that goes in.

    Args:
        table: The slide table, see `read_slides`.
        cells: Folder of crop folders, or of GeoJSON, or a cell table; None if there is none.
        images: Folder of images, for slides without a `file`; None if there is none.
        config: Settings of `tile`.

    Raises:
        InputError: If a path is missing, tables do not fit together, or there is nothing at all to read.
    """
    for name, path in (("cells", cells), ("images", images)):
        if path and not (path.exists() if name == "cells" else path.is_dir()):
            raise refuse(name, "there", f"no such {'path' if name == 'cells' else 'folder'}: {path}", "Correct the path.")
    outlines = _outlines(cells) if cells and cells.is_dir() else {}
    crops = cells is not None and cells.is_dir() and not outlines
    _fit(config, crops=crops, cells=cells)
    sources = [(str(cells / slide), "") for slide in table["slide"]] if crops and cells else _sources(table, images)
    places: Mapping[str, pd.DataFrame | Path] | None = None
    if cells and not crops:
        places = outlines or _places(cells)
        _match(table, places)
    jobs = []
    for slide, (source, problem), mpp in zip(table["slide"], sources, table["mpp"], strict=True):
        own = None if places is None else places.get(slide, _NO_PLACES)
        job = Job(slide, source, problem, None if math.isnan(mpp) else mpp, crops, own)
        jobs.append(replace(job, stamp=_stamp(job)))
    absent = [job for job in jobs if not job.stamp]
    if len(absent) == len(jobs):
        first = absent[0].problem or absent[0].source
        what = "folder of crops in `cells`" if crops else "image"
        raise refuse("slides", f"with a {what} each", f"none for all {len(jobs)}; the first: {first}", "Correct the paths.")
    return jobs, {"slides": fingerprint([(job.slide, job.stamp) for job in jobs])}


def _fit(config: TileConfig, *, crops: bool, cells: Path | None) -> None:
    """Refuses settings that could not have the effect somebody expects of them."""
    if crops and config.mpp is not None:
        raise refuse("mpp", "empty for folders of crops, which are kept as they are", config.mpp,
                     "Leave it out; `slide_mpp` says what their scale is.")
    if cells and config.find != "tiles":
        raise refuse("find", "left out where `cells` are given", f"`{config.find}`", "Leave one of them out.")
    if config.overlap and (cells or config.find != "tiles"):
        raise refuse("overlap", "0 where cells are not tiles of a grid", config.overlap, "Leave it out.")


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


def _outlines(cells: Path) -> dict[str, Path]:
    try:
        return list_geojson(cells)
    except OSError as error:
        raise refuse("cells", "a folder that can be listed", f"{error.strerror}: {cells}", "Correct it.") from error


def _places(cells: Path) -> dict[str, pd.DataFrame]:
    return {str(slide): rows[["cell", "x", "y"]] for slide, rows in read_places(cells).groupby("slide", sort=False)}


def _match(table: pd.DataFrame, places: Mapping[str, object]) -> None:
    if not places.keys() & set(table["slide"]):
        raise refuse("cells", "about the slides of the slide table", f"slides like `{next(iter(places))}`, "
                     f"where the slide table has `{table['slide'][0]}`", "Make the names agree.")


def _stamp(job: Job) -> str:
    """Of names, sizes and times of a slide's files, and of its places; "" if there are no files. Nothing is read."""
    if job.problem:
        return ""
    files = _crops(Path(job.source)) if job.crops else _files(Path(job.source))
    if not files:
        return ""
    places = None
    if isinstance(job.places, Path):
        files += _files(job.places)
    elif job.places is not None:
        digest = hashlib.sha256("\0".join(job.places["cell"]).encode())
        digest.update(job.places[["x", "y"]].to_numpy(float).tobytes())
        places = digest.hexdigest()[:16]
    return fingerprint([job.mpp, files, places])


def _crops(folder: Path) -> list[Any]:
    try:
        return list(list_crops(folder))
    except OSError:
        return []


def _files(path: Path) -> list[Any]:
    """Names, sizes and times of a file, or of the files of a DICOM slide; empty if there are none."""
    try:
        files = sorted(path.glob("*.dcm")) if path.is_dir() else [path]
        return [(str(file), status.st_size, status.st_mtime_ns) for file in files for status in [file.stat()]]
    except OSError:
        return []
