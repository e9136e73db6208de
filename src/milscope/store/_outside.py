"""Features that other tools wrote (TRIDENT, CLAM, STAMP, torchmil): found and read where they lie, nothing is copied."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from milscope.configs import identity
from milscope.store._featurefile import FeatureFile, text, told
from milscope.store._manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Stage,
    fingerprint,
    fingerprint_files,
    read_manifest,
    write_text,
)
from milscope.types import InputError, refuse

PLACES = ["x", "y", "width", "height"]
REFERENCE = "outside.json"
"""The file of a `features` artifact that says where another tool's files lie."""
NO_FEATURES = (".", "patches", "slide_features_")
"""How names of folders begin in which TRIDENT and CLAM keep other HDF5 files."""


SCALES = ("unit", "tile_size_um", "tile_size", "patch_size_level0", "patch_level", "patch_size", "downsample",
          "custom_downsample")
"""The attributes that explain coordinates."""


class Outside(NamedTuple):
    """Slide → file, and what is known of all slides: microns per pixel, side of a cell in slide pixels, or NaN."""

    files: dict[str, Path]
    mpp: float = math.nan
    patch_size: float = math.nan


class Imported(NamedTuple):
    """The artifact's directory, how much it holds, and what to mind."""

    directory: Path
    slides: int
    cells: int
    features: int
    encoder: str
    warnings: list[str]


@dataclass(frozen=True)
class _Import:
    encoder: str = ""
    mpp: float | None = None
    patch_size: float | None = None


def import_features(
    source: Path | str, out: Path | str, *, encoder: str = "", mpp: float | None = None, patch_size: float | None = None
) -> Imported:
    """Makes a `features` artifact of another tool's folder; the artifact holds the paths of the files, not copies.

    Slides whose files cannot be read are left out and named in the warnings.

    Args:
        source: A folder that TRIDENT, CLAM, STAMP or torchmil wrote.
        out: Directory of the artifact.
        encoder: The encoder's name; needed only where neither the files nor the folder say it, or to call one encoder
            by one name in the features of two tools.
        mpp: Microns per pixel of the slides, for places in microns (STAMP).
        patch_size: Side of a cell in slide pixels, where the files do not say it (CLAM, torchmil).

    Raises:
        InputError: If there are no features, none can be read, or they are of several widths or encoders.
    """
    for name, value in (("mpp", mpp), ("patch_size", patch_size)):
        if value is not None and not 0 < value < math.inf:
            raise refuse(name, "a number above 0", value, "Correct it or leave it out.")
    source = Path(source).resolve()
    if (source / MANIFEST).exists():
        raise refuse("source", "another tool's folder", f"an artifact of milscope in {source}", "Use it as it is.")
    config = _Import(encoder, mpp, patch_size)
    files, inputs, summary = _survey(source, encoder)
    with Stage(Path(out), "features", config, inputs) as stage:
        if not stage.done:
            paths = {slide: str(path) for slide, path in files.items()}
            write_text(stage.work / REFERENCE, json.dumps({"mpp": mpp, "patch_size": patch_size, "slides": paths}, indent=1))
            stage.summary.update(summary)
    return Imported(Path(out), *(summary[name] for name in ("slides", "cells", "features", "encoder", "warnings")))


def open_features(directory: Path | str, *, encoder: str = "") -> Manifest:
    """The manifest of a `features` artifact, or one made up for another tool's folder, which is then used as it is.

    Args:
        directory: A `features` artifact, or a folder that TRIDENT, CLAM, STAMP or torchmil wrote.
        encoder: The encoder's name, as in `import_features`.

    Raises:
        InputError: As `read_manifest` and `import_features`.
    """
    directory = Path(directory)
    if (directory / MANIFEST).exists():
        return read_manifest(directory, "features")
    _, inputs, summary = _survey(directory.resolve(), encoder)
    return Manifest("features", FORMAT_VERSION, version("milscope"), identity(_Import(encoder)), inputs, [], summary, "")


def find_outside(directory: Path) -> Outside:
    """The files of a `features` artifact or of another tool's folder.

    They are listed once for as long as the folder does not change, as a thousand slides are read one by one; changes
    in folders below those of `_groups` are seen when `open_features` is called next.

    Raises:
        InputError: If there are no features, or those of several encoders.
    """
    if not directory.is_dir():
        raise refuse("features", "a folder", f"none at {directory}", "Run `milscope encode`, or correct the path.")
    folders = tuple(folder for group in _groups(directory) for folder in group if folder.is_dir())
    changed = tuple(folder.stat().st_mtime_ns for folder in folders)
    return _find(str(directory), changed)


@lru_cache(maxsize=8)
def _find(directory: str, changed: tuple[int, ...]) -> Outside:
    root = Path(directory)
    if not (root / REFERENCE).exists():
        return Outside(_list(root))
    with told(root / REFERENCE):
        found = json.loads((root / REFERENCE).read_text())
        known = {name: math.nan if found[name] is None else float(found[name]) for name in ("mpp", "patch_size")}
        return Outside({slide: Path(path) for slide, path in found["slides"].items()}, **known)


def _groups(root: Path) -> list[list[Path]]:
    """Where files may lie, the likeliest first: flat, CLAM's, TRIDENT's and ours, torchmil's with one encoder or several."""
    return [[root], [root / "h5_files"], sorted(root.glob("features_*")), [root / "features"],
            sorted(root.glob("features/features_*"))]


def _list(root: Path) -> dict[str, Path]:
    for group in _groups(root):
        holding = [folder for folder in group if _slides(folder)]
        if len(holding) > 1:
            raise refuse("features", "the folder of one encoder", ", ".join(folder.name for folder in holding), "Give one.")
        if holding:
            return _slides(holding[0])
    if (root / MANIFEST).exists():
        return {}
    nested: dict[str, Path] = {}
    for path in sorted(root.rglob("*.h5")):  # STAMP keeps the folders of the slides
        folders = path.relative_to(root).parts[:-1]
        if not path.name.startswith(".") and not any(folder.startswith(NO_FEATURES) for folder in folders):
            if path.stem in nested:
                raise refuse("features", "one file a slide", f"{nested[path.stem]} and {path}",
                             "Give the folder of one encoder.")
            nested[path.stem] = path
    if nested:
        return nested
    pickled = next((path for kind in ("pt", "pth", "pkl") for path in root.rglob(f"*.{kind}")), None)
    if pickled:
        raise refuse("features", "HDF5 or npy files", f"{pickled.name}, a pickle, which may run code of whoever made it",
                     "Give the folder of the .h5 files, or convert those you trust: docs/features.md.")
    raise refuse("features", "a folder of .h5 or .npy files, one a slide", f"none in {root}", "Run `milscope encode`.")


def _slides(folder: Path) -> dict[str, Path]:
    """Slide → file, HDF5 if there are any, else npy."""
    for kind in ("h5", "npy"):
        found = {path.stem: path for path in sorted(folder.glob(f"*.{kind}")) if not path.name.startswith(".")}
        if found:
            return found
    return {}


def _survey(root: Path, encoder: str) -> tuple[dict[str, Path], dict[str, str], dict[str, Any]]:
    """The files that can be read, what they are made from, and what they hold."""
    if (root.parent / MANIFEST).exists():
        raise refuse("features", "the artifact that holds the folder", f"{root}",
                     f"Give {root.parent}, which knows the patients.")
    _find.cache_clear()
    good, faults, cells, widths, names = {}, {}, 0, set(), set()
    for slide, path in find_outside(root).files.items():
        try:
            with FeatureFile(path) as file:
                count, width = file.shape
                names.add(_encoder(file))
        except InputError as error:
            faults[slide] = error
            continue
        good[slide], cells = path, cells + count
        widths |= {width} if count else set()
    if not good:
        raise next(iter(faults.values()))
    if len(widths) > 1:
        raise refuse(str(root), "features of one width", f"widths {sorted(widths)}", "Give the folder of one encoder.")
    if len(names) > 1 and not encoder:
        raise refuse(str(root), "features of one encoder", ", ".join(f"`{name}`" for name in sorted(names)),
                     "Give the folder of one, or the name of all with `encoder`.")
    name, width = encoder or names.pop(), max(widths, default=0)
    warnings = [f"{len(faults)} slides cannot be read ({', '.join([*faults][:10])}): {error}"
                for error in list(faults.values())[:1]]
    if not name:
        warnings.append(f"the files do not name their encoder: features of any unnamed one of width {width} count as the same")
    inputs = {"encoder": fingerprint({"encoder": name, "features": width}), "files": fingerprint_files(good.values())}
    return good, inputs, {"slides": len(good), "cells": cells, "features": width, "encoder": name, "warnings": warnings}


def _encoder(file: FeatureFile) -> str:
    """The encoder's name as TRIDENT (`encoder`), STAMP (`extractor`) or the folder's name tell it; "" if nothing does."""
    names = [text(name) for name in file.attributes(("encoder", "extractor")).values()]
    folder = file.path.parent.name
    names.append(folder.removeprefix("features_") if folder.startswith("features_") else "")
    return next((name for name in names if name not in ("", "None")), "")


def outside_cells(file: FeatureFile, mpp: float, patch_size: float) -> pd.DataFrame:
    """Number, centre and side of each cell of another tool's file, in slide pixels; NaN where the file does not tell.

    Args:
        file: The slide's features.
        mpp: Microns per pixel of the slide, or NaN.
        patch_size: Side of a cell in slide pixels where the file does not say it, or NaN.
    """
    count = file.shape[0]
    attributes = file.attributes(SCALES)
    scale, side = _scale(attributes, mpp, patch_size)
    if file.name == "feats" and text(attributes.get("unit", "")) != "um":
        scale, side = math.nan, math.nan  # STAMP before 2.0, whose unit is its own
    corners = file.column("coords")
    flat = corners is not None and corners.shape[1:] == (2,)
    centres = corners * scale + side / 2 if flat else np.full((count, 2), np.nan)
    table = pd.DataFrame({"cell": range(count), "x": centres[:, 0], "y": centres[:, 1], "width": side, "height": side})
    return table.astype({"cell": str, **dict.fromkeys(PLACES, float)})


def _scale(attributes: Mapping[str, object], mpp: float, patch_size: float) -> tuple[float, float]:
    """Slide pixels per unit of the coordinates, and the side of a cell in slide pixels; NaN if unknown."""
    known = {name: _number(value) for name, value in attributes.items()}

    def get(name: str) -> float:
        return known.get(name, math.nan)

    if text(attributes.get("unit", "")) == "um":  # STAMP; 2.0 called the side `tile_size`
        return 1 / mpp, (get("tile_size_um") if "tile_size_um" in known else get("tile_size")) / mpp
    if get("patch_size_level0") > 0:  # TRIDENT
        return 1.0, get("patch_size_level0")
    if get("patch_level") >= 0 and known.get("custom_downsample", 1) == 1:  # CLAM
        return 1.0, get("patch_size") * (1 if get("patch_level") == 0 else get("downsample"))
    return 1.0, patch_size


def _number(value: object) -> float:
    try:
        return float(np.ravel(np.asarray(value))[0])
    except (ValueError, TypeError, IndexError):
        return math.nan
