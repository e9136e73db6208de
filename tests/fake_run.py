"""A small finished run, written as the formats say, for whoever needs one to read."""

import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from milscope.configs import STAGES
from milscope.store import Stage, read_manifest

KINDS = {"tile": "cells", "check": "audit", "pretrain": "encoder", "endtoend": "endtoend", "encode": "features",
         "train": "model", "predict": "scores", "retrieve": "ranked", "evaluate": "metrics"}
SIDE, MPP = 1200, 0.5


class Shape(NamedTuple):
    """What the run looks like."""

    cells: int
    places: bool
    epochs: int
    side: int
    grain: int


def fake_run(run: Path, *, slides: int = 8, cells: int = 12, leave_out: Collection[str] = (), truth: bool = True,
             collapsed: bool = False, transductive: bool = False, places: bool = True, epochs: int = 6,
             side: int = 64, grain: int = 0, joint: bool = False) -> Path:
    """Writes a run of `slides` slides with `cells` ranked cells each; `leave_out` names stages (or files) it lacks.

    `joint`: encoder and slide model learned together, from that of `pretrain`.
    Crops have `side` pixels and noise of strength `grain`, which makes their files large.
    """
    random = np.random.default_rng(0)
    table = _slides(slides, random)
    run.mkdir(parents=True)
    if "slides.csv" not in leave_out:
        table.drop(columns="probability").rename(columns={"label": "abnormal"}).to_csv(run / "slides.csv", index=False)
    config = {stage: STAGES[stage]() for stage in KINDS}
    if not epochs:
        config["pretrain"] = STAGES["pretrain"](epochs=0)
    inputs = {"slides": "0123456789abcdef"}
    for stage, kind in KINDS.items():
        if stage in {*leave_out, "train" if joint else "endtoend"}:
            continue
        if stage == "endtoend" and "pretrain" not in leave_out:
            inputs = {**inputs, "init": read_manifest(run / "pretrain", "encoder").fingerprint}
        with Stage(run / stage, kind, config[stage], inputs, patients=table["patient"][:3]) as made:
            shape = Shape(cells, places, epochs, side, grain)
            WRITERS.get(stage, lambda *_: None)(made.work, table, shape, random)
            if stage == "pretrain":
                made.summary.update(task="abnormal", collapsed=collapsed, epochs=epochs)
            if stage == "endtoend":
                made.summary.update(task="abnormal", aggregator="abmilx", warnings=["1 slides without cells were left out: s9"])
            if stage == "predict":
                made.summary.update(task="abnormal", threshold=0.5, aggregator="abmil-gated")
            if stage == "evaluate":
                _evaluate(made.work, table, truth, transductive)
    return run


def cell_image(random: np.random.Generator, *, abnormal: bool, side: int = 64, grain: int = 0) -> bytes:
    """A stained cell as PNG: pale cytoplasm, and a nucleus that is large and dark when abnormal."""
    image = Image.new("RGB", (side * 4, side * 4), (238, 234, 240))
    _draw_cell(ImageDraw.Draw(image), random, (side * 2, side * 2), side * 1.7, abnormal=abnormal)
    pixels = np.asarray(image.resize((side, side))) + random.integers(-grain, grain + 1, (side, side, 3))
    encoded = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def _slides(slides: int, random: np.random.Generator) -> pd.DataFrame:
    label = np.arange(slides) % 2
    probability = np.clip(0.25 + 0.45 * label + random.normal(0, 0.18, slides), 0.01, 0.99)
    split = np.array(["test", "test", "train", "train", "validation", "test", "test", "train"])[np.arange(slides) % 8]
    names = [f"slide-{place:03d}" for place in range(slides)]
    return pd.DataFrame({
        "slide": names, "file": "", "patient": [f"P{place:03d}" for place in range(slides)], "split": split,
        "mpp": MPP, "label": label.astype(float), "probability": probability.round(4),
    })


def _tile(work: Path, table: pd.DataFrame, shape: Shape, random: np.random.Generator) -> None:
    cells = shape.cells
    pd.DataFrame({"slide": table["slide"], "cells": cells * 5, "skipped": [1] + [0] * (len(table) - 1), "width": SIDE,
                  "height": SIDE * 3 // 4, "mpp": MPP, "file": ""}).to_csv(work / "slides.csv", index=False)
    failures = {"slide": [table["slide"][0]], "cell": ["slide-000:7,9"], "reason": ["truncated JPEG <b>"]}
    pd.DataFrame(failures).to_csv(work / "failures.csv", index=False)
    (work / "thumbnails").mkdir()
    (work / "kept").mkdir()
    for slide in table["slide"]:
        names = [f"{slide}:{rank}" for rank in range(1, cells + 1)]
        _arrow(work / f"{slide}.arrow", {"cell": names, "mpp": [MPP] * cells})
        if shape.places:
            image = Image.new("RGB", (SIDE // 2, SIDE * 3 // 8), (240, 237, 241))
            draw = ImageDraw.Draw(image)
            for _ in range(60):
                place = (random.uniform(0, SIDE / 2), random.uniform(0, SIDE * 3 / 8))
                _draw_cell(draw, random, place, 11, abnormal=random.random() < 0.1)
            image.save(work / "thumbnails" / f"{slide}.jpg", quality=85)
            draw.rectangle((20, 20, 90, 90), outline=(213, 94, 0))
            image.save(work / "kept" / f"{slide}.jpg", quality=85)


def _retrieve(work: Path, table: pd.DataFrame, shape: Shape, random: np.random.Generator) -> None:
    cells = shape.cells
    everything = []
    for slide, label in zip(table["slide"], table["label"], strict=True):
        score = np.sort(random.exponential(1, cells))[::-1]
        place = random.uniform(0.05, 0.95, (cells, 2)) * (SIDE, SIDE * 3 // 4) if shape.places else np.full((cells, 2), np.nan)
        columns = {
            "slide": [slide] * cells, "rank": list(range(1, cells + 1)),
            "cell": [f"{slide}:{rank}" for rank in range(1, cells + 1)], "score": list(score / score.sum() / 5),
            "x": list(place[:, 0]), "y": list(place[:, 1]), "width": [64.0] * cells, "height": [64.0] * cells,
        }
        everything.append(pd.DataFrame(columns))
        images = [cell_image(random, abnormal=bool(label) and rank < 5, side=shape.side, grain=shape.grain)
                  for rank in range(cells)]
        _arrow(work / f"{slide}.arrow", {**columns, "image": images})
    pd.concat(everything).to_csv(work / "ranked.csv", index=False)


def _predict(work: Path, table: pd.DataFrame, shape: Shape, random: np.random.Generator) -> None:
    cells = shape.cells * 5
    place = random.uniform(0.05, 0.95, (len(table), cells, 2)) * (SIDE, SIDE * 3 // 4) if shape.places else np.nan
    rows = np.broadcast_to(place, (len(table), cells, 2)).reshape(-1, 2)
    slides = np.repeat(table["slide"].to_numpy(), cells)
    pd.DataFrame({"slide": slides, "cell": [f"{slide}:{number % cells + 1}" for number, slide in enumerate(slides)],
                  "x": rows[:, 0], "y": rows[:, 1], "width": 64.0, "height": 64.0, "attention": 1 / cells,
                  "evidence": random.normal(size=len(rows))}).to_parquet(work / "cells.parquet")
    frame = table[["slide", "patient", "split", "label", "probability"]]
    frame = frame.assign(logit=np.log(frame["probability"] / (1 - frame["probability"])), called=frame["probability"] >= 0.5)
    frame.to_csv(work / "slides.csv", index=False)


def _pretrain(work: Path, _: pd.DataFrame, shape: Shape, __: np.random.Generator) -> None:
    steps = np.arange(1, shape.epochs + 1)
    pd.DataFrame({
        "epoch": steps, "contrast": 5.5 - 0.5 * np.log(steps), "contrast_over_chance": 1 - 0.18 * np.log(steps),
        "similarity": 9 / steps + 2, "cosine": -0.8 + 0.1 * np.log(steps), "conflict_share": 1 / steps ** 0.2,
        "length_ratio": 1 + 2 / steps, "rescale": 1 + 1 / steps, "feature_std": 0.4 + 0.05 * np.log(steps),
        "effective_rank": 12 + 2 * steps, "learning_rate": 0.05, "images_per_second": 900.0, "waiting_share": 0.1,
    }).to_csv(work / "log.csv", index=False)


def _train(work: Path, *_: object) -> None:
    steps = np.arange(1, 21)
    rows = [pd.DataFrame({"aggregator": name, "epoch": steps, "train_loss": 0.7 * np.exp(-steps / scale),
                          "validation_loss": 0.45 + 0.25 * np.exp(-steps / scale) + 0.004 * steps,
                          "validation_auc": np.minimum(1, 0.5 + steps / 40), "learning_rate": 3e-4})
            for name, scale in (("abmil-gated", 9), ("pamil", 14))]
    pd.concat(rows).to_csv(work / "log.csv", index=False)
    pd.DataFrame({"aggregator": ["abmil-gated", "pamil"], "best_epoch": [12, 15], "validation_loss": [0.52, 0.55],
                  "validation_auc": [0.8, 0.75], "chosen": [True, False]}).to_csv(work / "candidates.csv", index=False)


def _endtoend(work: Path, *_: object) -> None:
    (work / "model").mkdir()
    steps = np.arange(1, 13)
    pd.DataFrame({"aggregator": "abmilx", "epoch": steps, "train_loss": 0.7 * np.exp(-steps / 5),
                  "validation_loss": 0.4 + 0.3 * np.exp(-steps / 5), "validation_auc": np.minimum(1, 0.5 + steps / 20),
                  "learning_rate": 2e-4, "cells_per_second": 800.0, "gigabytes": 2.5, "alpha": 0.01 * steps,
                  }).to_csv(work / "model" / "log.csv", index=False)
    pd.DataFrame({"aggregator": ["abmilx"], "best_epoch": [9], "validation_loss": [0.45], "validation_auc": [0.9],
                  "chosen": [True]}).to_csv(work / "model" / "candidates.csv", index=False)


def _evaluate(work: Path, table: pd.DataFrame, truth: bool, transductive: bool) -> None:
    def measure(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.12, "high": min(1, value + 0.08)}

    names = {"auc": 0.91, "average_precision": 0.9, "f1": 0.85, "sensitivity": 0.82, "specificity": 0.88,
             "balanced_accuracy": 0.85, "brier": 0.13}
    found = {"auc": 0.88, "average_precision": 0.4, "recall_at_10": 0.41, "precision_at_10": 0.38, "recall_at_20": 0.62,
             "precision_at_20": 0.3, "recall_at_witnesses": 0.43, "enrichment_at_10": 7.6}
    slides = {name: measure(value) for name, value in names.items()}
    cells = {"abnormal": {name: measure(value) for name, value in found.items()}} if truth else {}
    (work / "metrics.json").write_text(json.dumps({
        "slides": {"abnormal": slides}, "cells": cells, "test": {"slides": 4}, "transductive": transductive,
        "warnings": ["2 rows of the truth about test slides match no scored cell and are left out."],
    }))
    rate, k = np.linspace(0, 1, 101), np.arange(1, 61)
    roc, recall = np.sqrt(rate), 1 - np.exp(-k / 20)
    curves = {
        "roc": {"false_positive_rate": [0, 0, 0.25, 0.25, 1], "sensitivity": [0, 0.5, 0.5, 1, 1], "threshold": [9, 8, 7, 6, 5],
                "band": {"false_positive_rate": rate.tolist(), "low": (roc * 0.8).tolist(), "high": roc.tolist()}},
        "precision_recall": {
            "recall": [0, 0.5, 1], "precision": [1, 1, 0.6], "threshold": [9, 8, 7], "prevalence": 0.5,
            "band": {"recall": rate[1:].tolist(), "low": (1 - rate[1:] * 0.6).tolist(), "high": np.ones(100).tolist()}},
        "confusion": {"true_positive": 2, "false_negative": 1, "false_positive": 0, "true_negative": 1},
        "histogram": {"edges": [0, 0.5, 1], "positive": [1, 2], "negative": [1, 0]},
    }
    if truth:
        curves["recall_at"] = {"k": k.tolist(), "value": recall.tolist(), "low": (recall * 0.8).tolist(),
                               "high": np.minimum(1, recall * 1.15).tolist()}
    (work / "curves.json").write_text(json.dumps({"abnormal": curves}))
    test = table[(table["split"] == "test")]
    test.assign(recall_at_20=np.where(test["label"] == 1, 0.5, np.nan) if truth else np.nan)[
        ["slide", "recall_at_20"]].to_csv(work / "test_slides.csv", index=False)


def _draw_cell(draw: ImageDraw.ImageDraw, random: np.random.Generator, place: tuple[float, float], radius: float, *,
               abnormal: bool) -> None:
    x, y = place
    tint = tuple(int(value) for value in random.normal((176, 196, 206) if random.random() < 0.5 else (214, 178, 190), 8))
    draw.ellipse((x - radius, y - radius * 0.85, x + radius, y + radius * 0.85), fill=tint)
    core = radius * (0.55 if abnormal else 0.2)
    draw.ellipse((x - core, y - core * 0.8, x + core, y + core * 0.8), fill=(62, 40, 92) if abnormal else (104, 84, 132))


def _arrow(path: Path, columns: dict[str, list]) -> None:
    table = pa.table(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _check(work: Path, *_: object) -> None:
    findings = [
        {"level": "fine", "check": "files", "says": "8 images, every header can be read.", "do": "", "names": []},
        {"level": "look", "check": "shortcuts", "says": "The scanner tells `abnormal` with an AUC of 0.91 (0.80 to 0.97).",
         "do": "Take care that both classes come from every scanner.", "names": ["scanner"]},
    ]
    (work / "audit.json").write_text(json.dumps({"slides": 8, "patients": 8, "cells": 480, "mend": 0, "findings": findings}))


WRITERS = {"tile": _tile, "check": _check, "pretrain": _pretrain, "endtoend": _endtoend, "train": _train, "predict": _predict,
           "retrieve": _retrieve}
