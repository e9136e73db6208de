"""The cells that slides are drawn from: a store, folders of crops by slide or by class, or arrays of images with labels."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow as pa

from milscope.configs import TileConfig, WitnessConfig
from milscope.pool import Lost, over_slides
from milscope.progress import progress
from milscope.slides import Cell, DamagedError, decode_pixels, encode_pixels, is_file_name, list_crops, read_slides
from milscope.store import CellStore, CellWriter, Stage, artifact_kind, decode, fingerprint, fingerprint_files
from milscope.tile import tile
from milscope.truth import Truth, match_truth, nothing_matches, read_truth
from milscope.types import refuse

QUALITY = 95
"""Of cells that are stored shrunk, as JPEG."""
PARTS = ("train_", "val_", "test_", "")
"""What arrays of an npz are called: `train_images`, `train_labels`, …, or `images` and `labels`."""


class Pool(NamedTuple):
    """Cells whose truth is known, and whose they are.

    Attributes:
        store: Where their images lie.
        table: slide, row (in the slide's table), cell, patient ("" if unknown: the cell stands for itself), witness.
    """

    store: CellStore
    table: pd.DataFrame

    @property
    def fingerprint(self) -> str:
        """Of the cells and their truth."""
        return fingerprint([self.store.manifest.fingerprint, self.table.to_csv(index=False)])


def open_pool(cells: Path, truth: Path | None, out: Path, config: WitnessConfig, *,
              patients: Path | None = None) -> Pool:
    """Reads cells in any of the forms, with their truth.

    * a `cells` artifact, or a folder of crops for each slide, with a table of the truth;
    * a folder of crops for each class (`CELLS/<class>/…/*.jpg`), or an npz of images and labels, without one: the classes
      are the truth. Nobody's patient is known there.

    Args:
        cells: The cells.
        truth: A table as `read_truth` takes it; None where classes tell it.
        out: Directory of the store that is made of folders and arrays.
        config: Names the truth's column and its normal value.
        patients: A slide table that tells them; None: every slide is a patient's own.

    Raises:
        InputError: If the cells are none of these, or the truth does not fit them.
    """
    store = CellStore(_store(cells, truth, out, config))
    if truth is None:
        return Pool(store, _by_class(store, config))
    if config.classes:
        raise refuse("classes", "left out with a table of the truth", ",".join(config.classes), "Leave those cells out of it.")
    told = read_truth(truth, "", config.truth_column, config.truth_normal)
    table = _by_truth(store, told)
    return Pool(store, table.assign(patient=table["slide"].map(_patients(patients, store))))


def shrunk(image: bytes, largest: int) -> bytes:
    """An encoded cell, encoded anew if its longer side has more pixels than `largest` (0: never)."""
    if not largest or max(decode_pixels(image).shape[:2]) <= largest:
        return image
    return encode_pixels(decode(image, largest), QUALITY)


def _store(cells: Path, truth: Path | None, out: Path, config: WitnessConfig) -> Path:
    if artifact_kind(cells) == "cells":
        return cells
    if cells.suffix == ".npz" and cells.is_file():
        return _from_arrays(cells, out)
    folders = sorted(path for path in cells.iterdir() if path.is_dir() and is_file_name(path.name)) if cells.is_dir() else []
    if not folders:
        raise refuse("cells", "a `cells` artifact, a folder of folders of crops, or an npz of images and labels", cells,
                     "Correct the path, or run `milscope tile` first.")
    if truth is not None:
        table = pd.DataFrame({"slide": [folder.name for folder in folders]})
        return tile(table, out, cells=cells, config=TileConfig(workers=config.workers)).directory
    return _from_classes(folders, out, config)


def _from_classes(folders: list[Path], out: Path, config: WitnessConfig) -> Path:
    """A store with a "slide" for each class; crops may lie in folders within that of the class."""
    names = _classes([folder.name for folder in folders], config)
    wanted = [folder for folder in folders if folder.name in names]
    inputs = {"folders": fingerprint_files(wanted)}
    with Stage(out, "cells", TileConfig(size=max(1, config.largest)), inputs) as stage:
        if not stage.done:
            missing = [folder for folder in wanted if not (stage.work / f"{folder.name}.arrow").exists()]
            with progress("import", len(wanted), "classes", len(wanted) - len(missing)) as advance:
                work = partial(_write_class, work=stage.work, largest=config.largest)
                for folder, outcome in over_slides(work, missing, config.workers):
                    if isinstance(outcome, Lost):
                        raise refuse(str(folder), "a folder of crops that can be read", outcome.reason, "Mend it.")
                    advance(1)
            _finish(stage, [folder.name for folder in wanted])
    return out


def _write_class(folder: Path, *, work: Path, largest: int) -> None:
    """Writes the cells of one class; damaged ones are listed in a file beside it."""
    damaged = []
    with CellWriter(work / f"{folder.name}.arrow", folder.name) as writer:
        parts = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
        for path in [part / name for part in parts for name, _, _ in list_crops(part)]:
            name = path.relative_to(folder.parent).as_posix()
            try:
                writer.add(_cell(name, shrunk(path.read_bytes(), largest)))
            except (DamagedError, OSError) as error:
                damaged.append((folder.name, name, " ".join(str(error).split())))
    pd.DataFrame(damaged, columns=["slide", "cell", "reason"]).to_csv(work / f"{folder.name}.failures", index=False)


def _from_arrays(path: Path, out: Path) -> Path:
    """A store with a "slide" for each label."""
    with Stage(out, "cells", TileConfig(), {"file": fingerprint_files([path])}) as stage:
        if not stage.done:
            names = []
            for label, images in _arrays(path):
                names.append(label)
                with CellWriter(stage.work / f"{label}.arrow", label) as writer:
                    for place, image in enumerate(images):
                        writer.add(_cell(f"{label}:{place}", encode_pixels(np.ascontiguousarray(image), 100)))
            _finish(stage, names)
    return out


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Label and images (image, row, column, 3), 8-bit, of an npz; grey ones are made colour.

    Raises:
        InputError: If it holds no such arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = [part for part in PARTS if {f"{part}images", f"{part}labels"} <= set(file.files)]
            images = [file[f"{name}images"] for name in names]
            labels = [file[f"{name}labels"].reshape(-1) for name in names]
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise refuse(str(path), "an npz of arrays", " ".join(str(error).split()), "Write it again, without objects.") from error
    good = images and all(len(each) == len(own) and each.dtype == np.uint8 and each.ndim in (3, 4) and
                          each.shape[3:] in ((), (1,), (3,)) for each, own in zip(images, labels, strict=True))
    if not good:
        raise refuse(str(path), "an npz with `images` (8-bit, image × row × column × 3) and `labels`, or `train_images`, …",
                     ", ".join(f"{each.dtype} {each.shape}" for each in images) or "neither", "Write it so.")
    every = np.concatenate(labels)
    for label in np.unique(every):
        own = [each[owner == label] for each, owner in zip(images, labels, strict=True)]
        stack = np.concatenate([each[..., None] if each.ndim == 3 else each for each in own])
        yield str(label), np.broadcast_to(stack, (*stack.shape[:3], 3))


def _cell(name: str, image: bytes) -> Cell:
    height, width = decode_pixels(image).shape[:2]
    return Cell(name, None, None, float(width), float(height), None, image)


def _finish(stage: Stage, names: list[str]) -> None:
    """Writes the tables of a store whose slides lie there."""
    counts = {name: _count(stage.work / f"{name}.arrow") for name in names}
    rows = [(name, count, 0, math.nan, math.nan, math.nan, "") for name, count in counts.items() if count]
    pd.DataFrame(rows, columns=["slide", "cells", "skipped", "width", "height", "mpp", "file"]).to_csv(
        stage.work / "slides.csv", index=False)
    lists = sorted(stage.work.glob("*.failures"))
    told = [pd.read_csv(path, dtype=str) for path in lists] or [pd.DataFrame(columns=["slide", "cell", "reason"])]
    failures = pd.concat(told, ignore_index=True)
    failures.to_csv(stage.work / "failures.csv", index=False)
    for path in lists:
        path.unlink()
    if not rows:
        raise refuse("cells", "images that can be read, at least one", f"none of {len(failures)}", "Mend or replace them.")
    stage.summary.update(slides=len(rows), cells=sum(counts.values()), failures=len(failures))


def _count(path: Path) -> int:
    if not path.exists():
        return 0
    with pa.memory_map(str(path)) as file:
        return len(pa.ipc.open_file(file).read_all())


def _by_class(store: CellStore, config: WitnessConfig) -> pd.DataFrame:
    frames = [_rows(store, name).assign(witness=name != config.truth_normal) for name in _classes(store.slides, config)]
    return pd.concat(frames, ignore_index=True).assign(patient="")


def _classes(names: list[str], config: WitnessConfig) -> list[str]:
    """Those of the classes that cells are drawn from.

    Raises:
        InputError: If the normal one or one of the witnesses is not among them.
    """
    others = [name for name in names if name != config.truth_normal]
    if len(others) == len(names) or not others:
        raise refuse("truth", "a table of the cells' truth, or `--truth-normal` one of several classes (folders or labels)",
                     f"no table, and `{config.truth_normal}` among " + ", ".join(names[:12]), "Give one of the two.")
    odd = [name for name in config.classes if name not in others]
    if odd:
        raise refuse("classes", "of " + ", ".join(others), odd[0], "Correct it.")
    return [name for name in names if not config.classes or name in {config.truth_normal, *config.classes}]


def _by_truth(store: CellStore, told: Truth) -> pd.DataFrame:
    """The cells that the truth tells."""
    by_slide = dict(iter(told.rows.groupby("slide")))
    frames = []
    for slide in store.slides:
        if slide in by_slide:
            rows = _rows(store, slide, places=True)
            rows["witness"] = match_truth(by_slide[slide], rows).witness
            frames.append(rows[rows["witness"].notna()])
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if table.empty:
        raise nothing_matches(told, _rows(store, store.slides[0], places=True))
    return table.drop(columns=["x", "y"]).astype({"witness": bool})


def _rows(store: CellStore, slide: str, *, places: bool = False) -> pd.DataFrame:
    columns = ["cell", "x", "y"] if places else ["cell"]
    frame = store.table(slide).select(columns).to_pandas()
    return frame.assign(slide=slide, row=np.arange(len(frame)))


def _patients(slides: Path | None, store: CellStore) -> dict[str, str]:
    if slides is None:
        return {slide: slide for slide in store.slides}
    table = read_slides(slides)
    known = dict(zip(table["slide"], table["patient"], strict=True))
    missing = [slide for slide in store.slides if slide not in known]
    if missing:
        raise refuse("slides", "a table of all slides of the cells", f"no row for {missing[0]}", "Add it.")
    return known
