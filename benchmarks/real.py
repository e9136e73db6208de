"""Real slides through the whole flow: malaria smears (patients) and Pap-smear fields (image + cell table).

Beside the recipe, on the same slides, splits and seeds: the same flow from an untrained encoder, and mean pooling of the
same features. Every seed draws another division of the patients, another encoder and another slide model.

    python benchmarks/real.py DATA [--seeds 5] [--sets malaria,cric] [--docs docs/results.md] [--json FILE]
"""

import argparse
import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import milscope as ms
from milscope.recipes import resolve

SETS = {
    "malaria": {
        "title": "Malaria: 160 thin blood smears (patients), crops of red cells",
        "cells": "malaria/cells", "images": None, "truth": "malaria/cell_truth.csv",
        "settings": {"tile": {}, "pretrain": {"epochs": 3}, "evaluate": {"truth_column": "parasitized"}},
    },
    "cric": {
        "title": "CRIC: 184 Pap-smear fields, image + cell table",
        "cells": "cric/cell_truth.csv", "images": "cric/fields", "truth": "cric/cell_truth.csv",
        "settings": {"tile": {"size": 96}, "pretrain": {"epochs": 10},
                     "evaluate": {"truth_column": "label", "truth_normal": "NILM"}},
    },
}
COMMON = {"pretrain": {"encoder_options": {"channels": [32, 64, 128, 256]}, "size": 48},
          "retrieve": {"k": 50}, "report": {"slides": 30}}
ARMS = {"slam-ags": "SLAM-AGS features, gated ABMIL", "untrained": "untrained encoder, gated ABMIL",
        "mean": "SLAM-AGS features, mean pooling"}
FIGURES = {"slide AUC": ("slides", "auc"), "slide average precision": ("slides", "average_precision"),
           "cell AUC": ("cells", "auc"), "recall@10": ("cells", "recall_at_10"), "precision@10": ("cells", "precision_at_10"),
           "enrichment@10": ("cells", "enrichment_at_10")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (arguments.data / "malaria").is_dir():
        raise SystemExit(f"`MILSCOPE_DATA` should be a folder that holds malaria/ and cric/. Found {arguments.data}.")
    if arguments.epochs is not None:
        for spec in SETS.values():
            spec["settings"]["pretrain"]["epochs"] = arguments.epochs
    figures = {}
    for name in arguments.sets.split(","):
        figures[name] = [one_seed(name, seed, arguments.data, arguments.out) for seed in range(arguments.seeds)]
        tables = "\n\n".join(table(each, rows) for each, rows in figures.items())
        print(tables, flush=True)
    if arguments.docs:
        write_between_marks(arguments.docs, tables)
    if arguments.json:
        machine = {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "figures": figures,
                   "versions": {each: version(each) for each in ("milscope", "torch", "timm")}, "ratios": {}}
        arguments.json.write_text(json.dumps(machine, indent=1))


def one_seed(name: str, seed: int, data: Path, out: Path) -> dict[str, dict[str, float]]:
    """Every figure of every arm, on one division of the patients."""
    spec = SETS[name]
    settings = {stage: {**COMMON.get(stage, {}), **spec["settings"].get(stage, {})}
                for stage in ("tile", *COMMON, "evaluate")}
    for stage in ("split", "pretrain", "train"):
        settings.setdefault(stage, {})["seed"] = seed
    home = out / name / f"seed-{seed}"
    truth = data / spec["truth"]
    ms.run(data / name / "slides.csv", home, cells=data / spec["cells"], images=spec["images"] and data / spec["images"],
           truth=truth, settings=settings)
    mean = resolve("mean", settings)  # the settings name no aggregators, so the recipe holds
    ms.train(home / "encode", home / "slides.csv", home / "mean/train", mean["train"])
    judge(home, home / "encode", home / "mean", truth, mean)
    untrained = resolve("slam-ags", settings)
    no_training = dataclasses.replace(untrained["pretrain"], epochs=0)  # a recipe would give way to the settings' epochs
    encoder = ms.pretrain(home / "tile", home / "slides.csv", home / "untrained/pretrain", no_training)
    if encoder.epochs:
        raise SystemExit(f"the untrained encoder should have 0 epochs. Found {encoder.epochs}.")
    ms.encode(home / "tile", home / "untrained/pretrain", home / "untrained/encode", untrained["encode"])
    ms.train(home / "untrained/encode", home / "slides.csv", home / "untrained/train", untrained["train"])
    judge(home, home / "untrained/encode", home / "untrained", truth, untrained)
    places = {"slam-ags": home, "untrained": home / "untrained", "mean": home / "mean"}
    return {arm: read_figures(place / "evaluate/metrics.json") for arm, place in places.items()}


def judge(home: Path, features: Path, arm: Path, truth: Path, configs: dict) -> None:
    ms.predict(features, arm / "train", arm / "predict", home / "slides.csv", configs["predict"])
    ms.retrieve(arm / "predict", home / "tile", arm / "retrieve", configs["retrieve"])
    ms.evaluate(arm / "predict", arm / "evaluate", ranked=arm / "retrieve", truth=truth, config=configs["evaluate"])


def read_figures(path: Path) -> dict[str, float]:
    metrics = json.loads(path.read_text())
    return {label: next(iter(metrics[level].values()))[key]["value"] for label, (level, key) in FIGURES.items()}


def table(name: str, rows: list[dict[str, dict[str, float]]]) -> str:
    """One Markdown table: mean over seeds with its 95 % interval, and the paired difference to the recipe."""
    lines = [f"### {SETS[name]['title']}", "",
             f"{len(rows)} seeds, {SETS[name]['settings']['pretrain']['epochs']} epochs of pretraining. "
             "Mean over seeds (95 % interval of the mean, Student's t); "
             "differences are paired by seed.", "",
             "| | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    recipe = column_values(rows, "slam-ags")
    for arm, title in ARMS.items():
        values = column_values(rows, arm)
        most = {figure: np.inf if figure.startswith("enrichment") else 1.0 for figure in FIGURES}
        lines.append(f"| {title} | " + " | ".join(interval(values[figure], most=most[figure]) for figure in FIGURES) + " |")
        if arm != "slam-ags":
            gaps = " | ".join(f"*{interval(values[figure] - recipe[figure], sign='+')}*" for figure in FIGURES)
            lines.append(f"| *difference to the first row* | {gaps} |")
    return "\n".join(lines)


def column_values(rows: list[dict[str, dict[str, float]]], arm: str) -> dict[str, np.ndarray]:
    return {figure: np.array([row[arm][figure] for row in rows], float) for figure in FIGURES}


def interval(values: np.ndarray, sign: str = "", most: float = np.inf) -> str:
    """Mean and its interval, cut off at the most that the figure can be."""
    mean = values.mean()
    if len(values) < 2:
        return f"{mean:{sign}.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{mean:{sign}.3f} ({mean - half:{sign}.3f} to {min(mean + half, most):{sign}.3f})"


def write_between_marks(path: Path, text: str, mark: str = "real") -> None:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    page = path.read_text()
    head, rest = page.split(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    main()
