"""Tile: every slide on its own, in a process that may die, with a record of what became of it."""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.configs import TileConfig
from milscope.pool import Lost, over_slides
from milscope.progress import progress
from milscope.slides import read_slides
from milscope.store import Stage
from milscope.tile._records import Record, Records
from milscope.tile._slide import tile_slide
from milscope.tile._sources import Job, plan_jobs
from milscope.types import refuse


class Tiled(NamedTuple):
    """What `tile` made: its directory, how many slides and cells it holds, and how many of either failed."""

    directory: Path
    slides: int
    cells: int
    failures: int


def tile(
    slides: Path | str | pd.DataFrame, out: Path | str, *, cells: Path | str | None = None,
    images: Path | str | None = None, config: TileConfig | None = None,
) -> Tiled:
    """Writes the cells of every slide, with their places, scale and encoded images.

    Where cells come from: `cells` a folder of crops, `cells/<slide>/*.png|jpg|tif|bmp`, kept byte by byte. `cells` a
    table with columns `slide,x,y`, or GeoJSON: squares around those centres are cut from the slide's image. No `cells`: a
    grid over the image, or with `find="nuclei"` squares around the nuclei that are found. The image is the table's
    `file`, else `images/<slide>.*`. A damaged cell or slide is left out and listed in `failures.csv`. A run that was
    stopped goes on with the slides that were not finished, and slides that have not changed are not tiled again.

    Args:
        slides: The slide table, see `read_slides`; labels and split play no part here.
        out: The artifact's directory.
        cells: Folder of crop folders, cell table (CSV or Parquet) or GeoJSON (file, or folder of `<slide>.geojson`);
            places in slide pixels of level 0.
        images: Folder of slide images, for slides without a `file`.
        config: Settings; sizes in pixels, scale in microns per pixel.

    Raises:
        InputError: If the input is unusable as a whole: no such path, an odd table, or not one good slide.
    """
    config = config or TileConfig()
    _check(config)
    table = read_slides(slides).sort_values("slide", ignore_index=True)
    jobs, inputs = plan_jobs(table, Path(cells) if cells else None, Path(images) if images else None, config)
    with Stage(Path(out), "cells", config, inputs, again=config.retry_failed, keeps_work=True) as stage:
        if not stage.done:
            records = Records(jobs, stage.work, stage.earlier, retry=config.retry_failed)
            _work(records, stage.work, config)
            stage.summary.update(records.finish())
    summary = stage.manifest.summary
    return Tiled(Path(out), summary["slides"], summary["cells"], summary["failures"])


def _check(config: TileConfig) -> None:
    for name, rule, good in (
        ("size", "from 1 to 8192 pixels", 1 <= config.size <= 8192),
        ("mpp", "above 0 microns per pixel, or empty", config.mpp is None or 0 < config.mpp < math.inf),
        ("slide_mpp", "above 0 microns per pixel, or empty", config.slide_mpp is None or 0 < config.slide_mpp < math.inf),
        ("overlap", "from 0 pixels to less than `size`", 0 <= config.overlap < config.size),
        ("nucleus", "above 0 and at most 100 microns", 0 < config.nucleus <= 100),
        ("contrast", "0 or more", config.contrast >= 0),
        ("foreground", "a share from 0 to 1", 0 <= config.foreground <= 1),
        ("quality", "from 1 to 100", 1 <= config.quality <= 100),
        ("workers", "0 or more", config.workers >= 0),
        ("limit", "above 0 seconds, or 0 for none", 0 <= config.limit < math.inf),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")


def _work(records: Records, work: Path, config: TileConfig) -> None:
    """Does the slides that are not done yet."""
    with progress("tile", len(records.jobs), "slides", len(records.jobs) - len(records.missing)) as advance:
        over = over_slides(partial(_one_slide, work=work, config=config), records.missing, config.workers,
                           limit=config.limit or None,
                           executor=config.executor, address=config.address, shared=work)
        for job, record in over:
            records.add(job, Record.failed(job, record.reason) if isinstance(record, Lost) else record)
            advance(1)


def _one_slide(job: Job, *, work: Path, config: TileConfig) -> Record:
    """Writes the cells of one slide, and then its record: it is there only if the rest is."""
    record = tile_slide(job, work, config)
    record.write(work, job.slide)
    return record
