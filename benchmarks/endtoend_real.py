"""End to end beside two stages on real slides: which cells get gradients, which slide model, what alpha does.

Every arm has the same slides, splits, seeds, encoder and number of epochs at most; the epoch is chosen on validation
patients, everything is measured on test patients. Arms that are done are not done again.

    python benchmarks/endtoend_real.py DATA [--seeds 5] [--sets malaria,cric] [--arms …] [--workers 2] [--docs docs/results.md]
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import real
import torch
from sklearn.metrics import roc_auc_score

import milscope as ms
from milscope.devices import peak_memory
from milscope.encode import encode_cells
from milscope.models import load_model
from milscope.store import Bags, CellStore, decode_windows, windows
from milscope.truth import match_truth, read_truth

SIZE, ENCODER = 32, {"channels": [16, 32, 64, 128]}
EPOCHS = {"malaria": 6, "cric": 10}
BUDGET = {"malaria": 48, "cric": 12}
"""Cells of a slide and step, about half of those of the median slide."""
AGGREGATORS = {"abmil": "ABMIL", "transmil": "TransMIL", "abmilx": "ABMILX"}
SAMPLERS = {"random": {}, "multi-scale": {"scales": ("1", "0.6")}, "attention": {}, "all": {}}
FIXED = {"alpha 0": {"alpha": 0.0, "learn_alpha": False}, "alpha 1": {"alpha": 1.0, "learn_alpha": False}}
BASE = "two-stage slam-ags abmilx"
FIGURES = ("slide AUC", "cell AUC", "attention AUC", "attention on normal cells", "minutes", "GB")
HEAD = ("", "slide AUC", "difference", "cell AUC", "difference", "cell AUC of attention", "attention on normal cells",
        "minutes", "GB")


class Job(NamedTuple):
    """All arms of one division of one set."""

    name: str
    seed: int
    data: Path
    out: Path
    arms: Sequence[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", default="cric,malaria")
    parser.add_argument("--arms", default=",".join(arms()))
    parser.add_argument("--out", type=Path, default=Path("runs/endtoend"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    names, chosen = options.sets.split(","), options.arms.split(",")
    for name in names:
        cut(name, options.data, options.out)
    jobs = [Job(name, seed, options.data, options.out, chosen) for seed in range(options.seeds) for name in names]
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        for job in pool.imap_unordered(work, jobs):
            print(f"done: {job.name} seed {job.seed}", flush=True)
    figures = {name: [found(options.out / name / f"seed-{seed}", chosen) for seed in range(options.seeds)] for name in names}
    text = "\n\n".join(table(name, rows) for name, rows in figures.items())
    print(text)
    if options.docs:
        real.write_between_marks(options.docs, text, "endtoend")
    if options.json:
        options.json.write_text(json.dumps({"figures": figures, "ratios": {}}, indent=1))


def arms() -> Iterator[str]:
    """Their names: how it is trained, from what, which slide model."""
    yield "two-stage untrained abmilx"
    yield from (f"two-stage slam-ags {aggregator}" for aggregator in AGGREGATORS)
    for aggregator in AGGREGATORS:
        yield from (f"end-to-end {sampler} {aggregator}" for sampler in SAMPLERS)
    yield from (f"end-to-end random abmilx {fixed}" for fixed in FIXED)
    yield "end-to-end random abmilx from slam-ags"


def cut(name: str, data: Path, out: Path) -> Path:
    """The cells of a set, as `real.py` cuts them."""
    spec = real.SETS[name]
    images = spec["images"] and data / spec["images"]
    return ms.tile(data / name / "slides.csv", out / name / "tile", cells=data / spec["cells"], images=images,
                   config=ms.TileConfig(**spec["settings"]["tile"])).directory


def work(job: Job) -> Job:
    """Every arm that has no figures yet."""
    torch.set_num_threads(1)
    home, store = job.out / job.name / f"seed-{job.seed}", job.out / job.name / "tile"
    home.mkdir(parents=True, exist_ok=True)
    slides = ms.split(ms.read_slides(job.data / job.name / "slides.csv"), ms.SplitConfig(seed=job.seed))
    for arm in job.arms:
        file = home / f"{arm}.json"
        if not file.exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
            started = time.monotonic()
            encoder, model = (two_stages if arm.startswith("two-stage") else end_to_end)(arm, job, home, slides)
            minutes, memory = (time.monotonic() - started) / 60, peak_memory(torch.device("cpu")) / 1e9
            file.write_text(json.dumps({**judged(job, store, slides, encoder, model), "minutes": minutes, "GB": memory}))
    return job


def two_stages(arm: str, job: Job, home: Path, slides: pd.DataFrame) -> tuple[Path, Path]:
    """Encoder and slide model of an arm in two stages; pretraining is part of the first arm's minutes."""
    _, start, aggregator = arm.split()
    store, encoder = job.out / job.name / "tile", pretrained(start, job, home, slides)
    ms.encode(store, encoder, home / f"features-{start}")
    config = ms.TrainConfig(aggregators=(aggregator,), epochs=40, patience=10, seed=job.seed)
    return encoder, ms.train(home / f"features-{start}", slides, home / "models" / arm, config).directory


def pretrained(start: str, job: Job, home: Path, slides: pd.DataFrame) -> Path:
    """The SLAM-AGS encoder of `real.py`'s settings, or an untrained one of the same shape."""
    epochs = real.SETS[job.name]["settings"]["pretrain"]["epochs"] if start == "slam-ags" else 0
    config = ms.PretrainConfig(encoder_options=ENCODER, size=SIZE, epochs=epochs, seed=job.seed)
    return ms.pretrain(job.out / job.name / "tile", slides, home / start, config).directory


def end_to_end(arm: str, job: Job, home: Path, slides: pd.DataFrame) -> tuple[Path, Path]:
    """Encoder and slide model of an arm that trains both at once."""
    _, sampler, aggregator, *more = arm.split(maxsplit=3)
    init = pretrained("slam-ags", job, home, slides) if more and more[0].startswith("from") else None
    epochs = EPOCHS[job.name]
    config = ms.EndToEndConfig(
        aggregator=aggregator, options=FIXED.get(" ".join(more), {}), sampler=sampler, budget=BUDGET[job.name],
        encoder_options=ENCODER, size=SIZE, epochs=epochs, patience=epochs, seed=job.seed, **SAMPLERS[sampler])
    done = ms.endtoend(job.out / job.name / "tile", slides, home / "models" / arm, config, init=init).directory
    return done / "encoder", done / "model"


def judged(job: Job, directory: Path, slides: pd.DataFrame, encoder: Path, model: Path) -> dict[str, float]:
    """What the model says of the test slides and of their cells, beside the truth."""
    store, network, scorer = CellStore(directory), ms.load_encoder(encoder), load_model(model)
    config = json.loads((encoder / "manifest.json").read_text())["config"]
    looks = windows(config.get("scales", ["1"]), config.get("windows", "middle"))
    settings = real.SETS[job.name]["settings"]["evaluate"]
    truth = read_truth(job.data / real.SETS[job.name]["truth"], "", settings["truth_column"],
                       settings.get("truth_normal", "0")).rows
    own = slides[(slides["split"] == "test") & slides["slide"].isin(store.slides)]
    task, rows = scorer.questions.tasks[0], []
    for slide, label in zip(own["slide"], own[task.name], strict=True):
        attention, evidence, logit = scored(store, slide, network, scorer, looks)
        cells = store.table(slide).select(["cell", "x", "y"]).to_pandas()
        witness = match_truth(truth[truth["slide"] == slide], cells).witness == 1
        normal = float(attention[~witness].sum() / attention.sum())
        both = label == 1 and 0 < witness.sum() < len(witness)
        rows.append({"label": label, "logit": logit, "attention on normal cells": normal if label == 1 else np.nan,
                     "cell AUC": roc_auc_score(witness, evidence) if both else np.nan,
                     "attention AUC": roc_auc_score(witness, attention) if both else np.nan,
                     "normal cells": 1 - witness.mean() if label == 1 else np.nan})
    frame = pd.DataFrame(rows)
    means = frame.drop(columns=["label", "logit"]).mean().to_dict()
    return {"slide AUC": float(roc_auc_score(frame["label"], frame["logit"])), **means}


@torch.inference_mode()
def scored(store: CellStore, slide: str, network: torch.nn.Module, scorer: object, looks: tuple) -> tuple:
    """Attention and evidence of each cell of a slide, over the windows in which it is looked at, and the slide's logit."""
    count = store.count(slide)
    numbers = np.arange(count * len(looks))
    side = int(np.ceil(network.size * 1.125))
    features = torch.from_numpy(encode_cells(network, decode_windows(store, slide, numbers, looks, side)))
    found, alone = scorer.aggregator.with_cells_alone(Bags(features, torch.tensor([0, len(features)])))
    task = scorer.questions.tasks[0]
    attention = task.attention(found.attention.float()).view(len(looks), count).sum(0).numpy()
    evidence = task.suspicion(alone.float()).view(len(looks), count).amax(0).numpy()
    return attention, evidence, float(task.suspicion(found.logits.float())[0])


def found(home: Path, chosen: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures of one division: arm → figure → value."""
    return {arm: json.loads((home / f"{arm}.json").read_text()) for arm in chosen}


def table(name: str, rows: Sequence[dict[str, dict[str, float]]]) -> str:
    """Means over seeds with their intervals, and paired differences to the two stages of the recipe."""
    column = {arm: {figure: np.array([row[arm][figure] for row in rows]) for figure in FIGURES} for arm in rows[0]}
    share = np.mean([row[BASE]["normal cells"] for row in rows if BASE in row])
    lines = [f"### {real.SETS[name]['title']}", "",
             f"{len(rows)} seeds, {EPOCHS[name]} epochs end to end, budget {BUDGET[name]} cells. Mean over seeds (95 % "
             "interval of the mean, Student's t); differences are paired by seed, to two stages of SLAM-AGS and ABMILX. "
             f"Of the cells of positive test slides {share:.0%} are normal.", "",
             "| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    for arm, figures in column.items():
        gaps = {each: "" if arm == BASE or BASE not in column else
                real.interval(figures[each] - column[BASE][each], sign="+") for each in ("slide AUC", "cell AUC")}
        lines.append(f"| {arm} | {real.interval(figures['slide AUC'], most=1.0)} | {gaps['slide AUC']} "
                     f"| {real.interval(figures['cell AUC'], most=1.0)} | {gaps['cell AUC']} "
                     f"| {real.interval(figures['attention AUC'], most=1.0)} "
                     f"| {figures['attention on normal cells'].mean():.2f} "
                     f"| {figures['minutes'].mean():.1f} | {figures['GB'].mean():.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
