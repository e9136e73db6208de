"""Cells that cost what real ones cost to read: smooth blobs as JPEG, in folders of slides and as a store."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

import milscope as ms


class Cells(NamedTuple):
    """The same cells as the one and as the other side reads them."""

    folder: Path
    """A folder of JPEG files for each slide."""
    store: Path
    table: pd.DataFrame
    """The slides with label and split."""


def render(home: Path, *, cells: int, side: int, slides: int = 4) -> Cells:
    """Writes that many cells, shared out over slides that are positive and negative in turn."""
    generator = np.random.default_rng(side)
    names = [f"slide-{number:04d}" for number in range(slides)]
    for name in names:
        (home / "crops" / name).mkdir(parents=True)
        for cell in range(cells // slides):
            coarse = generator.integers(0, 256, (max(3, side // 8),) * 2 + (3,), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
            image.save(home / "crops" / name / f"{cell:05d}.jpg", quality=90)
    table = slide_table(names)
    ms.tile(table, home / "tile", cells=home / "crops", config=ms.TileConfig(workers=1))
    return Cells(home / "crops", home / "tile", table)


def repeated(cells: Cells, home: Path, *, times: int) -> Cells:
    """A store that holds every slide that many times, each copy in a file of its own."""
    shutil.copytree(cells.store, home, ignore=shutil.ignore_patterns("*.arrow", "slides.csv"))
    listed = pd.read_csv(cells.store / "slides.csv", dtype=str, keep_default_na=False)
    copies = []
    for copy in range(times):
        copies.append(listed.assign(slide=[f"{slide}-{copy:05d}" for slide in listed["slide"]]))
        for old, new in zip(listed["slide"], copies[-1]["slide"], strict=True):
            shutil.copyfile(cells.store / f"{old}.arrow", home / f"{new}.arrow")
    table = pd.concat(copies, ignore_index=True)
    table.to_csv(home / "slides.csv", index=False)
    return Cells(cells.folder, home, slide_table(list(table["slide"])))


def slide_table(names: list[str]) -> pd.DataFrame:
    """Slides to train on, every other one positive."""
    labels = [number % 2 for number in range(len(names))]
    return pd.DataFrame({"slide": names, "patient": names, "split": "train", "abnormal": labels})


def workers() -> int:
    """How many processes the other sides' loaders get: one for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
