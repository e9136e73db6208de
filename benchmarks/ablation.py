"""What each choice of the pretraining is worth, on real cells: one setting changed at a time, judged on validation patients.

Test patients are untouched: they are for `benchmarks/real.py`. Every seed draws another division of the patients and
another encoder; all variants of a seed see the same patients. Three figures:

* probe: cell AUC on validation patients of a logistic regression that is given the cell labels of the training patients:
  what the features hold, whoever reads it;
* cell AUC: of the cells of positive validation slides, ordered by what the slide model makes of them (`evidence`);
* slide AUC: of validation slides, by the model that was also stopped on them, so a little high for every variant.

    python benchmarks/ablation.py DATA [--sets cric,malaria] [--variants NAME,…] [--seeds 3] [--docs docs/results.md]

Finished runs are kept in `--out` and used again, so that several processes can share the work.
"""

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from real import COMMON, SETS, interval, write_between_marks
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import milscope as ms
from milscope.configs import configure
from milscope.ranking import rank_scores
from milscope.slides import labels
from milscope.store import feature_slides, read_cells, read_features
from milscope.truth import match_truth, read_truth

BASE = "slam-ags"
METHODS = {name: {"method": name} for name in (
    "random", "simclr", "weakly-supervised", "similarity", "weaksupcon", "pcgrad", "upgrad", "mgda")}
SETTINGS = {
    "two-way surgery": {"surgery": "ags"},
    "statistics per task": {"statistics": "per-task"},
    "statistics per view": {"statistics": "per-view"},
    "no rotations or flips": {"orientations": False},
    "no colour jitter": {"colour": 0.0},
    "colour jitter 0.3": {"colour": 0.3},
    "stain jitter 0.1": {"stain": 0.1},
    "stain jitter 0.1, no colour jitter": {"stain": 0.1, "colour": 0.0},
    "temperatures 0.2": {"contrast_temperature": 0.2, "similarity_temperature": 0.2},
    "temperatures 0.5": {"contrast_temperature": 0.5, "similarity_temperature": 0.5},
    "similarity weight 0.1": {"similarity_weight": 0.1},
    "similarity weight 0.3": {"similarity_weight": 0.3},
    "SGD 0.05": {"optimizer": "sgd", "learning_rate": 0.05},
    "AdamW 3e-4": {"learning_rate": 3e-4},
    "AdamW 3e-3": {"learning_rate": 3e-3},
    "projection 128 wide": {"projection": 128},
    "batch 128": {"batch": 128},
    "batch 512": {"batch": 512},
    "half the epochs": {"epochs": 0.5},
    "three times the epochs": {"epochs": 3.0},
}
VARIANTS = {BASE: {}, **METHODS, **SETTINGS}
FIGURES = ("probe", "cell AUC", "slide AUC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", default="cric,malaria")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="epochs of every variant, where not changed")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tables, figures = [], {}
    for name in arguments.sets.split(","):
        figures[name] = {}
        for seed in range(arguments.seeds):
            for variant in arguments.variants.split(","):
                found = one_run(name, variant, seed, arguments)
                figures[name].setdefault(variant, []).append(found)
                print(name, seed, variant, {key: round(value, 3) for key, value in found.items()}, flush=True)
        tables.append(table(name, figures[name]))
        print(tables[-1], flush=True)
    if arguments.docs:
        write_between_marks(arguments.docs, "\n\n".join(tables), "ablation")
    if arguments.json:
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
        versions = {each: version(each) for each in ("milscope", "torch", "timm")}
        arguments.json.write_text(json.dumps({"machine": machine, "versions": versions, "figures": figures, "ratios": {}}))


def one_run(name: str, variant: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The figures of one variant on one division of the patients."""
    home = arguments.out / name / f"seed-{seed}"
    place = home / variant.replace(" ", "-").replace(",", "")
    if (place / "figures.json").exists():
        return json.loads((place / "figures.json").read_text())
    spec, data = SETS[name], arguments.data
    table = ms.split(ms.read_slides(data / name / "slides.csv"), ms.SplitConfig(seed=seed))
    tiled = ms.tile(table, home / "tile", cells=data / spec["cells"], images=spec["images"] and data / spec["images"],
                    config=configure(ms.TileConfig, spec["settings"]["tile"], source="tile")).directory
    base = {**COMMON["pretrain"], **spec["settings"]["pretrain"], "seed": seed, "groups_every": 0}
    if arguments.epochs is not None:
        base["epochs"] = arguments.epochs
    changes = dict(VARIANTS[variant])
    if isinstance(changes.get("epochs"), float):
        changes["epochs"] = max(1, round(base["epochs"] * changes["epochs"]))
    encoder = ms.pretrain(tiled, table, place / "pretrain", ms.PretrainConfig(**{**base, **changes})).directory
    features = ms.encode(tiled, encoder, place / "encode").directory
    model = ms.train(features, table, place / "train", ms.TrainConfig(seed=seed)).directory
    scores = ms.predict(features, model, place / "predict", table).directory
    options = spec["settings"]["evaluate"]
    truth = read_truth(data / spec["truth"], "", options["truth_column"], options.get("truth_normal", "0")).rows
    found = {"probe": probe(features, table, truth), **model_figures(scores, table, truth)}
    (place / "figures.json").write_text(json.dumps(found))
    return found


def probe(features: Path, table: pd.DataFrame, truth: pd.DataFrame) -> float:
    """Cell AUC on validation patients of a logistic regression on the cells of training patients."""
    parts = {}
    for split in ("train", "validation"):
        slides = [slide for slide in table.loc[table["split"] == split, "slide"] if slide in set(feature_slides(features))]
        witness = np.concatenate([match_truth(truth[truth["slide"] == slide], read_cells(features, slide)).witness
                                  for slide in slides])
        known = np.isfinite(witness)
        parts[split] = read_features(features, slides).features.numpy()[known], witness[known]
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500, class_weight="balanced"))
    reader.fit(*parts["train"])
    return float(roc_auc_score(parts["validation"][1], reader.decision_function(parts["validation"][0])))


def model_figures(scores: Path, table: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Slide AUC, and mean cell AUC over positive slides with cells of both kinds, on validation patients."""
    slides = pd.read_csv(scores / "slides.csv", dtype={"slide": str}).set_index("slide")
    task, table = labels(table, "")
    part = table[(table["split"] == "validation") & table["slide"].isin(slides.index)]
    slide_auc = roc_auc_score(part[task], slides.loc[part["slide"], "probability"])
    ranked = rank_scores(scores, "evidence")
    aucs = []
    for slide in part.loc[part[task] == 1, "slide"]:
        cells = ranked[ranked["slide"] == slide]
        witness = match_truth(truth[truth["slide"] == slide], cells).witness
        known = np.isfinite(witness)
        if len(set(witness[known])) == 2:
            aucs.append(roc_auc_score(witness[known], cells["score"].to_numpy()[known]))
    return {"cell AUC": float(np.mean(aucs)), "slide AUC": float(slide_auc)}


def table(name: str, figures: dict[str, list[dict[str, float]]]) -> str:
    """One Markdown table: the mean of each variant, and its paired difference to the first with an interval."""
    seeds = min(map(len, figures.values()))
    lines = [f"### {SETS[name]['title']}", "", f"{seeds} seeds, validation patients; mean, and paired difference to `{BASE}` "
             "(95 % interval over seeds, Student's t).", "",
             "| | " + " | ".join(f"{figure} | difference" for figure in FIGURES) + " |", "|---" * (2 * len(FIGURES) + 1) + "|"]
    for variant, runs in figures.items():
        columns = []
        for figure in FIGURES:
            values = np.array([run[figure] for run in runs[:seeds]])
            gap = values - np.array([run[figure] for run in figures.get(BASE, runs)[:seeds]])
            columns += [f"{values.mean():.3f}", "" if variant == BASE else interval(gap, sign="+")]
        lines.append(f"| {variant} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
