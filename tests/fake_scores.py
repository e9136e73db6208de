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


def task_tables(slides: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """A yes/no task (the slides' own), grades, kinds without an order, and a time to an event; some labels are missing."""
    random = np.random.default_rng(2)
    base = slides[["slide", "patient", "split"]]
    yes = slides["label"].map({0.0: "negative", 1.0: "positive"}).fillna("")
    abnormal = base.assign(label=yes, predicted=np.where(slides["called"] == 1, "positive", "negative"),
                           **{name: slides[name] for name in ("probability", "logit", "called")},
                           **{"p:negative": 1 - slides["probability"], "p:positive": slides["probability"]})
    time = np.ceil(random.exponential(10, len(slides)))
    risk = random.normal(size=len(slides)) - np.log(time)
    death = base.assign(time=time, event=(random.random(len(slides)) < 0.7).astype(int), risk=risk,
                        probability=1 / (1 + np.exp(-risk)), **{"S:3": 0.8, "S:6.5": 0.5})
    death["time"] = death["time"].where(np.arange(len(slides)) != 1)
    return {"abnormal": abnormal, "grade": _class_table(base, ("NILM", "LSIL", "HSIL"), random),
            "kind": _class_table(base, ("normal", "a", "b"), random), "death": death}


TASK_KINDS = {"abnormal": "binary", "grade": "ordinal", "kind": "multiclass", "death": "cox"}
OTHERWISE = "binary"


def _class_table(base: pd.DataFrame, classes: tuple[str, ...], random: np.random.Generator) -> pd.DataFrame:
    place = np.arange(len(base)) % len(classes)
    shares = random.dirichlet(np.ones(len(classes)), len(base)) + 0.5 * np.eye(len(classes))[place]
    shares /= shares.sum(1, keepdims=True)
    label = pd.Series([classes[i] for i in place]).where(np.arange(len(base)) != 0, "")
    return base.assign(label=label.to_numpy(), predicted=[classes[i] for i in shares.argmax(1)], probability=1 - shares[:, 0],
                       logit=np.log(1 / shares[:, 0] - 1), called=(shares[:, 0] <= 0.5).astype(int),
                       **{f"p:{name}": shares[:, i] for i, name in enumerate(classes)})


def write_scores(out: Path, slides: pd.DataFrame, cells: pd.DataFrame, patients: tuple[str, ...] = ("P04", "P05"),
                 tasks: dict[str, pd.DataFrame] | None = None) -> Path:
    """A `scores` artifact; `patients` are those the model has learned from."""
    with Stage(out, "scores", PredictConfig(), {"model": "0123"}, patients) as stage:
        slides.to_csv(stage.work / "slides.csv", index=False)
        cells.drop(columns="witness").to_parquet(stage.work / "cells.parquet", index=False, row_group_size=37)
        stage.summary.update(task="abnormal", threshold=0.5, aggregator="mean")
        if tasks is not None:
            (stage.work / "tasks").mkdir()
            for name, table in tasks.items():
                table.to_csv(stage.work / "tasks" / f"{name}.csv", index=False)
            stage.summary.update(tasks=[{"kind": TASK_KINDS.get(name, OTHERWISE), "name": name} for name in tasks])
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
