"""A benchmark's directory with results of simulated scores, as `milscope benchmark witness` writes it."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from milscope.benchmark import measure
from milscope.configs import TileConfig
from milscope.slides import Cell
from milscope.store import CellWriter, Stage

SKILLS = {"supervised": 5.0, "seek": 4.0, "simclr+svdd": 2.0, "random": 0.0}
"""How many standard deviations each method sets witnesses apart from normal cells."""


def scores(out: Path, skill: float, rate: float, seed: int, slides: int = 8, cells: int = 40) -> pd.DataFrame:
    """Scores of test slides, half of them positive, and of one training slide; gives the truth of their cells."""
    random, truth_of = np.random.default_rng([seed, int(1000 * skill)]), np.random.default_rng(seed)
    out.mkdir(parents=True, exist_ok=True)
    names = [f"t{number}" for number in range(slides)] + ["train"]
    label = np.append(np.arange(slides) % 2, 1)
    witness = np.zeros((slides + 1, cells), bool)
    for row in np.flatnonzero(label):
        witness[row, truth_of.choice(cells, max(1, round(rate * cells)), replace=False)] = True
    score = random.normal(size=witness.shape) + skill * witness
    logit = 2 * (score.max(1) - 2.5 - skill / 2)
    table = pd.DataFrame({"slide": names, "patient": names, "split": ["test"] * slides + ["train"], "label": label,
                          "probability": 1 / (1 + np.exp(-logit)), "logit": logit, "called": (logit > 0).astype(int)})
    table.to_csv(out / "slides.csv", index=False)
    cell = [f"{name}:{place}" for name in names for place in range(cells)]
    rows = pd.DataFrame({"slide": np.repeat(names, cells), "cell": cell,
                         "x": np.nan, "y": np.nan, "width": 64.0, "height": 64.0, "attention": 1 / cells,
                         "evidence": score.ravel(), "witness": witness.ravel()})
    rows.drop(columns="witness").to_parquet(out / "cells.parquet", index=False)
    return rows[["slide", "cell", "witness"]]


def fake_grid(out: Path, skills: Mapping[str, float] = SKILLS, rates: Sequence[float] = (0.1, 0.05), seeds: int = 2,
              slides: int = 8, cells: int = 40, *, pictures: bool = False) -> Path:
    """The directory: plan, results and, with `pictures`, the drawn cells."""
    for seed in range(seeds):
        for rate in rates:
            folder = out / str(seed) / str(rate)
            for method, skill in skills.items():
                truth = scores(folder / method / "scores", skill, rate, seed, slides, cells)
                found = measure(folder / method / "scores", truth, "evidence")
                result = {**found, "seconds": 10.0 + skill, "images": 0 if method == "random" else 20_000}
                (folder / method / "result.json").write_text(json.dumps(result))
            if pictures:
                draw(folder / "cells", truth)
    plan = {"name": "simulated", "seeds": list(range(seeds)), "rates": list(rates), "methods": list(skills)}
    (out / "grid.json").write_text(json.dumps(plan))
    return out


def draw(out: Path, truth: pd.DataFrame) -> Path:
    """A `cells` artifact of plain squares, red for witnesses."""
    with Stage(out, "cells", TileConfig(), {"slides": "4567"}) as stage:
        for slide, rows in truth.groupby("slide"):
            with CellWriter(stage.work / f"{slide}.arrow", str(slide)) as writer:
                for cell, witness in zip(rows["cell"], rows["witness"], strict=True):
                    writer.add(Cell(cell, None, None, 16.0, 16.0, 0.5, _square((200, 60, 60) if witness else (90, 110, 190))))
        counts = truth.groupby("slide").size()
        pd.DataFrame({"slide": counts.index, "cells": counts, "skipped": 0, "width": "", "height": "", "mpp": "",
                      "file": ""}).to_csv(stage.work / "slides.csv", index=False)
    return out


def _square(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(stream, "PNG")
    return stream.getvalue()
