"""Features on disk, in TRIDENT's layout: one HDF5 file per slide, readable by and from other tools."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from milscope.store._bags import Bags
from milscope.store._cells import UNKNOWN, Frame
from milscope.store._featurefile import FeatureFile, told
from milscope.store._manifest import temporary_name
from milscope.store._outside import PLACES, find_outside, outside_cells
from milscope.types import refuse

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
    temporary = temporary_name(path)
    places = {name: cells[name].to_numpy(zero_copy_only=False).astype(float) for name in PLACES}
    mpp = cells["mpp"].to_numpy(zero_copy_only=False).astype(float)
    common = {"name": path.stem, "savetodir": path.parent.name}
    with h5py.File(temporary, "w") as file:
        file.create_dataset("features", data=features.astype(np.float32))
        file["features"].attrs.update({**common, "encoder": encoder})
        file.create_dataset("coords", data=_corners(places, frame))
        file["coords"].attrs.update({**common, **_scales(places, mpp, frame)})
        file.create_dataset("cell", data=_texts(cells["cell"]))
        for name in PLACES:
            file.create_dataset(f"place/{name}", data=places[name])
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _texts(names: pa.ChunkedArray) -> np.ndarray:
    """Names as UTF-8 of one length, which HDF5 reads ten times faster than texts of any length."""
    encoded = [name.encode() for name in names.to_pylist()]
    length = max((len(name) for name in encoded), default=1)
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))


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
    """Slide → file of a features artifact, or of a folder that another tool wrote, in the order of their names."""
    return find_outside(Path(directory)).files


def feature_slides(directory: Path) -> list[str]:
    """The slides that have features."""
    return list(feature_files(directory))


def read_features(directory: Path, slides: Sequence[str]) -> Bags:
    """The features of those slides as one packed bag each, in that order.

    Every file is read straight into its part of the packed array, so that memory holds the features once.

    Args:
        directory: A `features` artifact, or a folder of features that TRIDENT, CLAM, STAMP or torchmil wrote.
        slides: The slides' names.

    Raises:
        InputError: If a slide has no features, a file cannot be read, or the files differ in width.
    """
    files = feature_files(directory)
    paths = [_file(files, slide) for slide in slides]
    if len(slides) == 1:  # as in prediction: nothing to add up, so the file is opened once
        with FeatureFile(paths[0]) as file:
            return _packed([file.shape], [file])
    shapes = [file.shape for file in _opened(paths)]
    widths = {width for cells, width in shapes if cells} or {width for _, width in shapes}
    if len(widths) != 1:
        raise refuse(str(directory), "features of one width", f"widths {sorted(widths)}", "Encode all slides with one encoder.")
    width = widths.pop()
    return _packed([(cells, width) for cells, _ in shapes], _opened(paths))


def read_cells(directory: Path, slide: str, *, mpp: float = math.nan) -> pd.DataFrame:
    """Name and place of each cell of a slide, in the order of its features: cell, x, y, width, height (slide pixels).

    A cell of another tool's file is named by its number, from 0; its place is NaN where the file does not tell it.

    Args:
        directory: A `features` artifact, or another tool's folder.
        slide: The slide's name.
        mpp: Microns per pixel of the slide, for places that are in microns (STAMP); NaN if unknown.
    """
    found = find_outside(Path(directory))
    with FeatureFile(_file(found.files, slide)) as file, told(file.path):
        names = file.column("cell")
        if names is None:
            return outside_cells(file, mpp if math.isfinite(mpp) else found.mpp, found.patch_size)
        texts = pa.array(names, pa.binary()).cast(pa.string())
        return pd.DataFrame({"cell": texts.to_pandas(), **{name: file.column(f"place/{name}") for name in PLACES}})


def _file(files: Mapping[str, Path], slide: str) -> Path:
    if slide not in files:
        raise refuse("slide", "among the encoded slides", f"`{slide}`", "Run `milscope encode` on the cells of all slides.")
    return files[slide]


def _opened(paths: Iterable[Path]) -> Iterator[FeatureFile]:
    for path in paths:
        with FeatureFile(path) as file:
            yield file


def _packed(shapes: Sequence[tuple[int, int]], files: Iterable[FeatureFile]) -> Bags:
    offsets = np.cumsum([0, *(cells for cells, _ in shapes)])
    features = np.empty((offsets[-1], shapes[0][1]), np.float32)  # numpy's memory comes in huge pages, torch's does not
    for file, start, stop in zip(files, offsets, offsets[1:], strict=False):
        file.read_into(features[start:stop])
    return Bags(torch.from_numpy(features), torch.from_numpy(offsets))
