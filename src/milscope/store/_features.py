"""Features on disk, in TRIDENT's layout: one HDF5 file per slide, readable by and from other tools."""

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float

from milscope.store._bags import Bags
from milscope.types import refuse

PLACES = ["x", "y", "width", "height"]


def write_features(path: Path, features: Float[np.ndarray, "cell feature"], cells: pa.Table, *, encoder: str) -> None:
    """Writes one slide's features so that the file is whole or absent.

    Args:
        path: `<slide>.h5`.
        features: One row per cell.
        cells: The slide's rows of the cell store, in the same order.
        encoder: The encoder's name.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    places = {name: cells[name].to_numpy(zero_copy_only=False).astype(float) for name in PLACES}
    left, top = places["x"] - places["width"] / 2, places["y"] - places["height"] / 2
    known = np.isfinite(left) & np.isfinite(top)
    corner = np.where(known[:, None], np.stack([left, top], 1), -1).round().astype(np.int64)
    side = float(np.nanmedian(places["width"])) if known.any() else -1.0
    corner[known] = np.maximum(corner[known], 0)  # a crop at the border was moved inside; -1 means no place
    with h5py.File(temporary, "w") as file:
        file.create_dataset("features", data=features.astype(np.float32))
        file["features"].attrs.update({"name": path.stem, "savetodir": str(path.parent.name), "encoder": encoder})
        file.create_dataset("coords", data=corner.reshape(-1, 2))
        file["coords"].attrs.update({"name": path.stem, "savetodir": str(path.parent.name), "overlap": 0,
                                     "patch_size": round(side), "patch_size_level0": round(side)})
        file.create_dataset("cell", data=cells["cell"].to_pylist(), dtype=h5py.string_dtype())
        for name in PLACES:
            file.create_dataset(f"place/{name}", data=places[name])
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def feature_files(directory: Path) -> dict[str, Path]:
    """Slide → file of a features artifact, in the order of their names."""
    return {path.stem: path for path in sorted(Path(directory).glob("features_*/*.h5"))}


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
