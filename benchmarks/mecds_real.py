"""Many screening tasks from one slide: MECDS beside single-task and multi-task models, its ablation, tasks added later.

Two sets: rendered slides with three findings of which two are rare, and the fields of CRIC, one task for each group of
grades. Every seed draws another division of the patients and other models. The rendered slides' encoder has learned
without labels from other rendered slides; that of CRIC from the training patients of the division.

    python benchmarks/mecds_real.py DATA [--seeds 5] [--sets rendered,cric] [--slides 2000] [--cells 160] [--workers 2]
        [--minutes 50] [--docs docs/results.md] [--tables-only]
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _mecds
import _mecds_tables
import numpy as np
import pandas as pd
import real
import torch

import milscope as ms
from milscope.store import Bags, read_cells, read_features
from milscope.truth import match_truth, read_truth

SIZE, ENCODER = 48, {"channels": [16, 32, 64, 128]}
CRIC_SIZE, CRIC_EPOCHS = 32, 10
GRADES = {"asc_us": ("ASC-US",), "lsil": ("LSIL",), "high": ("ASC-H", "HSIL", "SCC")}
"""CRIC's tasks: whether a field shows a cell of those labels."""
TASKS = {"rendered": ("abnormal", "candida", "clue"), "cric": tuple(GRADES)}
RENDERED: dict[str, Any] = {"prevalence": 0.48, "candida": 0.02, "clue": 0.06, "rate": 0.05, "mpp": 0.9, "seed": 0}
OTHERS: dict[str, Any] = {"slides": 300, "cells": 100, "prevalence": 0.5, "candida": 0.5, "clue": 0.5, "rate": 0.08, "mpp": 0.9,
                          "seed": 1}
"""Of the slides that the encoder learns from, without labels: none of those that are asked about."""
FITS = {"rendered": {"epochs": 6, "batch": 16}, "cric": {"epochs": 20, "batch": 16}}


class Job(NamedTuple):
    """Some arms of one division of one set."""

    name: str
    seed: int
    group: str
    out: Path
    deadline: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", default="rendered,cric")
    parser.add_argument("--groups", default=",".join(_mecds.GROUPS))
    parser.add_argument("--slides", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("runs/mecds"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e9, help="after so many no further arm is begun")
    parser.add_argument("--tables-only", action="store_true", help="of what is done")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names, groups = options.sets.split(","), options.groups.split(",")
    deadline = time.monotonic() + 60 * options.minutes
    if not options.tables_only:
        for name in names:
            prepare(name, options)
        jobs = [Job(name, seed, group, options.out, deadline)
                for group in groups for seed in range(options.seeds) for name in names
                if (name, group) != ("cric", "extension")]
        jobs.sort(key=lambda job: (job.group in _mecds.SLOW) * (1 + job.seed))  # these last, both of a division in turn
        with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=8) as pool:
            for job, arms in pool.imap_unordered(work, jobs):
                print(f"{time.strftime('%H:%M')} {job.name} seed {job.seed} {job.group}: {'; '.join(arms) or 'nothing new'}",
                      flush=True)
    figures = {name: [found(options.out / name / f"seed-{seed}") for seed in range(options.seeds)] for name in names}
    text = "\n\n".join(_mecds_tables.page(name, described(name, options), TASKS[name], rows) for name, rows in figures.items())
    print(text)
    if options.docs:
        real.write_between_marks(options.docs, text, "mecds")
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "ratios": {}}, indent=1))


def prepare(name: str, options: argparse.Namespace) -> None:
    """Everything before the slide models, as far as it is not there."""
    torch.set_num_threads(options.workers)
    home = options.out / name
    home.mkdir(parents=True, exist_ok=True)
    if name == "rendered":
        render(home, options)
    else:
        grade(home, options.data, options.seeds)


def render(home: Path, options: argparse.Namespace) -> None:
    """Slides, an encoder from other slides, features."""
    other = ms.synth(home / "others", ms.SynthConfig(**OTHERS, crops=True, workers=options.workers)).directory
    slides = ms.synth(home / "slides", ms.SynthConfig(slides=options.slides, cells=options.cells, **RENDERED, crops=True,
                                                     workers=options.workers)).directory
    cut = ms.TileConfig(size=int(SIZE * 1.125), workers=options.workers)
    learned = pd.read_csv(other / "slides.csv").assign(split="train")
    ms.tile(learned, home / "others-tile", cells=other / "cells", config=cut)
    ms.pretrain(home / "others-tile", learned, home / "encoder", ms.PretrainConfig(
        method="simclr", encoder_options=ENCODER, size=SIZE, epochs=6, colour=0.4))
    ms.tile(slides / "slides.csv", home / "tile", cells=slides / "cells", config=cut)
    ms.encode(home / "tile", home / "encoder", home / "features")
    pack(home, home / "features", slides / "slides.csv", slides / "truth/cells.csv", TASKS["rendered"])


def grade(home: Path, data: Path, seeds: int) -> None:
    """CRIC's fields with a column for each group of grades; an encoder for each division."""
    cells = pd.read_csv(data / real.SETS["cric"]["truth"])
    for task, labels in GRADES.items():
        cells[task] = cells["label"].isin(labels).astype(int)
    cells.to_csv(home / "truth.csv", index=False)
    slides = pd.read_csv(data / "cric/slides.csv").set_index("slide")
    shown = cells.groupby("slide")[list(GRADES)].max().reindex(slides.index).fillna(0).astype(int)
    slides.join(shown).reset_index().to_csv(home / "slides.csv", index=False)
    ms.tile(home / "slides.csv", home / "tile", cells=data / real.SETS["cric"]["cells"], images=data / "cric/fields",
            config=ms.TileConfig(**real.SETS["cric"]["settings"]["tile"]))
    for seed in range(seeds):
        place = home / f"seed-{seed}"
        ms.pretrain(home / "tile", divided(home / "slides.csv", "cric", seed), place / "encoder", ms.PretrainConfig(
            task="abnormal", encoder_options=ENCODER, size=CRIC_SIZE, epochs=CRIC_EPOCHS, seed=seed))
        ms.encode(home / "tile", place / "encoder", place / "features")
        pack(place, place / "features", home / "slides.csv", home / "truth.csv", TASKS["cric"])


def pack(place: Path, features: Path, slides: Path, truth: Path, tasks: tuple[str, ...]) -> None:
    """All features and the truth of all cells in one file, which is quicker to read at every fit."""
    file = place / "packed.npz"
    if file.exists():
        return
    names = sorted(set(ms.read_slides(slides)["slide"]) & {path.stem for path in features.glob("**/*.h5")})
    bags = read_features(features, names)
    shown = {}
    for task in tasks:
        rows = dict(list(read_truth(truth, "", task).rows.groupby("slide")))
        shown[task] = np.concatenate([match_truth(rows[name], read_cells(features, name)).witness == 1 for name in names])
    partial = place / "partial.npz"
    np.savez(partial, names=np.array(names), features=bags.features.numpy(), offsets=bags.offsets.numpy(), **shown)
    partial.rename(file)


def divided(slides: Path, name: str, seed: int) -> pd.DataFrame:
    """The slide table with the division of that seed."""
    return ms.split(ms.read_slides(slides), ms.SplitConfig(seed=seed), task=",".join(TASKS[name]))


def work(job: Job) -> tuple[Job, list[str]]:
    """The arms of a group that have no figures yet."""
    torch.set_num_threads(1)
    home = job.out / job.name
    place = home / f"seed-{job.seed}"
    if time.monotonic() > job.deadline or all(done(place / f"{arm}.json") for arm in _mecds.GROUPS[job.group]):
        return job, []
    packed = np.load((home if job.name == "rendered" else place) / "packed.npz")
    bags = Bags(torch.from_numpy(packed["features"]), torch.from_numpy(packed["offsets"]))
    table = divided(home / ("slides/slides.csv" if job.name == "rendered" else "slides.csv"), job.name, job.seed)
    table = table.set_index("slide").loc[packed["names"].tolist()].reset_index()
    table[list(TASKS[job.name])] = table[list(TASKS[job.name])].astype(int)
    ground = _mecds.Ground.of(bags, table, {task: packed[task] for task in TASKS[job.name]})
    config = ms.TrainConfig(select="auc", precision="float32", patience=10, learning_rate=3e-3, dropout=0.1, seed=job.seed,
                            **FITS[job.name])
    arms = _mecds.Arms(ground, place, config, job.deadline)
    return job, list(arms.run(_mecds.GROUPS[job.group]))


def done(file: Path) -> bool:
    return file.exists() and "error" not in json.loads(file.read_text())


def found(place: Path) -> dict[str, _mecds.Figures]:
    """The figures of one division: arm → figures, of those that were done."""
    files = {arm: place / f"{arm}.json" for arms in _mecds.GROUPS.values() for arm in arms}
    return {arm: json.loads(file.read_text()) for arm, file in files.items() if file.exists()}


def described(name: str, options: argparse.Namespace) -> str:
    """What the set is."""
    epochs, shares = FITS[name]["epochs"], {task: f"{RENDERED[task]:.0%}" for task in ("prevalence", "candida", "clue", "rate")}
    if name == "cric":
        groups = "; ".join(f"`{task}`: {', '.join(labels)}" for task, labels in GRADES.items())
        return (f"184 fields of Pap smears, one task a group of grades ({groups}), whether a field shows a cell of it. The "
                f"encoder is SLAM-AGS on normal against abnormal fields of the training patients. {epochs} epochs; TransMIL "
                "and MambaMIL, narrow, half as many.")
    return (f"{options.slides:,} rendered slides of {options.cells} cells: abnormal {shares['prevalence']} of the slides, "
            f"candida {shares['candida']}, clue cells {shares['clue']}, by chance together; {shares['rate']} of the cells of a "
            f"slide show what it has. The encoder is SimCLR on {OTHERS['slides']} other rendered slides, without labels. "
            f"{epochs} epochs; TransMIL and MambaMIL, narrow, half as many.")


if __name__ == "__main__":
    main()
