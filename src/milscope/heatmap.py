"""Heatmap: the scores of cells over their slides, as pyramidal TIFF that viewers lay over the slide."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tifffile
from jaxtyping import Float, Shaped

from milscope.configs import HeatmapConfig
from milscope.heat import Window, draw, legend, paint, rarity
from milscope.progress import progress
from milscope.ranking import SHARES, find_ranking, rank_slides
from milscope.store import CellStore, Frame, Stage, read_manifest, write_text
from milscope.types import refuse

TILE = 512
SMALLEST = 512
"""Pixels: no level is added to one whose longer side is this short."""
CELL_PIXELS = 4
"""Least side of a cell in the full-size picture, pixels; a smaller one is hard to point at."""
LONGEST = 1024
"""Least longer side of the full-size picture, pixels, unless the slide itself has fewer."""
_PLACES = ["x", "y", "width", "height"]


class Heated(NamedTuple):
    """Where the heat maps are, of how many slides, and which slides have none."""

    directory: Path
    slides: int
    failures: int
    warnings: list[str]


class Sheet(NamedTuple):
    """What is drawn of a slide, and how large.

    Attributes:
        places: x, y, width, height of the cells in slide pixels.
        values: How rare their scores are, 0 to 1.
        extent: Width and height of the slide in slide pixels.
        size: Width and height of the full-size picture in its own pixels.
        mpp: Microns per slide pixel; NaN if unknown.
    """

    places: Float[np.ndarray, "cell 4"]
    values: Float[np.ndarray, " cell"]
    extent: tuple[float, float]
    size: tuple[int, int]
    mpp: float


def heatmap(scores: str | Path, cells: str | Path, out: str | Path, config: HeatmapConfig | None = None) -> Heated:
    """Draws how rare the score of every cell is at its place; writes `<slide>.tif` (colour) and `values/<slide>.tif` (0 to 1).

    Pictures are made piece by piece, and one slide's cells at a time are in memory. Slides that are finished are kept when the
    stage is interrupted. A slide without places or of unknown size is skipped, and named in failures.csv.

    Args:
        scores: A `scores` artifact (`predict` or `seek`).
        cells: The `cells` artifact (`tile`) that the scores were made from; it knows the slides' sizes.
        out: Directory of the heat maps.
        config: Settings; the defaults of `HeatmapConfig` if None.

    Raises:
        InputError: If a setting makes no sense, or no slide can be drawn.
    """
    config = config or HeatmapConfig()
    if not config.mpp > 0:
        raise refuse("mpp", "more than 0", config.mpp, "Give microns per pixel, such as 8.")
    if config.among == "cohort" and config.rank in SHARES:
        raise refuse("rank", "evidence or a learned ranking, where slides are compared", config.rank,
                     "Choose one, or `--among slide`.")
    if config.among == "auto":
        config = replace(config, among="slide" if config.rank in SHARES else "cohort")
    origin, store = read_manifest(Path(scores), "scores"), CellStore(Path(cells))
    inputs = {"scores": origin.fingerprint, "cells": store.manifest.fingerprint}
    with Stage(Path(out), "heatmap", config, inputs, origin.patients) as stage:
        if not stage.done:
            task = "" if config.task == origin.summary.get("task") else config.task
            told, failures = _draw_all(Path(scores), store, config, task, stage.work)
            told.to_csv(stage.work / "slides.csv", index=False)
            failures.to_csv(stage.work / "failures.csv", index=False)
            write_text(stage.work / "legend.svg", draw_legend(config))
            stage.summary.update(slides=len(told), failures=len(failures), warnings=[
                f"no heat map of slide {slide}: {reason}" for slide, reason in failures.itertuples(index=False)])
    summary = stage.manifest.summary
    return Heated(Path(out), summary["slides"], summary["failures"], summary["warnings"])


def _draw_all(scores: Path, store: CellStore, config: HeatmapConfig, task: str, work: Path,
              ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Writes the pictures; gives the slides that have one, and those that have none."""
    ranking = find_ranking(config.rank)
    reference = _all_scores(rank_slides(scores, ranking, task)) if config.among == "cohort" else None
    told: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    (work / "values").mkdir(exist_ok=True)
    with progress("heatmap", len(store.slides), "slides") as advance:
        for slide, frame in rank_slides(scores, ranking, task):
            advance(1)
            sheet = plan(frame, store.frame(slide), reference, config.mpp) if slide in store.slides else "not in the store"
            if isinstance(sheet, str):
                failures.append({"slide": slide, "reason": sheet})
                continue
            if not (work / f"{slide}.tif").exists():
                write_values(work / "values" / f"{slide}.tif", sheet)
                write_colours(work / f"{slide}.tif", sheet)
            told.append({"slide": slide, "cells": len(sheet.values), "width": sheet.size[0], "height": sheet.size[1],
                         "mpp": sheet.mpp * sheet.extent[0] / sheet.size[0], "downsample": sheet.extent[0] / sheet.size[0]})
    if not told:
        found = f"none of {len(failures)} slides" + (f"; {failures[0]['slide']}: {failures[0]['reason']}" if failures else "")
        raise refuse("cells", "of slides whose cells have places", found,
                     "Crops have no place: look at them with `milscope report` or `review`.")
    return pd.DataFrame(told), pd.DataFrame(failures, columns=["slide", "reason"])


def _all_scores(slides: Iterator[tuple[str, pd.DataFrame]]) -> Shaped[np.ndarray, " cell"]:
    """The scores of all cells of all slides: 4 bytes a cell."""
    return np.concatenate([frame["score"].to_numpy(np.float32) for _, frame in slides] or [np.empty(0, np.float32)])


def plan(cells: pd.DataFrame, frame: Frame, reference: Shaped[np.ndarray, " other"] | None, mpp: float) -> Sheet | str:
    """What to draw of a slide; a sentence that says why there is nothing to draw.

    A pixel is `mpp` microns, or as much less as gives a cell 4 pixels and the picture 1024, never less than a slide pixel.

    Args:
        cells: One slide's cells with `score` and places.
        frame: Size and scale of the slide.
        reference: Scores among which they are rare or not; the slide's own if None.
        mpp: Microns per pixel that are asked for.
    """
    if not (np.isfinite([frame.width, frame.height]).all() and min(frame.width, frame.height) > 0):
        return "the size of its image is not known"
    places = cells[_PLACES].to_numpy(float)
    placed = np.isfinite(places).all(axis=1) & (places[:, 2:] > 0).all(axis=1)
    placed &= (places[:, :2] >= 0).all(axis=1) & (places[:, :2] <= (frame.width, frame.height)).all(axis=1)
    if not placed.any():
        return "none of its cells has a place on the image"
    values = rarity(cells["score"].to_numpy(np.float32), reference)[placed]
    coarsest = mpp / frame.mpp if frame.mpp > 0 else np.inf
    side = float(np.median(places[placed, 2:]))
    step = max(1.0, min(coarsest, side / CELL_PIXELS, max(frame.width, frame.height) / LONGEST))
    size = (max(1, round(frame.width / step)), max(1, round(frame.height / step)))
    return Sheet(places[placed], values, (frame.width, frame.height), size, frame.mpp)


def write_colours(path: Path, sheet: Sheet) -> None:
    """The heat map in colour as a pyramidal TIFF of red, green, blue and opacity; whole or absent."""
    _write(path, sheet, {"photometric": "rgb", "extrasamples": ["unassalpha"], "dtype": np.uint8}, (4,))


def write_values(path: Path, sheet: Sheet) -> None:
    """The heat map as a pyramidal TIFF of numbers from 0 to 1, NaN where there is no cell; whole or absent."""
    _write(path, sheet, {"photometric": "minisblack", "dtype": np.float32}, ())


def _write(path: Path, sheet: Sheet, form: dict[str, Any], samples: tuple[int, ...]) -> None:
    """A tiled TIFF with levels of half the size each, drawn tile by tile; the scale is in its resolution tags."""
    temporary = path.with_name(f".{path.name}.tmp")
    options = {"tile": (TILE, TILE), "compression": "adobe_deflate", "metadata": None, "software": False, **form}
    try:
        with tifffile.TiffWriter(temporary, bigtiff=sheet.size[0] * sheet.size[1] * 4 > 2**31) as file:
            for level, size in enumerate(_levels(sheet.size)):
                tiles = (paint(tile) if samples else tile.astype(np.float32) for tile in _tiles(sheet, size))
                shape = (size[1], size[0], *samples)
                file.write(tiles, shape=shape, subfiletype=int(level > 0), **_scale(sheet, size), **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _levels(size: tuple[int, int]) -> list[tuple[int, int]]:
    levels = [size]
    while max(levels[-1]) > SMALLEST:
        width, height = levels[-1]
        levels.append((max(1, width // 2), max(1, height // 2)))
    return levels


def _tiles(sheet: Sheet, size: tuple[int, int]) -> Iterator[Float[np.ndarray, "height width"]]:
    """The tiles of a level, row by row; each is drawn of the cells, so that a rare one is seen at every level."""
    across, down = TILE * sheet.extent[0] / size[0], TILE * sheet.extent[1] / size[1]
    reach = sheet.places[:, 3] / 2 + 3 * down / TILE  # a little more than a cell is drawn
    for row in range(-(-size[1] // TILE)):
        near = (sheet.places[:, 1] + reach >= row * down) & (sheet.places[:, 1] - reach <= (row + 1) * down)
        for column in range(-(-size[0] // TILE)):
            window = Window(column * across, row * down, across, down)
            yield draw(sheet.places[near], sheet.values[near], window, (TILE, TILE))


def _scale(sheet: Sheet, size: tuple[int, int]) -> dict[str, Any]:
    """The tags of the resolution; none if it is not known."""
    if not sheet.mpp > 0:
        return {}
    per_centimetre = tuple(1e4 / (sheet.mpp * whole / pixels) for whole, pixels in zip(sheet.extent, size, strict=True))
    return {"resolution": per_centimetre, "resolutionunit": "centimeter"}


def draw_legend(config: HeatmapConfig) -> str:
    """The legend as SVG: the colours, and the share of cells that have at least so high a score."""
    ticks, width = legend(), 360
    stops = "".join(f'<stop offset="{tick.value:.4f}" stop-color="{tick.colour}"/>' for tick in legend(steps=25))
    labels = "".join(
        f'<text x="{20 + tick.value * (width - 40):.1f}" y="52" text-anchor="{anchor}">{tick.label}</text>'
        for tick, anchor in zip(ticks, ("start", *("middle",) * (len(ticks) - 2), "end"), strict=True))
    told = f"{config.rank} among the cells of {'all slides' if config.among == 'cohort' else 'the slide'}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="64" font-family="sans-serif" font-size="11">'
            f'<rect width="{width}" height="64" fill="#ffffff"/><defs><linearGradient id="heat">{stops}</linearGradient></defs>'
            f'<text x="20" y="14" fill="#222222">{told}</text>'
            f'<rect x="20" y="20" width="{width - 40}" height="18" fill="url(#heat)" stroke="#888888"/>{labels}</svg>\n')
