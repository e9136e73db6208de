"""Features on disk, in TRIDENT's layout: one HDF5 file per slide, readable by and from other tools."""

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from milscope.store._bags import Bags
from milscope.store._cells import UNKNOWN, Frame
from milscope.types import refuse

PLACES = ["x", "y", "width", "height"]
MAGNIFICATION = 10.0
"""Magnification times microns per pixel: 40x is 0.25, 20x is 0.5, as the field counts."""


def write_features(path: Path, features: Float[np.ndarray, "cell feature"], cells: pa.Table, *, encoder: str,
                   frame: Frame = UNKNOWN) -> None:
    """Writes one slide's features so that the file is whole or absent.

    Args:
        path: `<slide>.h5`.
        features: One row per cell.
        cells: The slide's rows of the cell store, in the same order.
        encoder: The encoder's name.
        frame: Size and scale of the slide.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    places = {name: cells[name].to_numpy(zero_copy_only=False).astype(float) for name in PLACES}
    mpp = cells["mpp"].to_numpy(zero_copy_only=False).astype(float)
    common = {"name": path.stem, "savetodir": path.parent.name}
    with h5py.File(temporary, "w") as file:
        file.create_dataset("features", data=features.astype(np.float32))
        file["features"].attrs.update({**common, "encoder": encoder})
        file.create_dataset("coords", data=_corners(places, frame))
        file["coords"].attrs.update({**common, **_scales(places, mpp, frame)})
        file.create_dataset("cell", data=cells["cell"].to_pylist(), dtype=h5py.string_dtype())
        for name in PLACES:
            file.create_dataset(f"place/{name}", data=places[name])
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _corners(places: dict[str, Float[np.ndarray, " cell"]], frame: Frame) -> Int[np.ndarray, "cell 2"]:
    """Upper left corners in slide pixels, -1 without a place; a crop at a border was moved inside, as `tile` does."""
    corners = np.full((len(places["x"]), 2), -1, np.int64)
    for axis, (centre, extent, side) in enumerate((("x", "width", frame.width), ("y", "height", frame.height))):
        corner = places[centre] - places[extent] / 2
        inside = np.maximum(np.fmin(corner, side - places[extent]), 0)
        known = np.isfinite(corner)
        corners[known, axis] = np.floor(inside[known] + 0.5)
    corners[(corners < 0).any(1)] = -1
    return corners


def _scales(places: dict[str, Float[np.ndarray, " cell"]], mpp: Float[np.ndarray, " cell"], frame: Frame) -> dict[str, float]:
    """TRIDENT's attributes of coordinates; what is not known is left out."""
    placed = places["width"][np.isfinite(places["x"])]
    on_slide = float(np.median(placed)) if len(placed) else -1.0
    ratio = float(np.nanmedian(mpp)) / frame.mpp if np.isfinite(mpp).any() else math.nan
    stored = on_slide / ratio if math.isfinite(ratio) and on_slide > 0 else on_slide
    attributes = {"overlap": 0, "patch_size": round(stored), "patch_size_level0": round(on_slide)}
    if math.isfinite(frame.mpp):
        attributes["level0_magnification"] = round(MAGNIFICATION / frame.mpp, 2)
    if math.isfinite(ratio):
        attributes["target_magnification"] = round(MAGNIFICATION / (frame.mpp * ratio), 2)
    if math.isfinite(frame.width) and math.isfinite(frame.height):
        attributes.update(level0_width=round(frame.width), level0_height=round(frame.height))
    return attributes


def feature_files(directory: Path) -> dict[str, Path]:
    """Slide → file of a features artifact, in the order of their names."""
    folders = sorted(Path(directory).glob("features_*"))
    return _files(tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders))


@lru_cache(maxsize=8)
def _files(folders: tuple[tuple[str, int], ...]) -> dict[str, Path]:
    """Listed once for as long as the folders do not change: a thousand slides are read one by one."""
    paths = (path for folder, _ in folders for path in Path(folder).glob("*.h5"))
    return {path.stem: path for path in sorted(paths)}


def feature_slides(directory: Path) -> list[str]:
    """The slides that have features."""
    return list(feature_files(directory))


def read_features(directory: Path, slides: Sequence[str]) -> Bags:
    """The features of those slides as one packed bag each, in that order.

    Raises:
        InputError: If a slide has no features, or the files differ in width.
    """
    files = feature_files(directory)
    arrays = [_read(files, slide) for slide in slides]
    widths = {array.shape[1] for array in arrays}
    if len(widths) != 1:
        raise refuse(str(directory), "features of one width", f"widths {sorted(widths)}", "Encode all slides with one encoder.")
    offsets = np.cumsum([0, *(len(array) for array in arrays)])
    return Bags(torch.from_numpy(np.concatenate(arrays)), torch.from_numpy(offsets))


def read_cells(directory: Path, slide: str) -> pd.DataFrame:
    """Name and place of each cell of a slide, in the order of its features: cell, x, y, width, height (slide pixels)."""
    with h5py.File(feature_files(directory)[slide]) as file:
        columns = {"cell": file["cell"].asstr()[:], **{name: file[f"place/{name}"][:] for name in PLACES}}
    return pd.DataFrame(columns)


def _read(files: dict[str, Path], slide: str) -> Float[np.ndarray, "cell feature"]:
    if slide not in files:
        raise refuse("slide", "among the encoded slides", f"`{slide}`", "Run `milscope encode` on the cells of all slides.")
    with h5py.File(files[slide]) as file:
        return file["features"][:].astype(np.float32)
