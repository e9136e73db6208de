"""Small made-up cells with their truth: noise, and in witnesses a bright spot."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tests.drawn_pictures import encoded

from milscope.configs import TileConfig
from milscope.slides import Cell
from milscope.store import CellWriter, Stage


def spotted(random: np.random.Generator, *, witness: bool, side: int = 12) -> np.ndarray:
    """The pixels of one cell."""
    pixels = random.integers(60, 140, (side, side, 3), dtype=np.uint8)
    if witness:
        pixels[4:8, 4:8] = (250, 240, 60)
    return pixels


def write_store(out: Path, patients: int = 8, normal: int = 30, odd: int = 4) -> Path:
    """A `cells` artifact of a slide a patient, with truth.csv (slide, cell, odd) beside it; gives the artifact."""
    random, rows = np.random.default_rng(0), []
    out.mkdir(parents=True, exist_ok=True)
    with Stage(out / "cells", "cells", TileConfig(), {"made": "up"}) as stage:
        for patient in range(patients):
            slide = f"p{patient}"
            witness = random.permutation(np.arange(normal + odd) < odd)
            with CellWriter(stage.work / f"{slide}.arrow", slide) as writer:
                for place, own in enumerate(witness):
                    image = encoded(spotted(random, witness=bool(own)))
                    writer.add(Cell(f"{slide}:{place}", None, None, 12.0, 12.0, None, image))
                    rows.append((slide, f"{slide}:{place}", int(own)))
        pd.DataFrame({"slide": [f"p{patient}" for patient in range(patients)], "cells": normal + odd, "skipped": 0, "width": "",
                      "height": "", "mpp": "", "file": ""}).to_csv(stage.work / "slides.csv", index=False)
    pd.DataFrame(rows, columns=["slide", "cell", "odd"]).to_csv(out / "truth.csv", index=False)
    return out / "cells"


def write_classes(out: Path, counts: dict[str, int], *, nested: bool = False) -> Path:
    """A folder of PNG files for each class; `normal` has no spots. Nested: in folders of ten within that of the class."""
    random = np.random.default_rng(0)
    for name, count in counts.items():
        for place in range(count):
            folder = out / name / (f"{place // 10:04d}" if nested else "")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(spotted(random, witness=name != "normal")).save(folder / f"{name}_{place:03d}.png")
    return out
