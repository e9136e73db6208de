"""TissUUmaps: a project a slide, which opens the slide's image, or its thumbnail, with the cells as markers."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from milscope.export_cells._gather import Slide
from milscope.export_cells._qupath import COLOURS, colour
from milscope.store import write_text

SCHEMA = "1.3"
UNJUDGED = "not judged"
PALE = "#b8b8b8"
MARKER = 14.0
"""Size of a marker in TissUUmaps' own unit: about a cell; it is an outline, so that the cell is seen."""


def write_project(slide: Slide, folder: Path) -> None:
    """Writes `<slide>.tmap`, `<slide>.csv` with its cells, and, where the image is gone, the thumbnail.

    The path to the image is relative: TissUUmaps must be allowed to read both folders.
    """
    cells = slide.cells[slide.placed].drop(columns="image", errors="ignore")
    if "verdict" in cells:
        cells = cells.assign(verdict=cells["verdict"].replace("", UNJUDGED))
    cells.to_csv(folder / f"{slide.name}.csv", index=False)
    source, scale = _image(slide, folder)
    project: dict[str, Any] = {
        "schemaVersion": SCHEMA, "filename": slide.name, "layers": [], "markerFiles": [_markers(slide, scale)],
        "compositeMode": "source-over", "plugins": [], "regions": {}}
    if source:
        project["layers"] = [{"name": slide.name, "tileSource": f"{source}.dzi"}]
    if slide.frame.mpp > 0 and not math.isnan(scale):
        project["mpp"] = slide.frame.mpp / scale
    write_text(folder / f"{slide.name}.tmap", json.dumps(project, indent=1))


def _image(slide: Slide, folder: Path) -> tuple[str, float]:
    """The picture's path from the project, as a URL, and how many of its pixels a slide pixel is."""
    published = folder.parent.with_name(folder.parent.name.removeprefix(".").removesuffix(".partial")) / folder.name
    if slide.file:
        return quote(Path(os.path.relpath(slide.file.resolve(), published.resolve())).as_posix()), 1.0
    if slide.thumbnail is None or not slide.frame.width > 0:
        return "", 1.0
    (folder / "thumbnails").mkdir(exist_ok=True)
    shutil.copyfile(slide.thumbnail, folder / "thumbnails" / f"{slide.name}.jpg")
    with Image.open(slide.thumbnail) as picture:
        return quote(f"thumbnails/{slide.name}.jpg"), picture.width / slide.frame.width


def _markers(slide: Slide, scale: float) -> dict[str, Any]:
    """How the cells are shown: by verdict, or by score where nobody has judged them."""
    judged = "verdict" in slide.cells
    header: dict[str, Any] = {
        "X": "x", "Y": "y", "coord_factor": scale, "scale_factor": MARKER, "shape_fixed": "square", "stroke_width": 3.0,
        "tooltip_fmt": "rank {rank}, score {score}, {cell}" + (", {verdict}" if judged else "")}
    radios: dict[str, Any] = {"cb_gr_key": False, "shape_gr": False, "shape_gr_rand": False, "shape_fixed": True,
                              "no_fill": True}
    if judged:
        colours = {**COLOURS, **{name: colour(name) for name in set(slide.cells["verdict"]) - {""}}, UNJUDGED: PALE}
        header |= {"gb_col": "verdict", "cb_gr_dict": json.dumps(colours)}
        radios |= {"cb_gr": True, "cb_gr_dict": True}
    else:
        header |= {"cb_col": "score", "cb_cmap": "interpolateYlOrRd"}
        radios |= {"cb_gr": False, "cb_col": True}
    return {"title": "Ranked cells", "name": "Ranked cells", "path": f"{quote(slide.name)}.csv", "autoLoad": True,
            "hideSettings": True, "uid": "milscope", "expectedHeader": header, "expectedRadios": radios}
