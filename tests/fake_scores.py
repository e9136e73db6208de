"""Small `scores` and `cells` artifacts, written as the formats say."""

from pathlib import Path

import numpy as np
import pandas as pd

from milscope.configs import PredictConfig, TileConfig
from milscope.slides import Cell
from milscope.store import CellWriter, Stage

SPLITS = ("test", "test", "test", "test", "train", "validation")


def slide_table(slides: int = 12) -> pd.DataFrame:
    """Slides S00, S01, …, one a patient; odd ones positive; four of six are test slides."""
    place = np.arange(slides)
    label = place % 2
    probability = np.clip(0.3 + 0.4 * label + np.random.default_rng(0).normal(0, 0.25, slides), 0.01, 0.99)
    return pd.DataFrame({
        "slide": [f"S{i:02d}" for i in place], "patient": [f"P{i:02d}" for i in place],
        "split": [SPLITS[i % len(SPLITS)] for i in place], "label": label.astype(float), "probability": probability,
        "logit": np.log(probability / (1 - probability)), "called": (probability >= 0.5).astype(int),
    })


def cell_table(slides: pd.DataFrame, cells: int = 30, *, places: bool = True) -> pd.DataFrame:
    """Cells of those slides; in positive slides the first three are witnesses, with high evidence."""
    random = np.random.default_rng(1)
    frames = []
    for slide, label in zip(slides["slide"], slides["label"], strict=True):
        witness = (np.arange(cells) < 3) & (label == 1)
        attention = random.random(cells) + witness
        frames.append(pd.DataFrame({
            "slide": slide, "cell": [f"{slide}:{i}" for i in range(cells)],
            "x": np.arange(cells) * 10.5 if places else np.nan, "y": np.arange(cells) * 7.25 if places else np.nan,
            "width": 64.0, "height": 64.0, "attention": (attention / attention.sum()).astype(np.float32),
            "evidence": (random.normal(size=cells) + 9 * witness).astype(np.float32), "witness": witness,
        }))
    return pd.concat(frames, ignore_index=True)


def write_scores(out: Path, slides: pd.DataFrame, cells: pd.DataFrame, patients: tuple[str, ...] = ("P04", "P05")) -> Path:
    """A `scores` artifact; `patients` are those the model has learned from."""
    with Stage(out, "scores", PredictConfig(), {"model": "0123"}, patients) as stage:
        slides.to_csv(stage.work / "slides.csv", index=False)
        cells.drop(columns="witness").to_parquet(stage.work / "cells.parquet", index=False, row_group_size=37)
        stage.summary.update(task="abnormal", threshold=0.5, aggregator="mean")
    return out


def write_cells(out: Path, cells: pd.DataFrame) -> Path:
    """A `cells` artifact whose images are the cells' names."""
    with Stage(out, "cells", TileConfig(), {"slides": "4567"}) as stage:
        for slide, rows in cells.groupby("slide"):
            with CellWriter(stage.work / f"{slide}.arrow", str(slide)) as writer:
                for cell, x, y, width, height in rows[["cell", "x", "y", "width", "height"]].itertuples(index=False):
                    place = (None, None) if np.isnan(x) else (x, y)
                    writer.add(Cell(cell, *place, width, height, None, cell.encode()))
        counts = cells.groupby("slide").size()
        pd.DataFrame({"slide": counts.index, "cells": counts, "skipped": 0, "width": "", "height": "", "mpp": "",
                      "file": ""}).to_csv(stage.work / "slides.csv", index=False)
    return out


def write_truth(path: Path, cells: pd.DataFrame, *, by: tuple[str, ...] = ("slide", "cell")) -> Path:
    """The truth table of those cells."""
    cells.assign(abnormal=cells["witness"].astype(int))[[*by, "abnormal"]].to_csv(path, index=False)
    return path
