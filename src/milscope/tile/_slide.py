"""One slide: its image is opened, its cells are cut and stored, and a picture shows which were kept."""

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from milscope.configs import TileConfig
from milscope.slides import (
    Cell,
    DamagedError,
    Grid,
    Skip,
    SlideReader,
    choose_tiles,
    cut_cells,
    encode_pixels,
    folder_cells,
    foreground,
    grid_cells,
    mark_cells,
    open_slide,
    overview,
    read_geojson,
    shrink,
)
from milscope.store import CellWriter
from milscope.tile._records import Record
from milscope.tile._sources import Job

THUMBNAIL = 1024
NATIVE = 1.01
"""A stored level within this factor of the scale that is asked for is cut as it is: sharper than resampled, and faster."""


def tile_slide(job: Job, work: Path, config: TileConfig) -> Record:
    """Writes a slide's cells and pictures; of a slide that fails nothing is left but the reason."""
    skips: list[Skip] = []
    try:
        if job.problem:
            raise DamagedError(job.problem)
        with _quiet():
            return _crops(job, work, config, skips) if job.crops else _image(job, work, config, skips)
    except DamagedError as error:
        for name in (f"{job.slide}.arrow", f"thumbnails/{job.slide}.jpg", f"kept/{job.slide}.jpg"):
            (work / name).unlink(missing_ok=True)
        return Record(job.stamp, skipped=len(skips), file=job.source, failures=[["", str(error)], *map(list, skips)])


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keeps decoders from printing about odd metadata; what cannot be read is listed among the failures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _crops(job: Job, work: Path, config: TileConfig, skips: list[Skip]) -> Record:
    mpp = job.mpp or config.slide_mpp
    kept = _write(work / f"{job.slide}.arrow", job.slide, folder_cells(Path(job.source), mpp), skips)
    return Record(job.stamp, len(kept), len(skips), mpp=mpp, file=job.source, failures=[list(skip) for skip in skips])


def _image(job: Job, work: Path, config: TileConfig, skips: list[Skip]) -> Record:
    with open_slide(Path(job.source)) as reader:
        own = reader.mpp or job.mpp or config.slide_mpp
        cells, view = _cut(job, reader, own, config)
        kept = _write(work / f"{job.slide}.arrow", job.slide, cells, skips)
        thumbnail = shrink(view, THUMBNAIL)
        (work / "thumbnails" / f"{job.slide}.jpg").write_bytes(encode_pixels(thumbnail, 90))
        (work / "kept" / f"{job.slide}.jpg").write_bytes(encode_pixels(mark_cells(thumbnail, reader.size, kept), 90))
        return Record(job.stamp, len(kept), len(skips), *reader.size, own, job.source, [list(skip) for skip in skips])


def _cut(job: Job, reader: SlideReader, own: float | None, config: TileConfig) -> tuple[
    Iterator[Cell | Skip], UInt8[np.ndarray, "height width 3"]
]:
    """The slide's cells, and an overview of it."""
    extent, mpp = _extent(reader, own, config)
    if job.places is None and config.find == "tiles":
        grid = Grid.over(reader.size, extent, config.size, config.overlap)
        view = overview(reader, extent, least=THUMBNAIL)
        chosen = choose_tiles(foreground(view, reader.size, grid), config.foreground)
        return grid_cells(reader, job.slide, grid, chosen, mpp=mpp, quality=config.quality), view
    places = read_geojson(job.places, job.slide) if isinstance(job.places, Path) else job.places
    if places is None:
        if own is None:
            raise DamagedError(_NO_SCALE.format("nuclei are found by their size in microns"))
        from milscope.slides import find_nuclei  # filters that tiles do not need

        places = find_nuclei(reader, job.slide, diameter=config.nucleus, mpp=own, stain=config.stain, least=config.contrast)
    if not len(places):
        raise DamagedError("no cells in the cell table")
    cells = cut_cells(reader, places, extent=extent, size=config.size, mpp=mpp, quality=config.quality)
    return cells, reader.thumbnail(THUMBNAIL)


_NO_SCALE = "its scale is unknown, but {}; give a column `mpp` (microns per pixel) in the slide table, or `slide_mpp` for all"


def _extent(reader: SlideReader, own: float | None, config: TileConfig) -> tuple[float, float | None]:
    """Side of a cell in pixels of level 0, and microns per stored pixel."""
    if config.mpp is None:
        return config.size, own
    if own is None:
        raise DamagedError(_NO_SCALE.format("`mpp` was asked for"))
    step = config.mpp / own
    for level in reader.downsamples:
        if 1 / NATIVE <= step / level <= NATIVE:
            return config.size * level, own * level
    return config.size * step, config.mpp


def _write(path: Path, slide: str, cells: Iterator[Cell | Skip], skips: list[Skip]) -> Float[np.ndarray, "cell 4"]:
    """Writes the good cells and adds the others to `skips`; gives centre and extent of the good ones."""
    kept = []
    with CellWriter(path, slide) as writer:
        for cell in cells:
            if isinstance(cell, Skip):
                skips.append(cell)
            else:
                writer.add(cell)
                kept.append((cell.x, cell.y, cell.width, cell.height))
    if not kept:
        first = f"; the first, {skips[0].cell}: {skips[0].reason}" if skips else ""
        raise DamagedError(f"no good cell among {len(skips)}{first}")
    return np.array(kept, float)
