"""One division of a set: its cells in memory, slide models fitted on it, and what they say of its test slides and cells."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from milscope.aggregators import Aggregator, restored
from milscope.configs import DistillConfig, TrainConfig
from milscope.fitting import Computer, Fit, Lesson, Slides
from milscope.objectives import AsymmetricDistillation, Guide, SoftLabels
from milscope.store import Bags, Scale, cells_alone, measure_scale
from milscope.tasks import Questions, parse_tasks

SENSITIVITY = 0.9
"""Of the operating point: the highest threshold at which so many positive validation slides are called."""
LOOKED = 30
"""Positive test slides of a task whose cells are judged."""
SLOW = {"transmil", "mambamil"}
"""Fitted for half as many epochs, for their time."""
OPTIONS: Mapping[str, dict[str, Any]] = {
    "mecds": {"width": 32}, "mean": {}, "abmil": {"hidden": 128, "attention": 64},
    "abmil-gated": {"hidden": 128, "attention": 64}, "clam-sb": {"hidden": 128, "attention": 64},
    "transmil": {"hidden": 64, "heads": 4, "landmarks": 8}, "mambamil": {"hidden": 32, "layers": 1, "state": 4},
}
SINGLE = {"ABMIL": "abmil-gated", "CLAM": "clam-sb", "TransMIL": "transmil", "MambaMIL": "mambamil"}
MULTI = {"MECDS": "mecds", "MECDS without routing": "mecds", "MTDP": "mean", "shared attention": "abmil"}
REGIMES = {"balanced": "sampling", "all": "none"}
SOFTENED = {"AKD": AsymmetricDistillation(DistillConfig.softening, DistillConfig.focus_positive, DistillConfig.focus_negative,
                                          DistillConfig.margin), "KL": SoftLabels(DistillConfig.softening)}
GROUPS = {
    "mecds": [f"{model}, {how}" for model in ("MECDS", "MECDS without routing") for how in ("balanced", "all", "AKD", "KL")],
    "others": [f"{model}, {regime}" for model in ("MTDP", "shared attention", "ABMIL", "CLAM") for regime in REGIMES],
    "extension": [f"extension {number}" for number in range(3)],
    "transmil": [f"TransMIL, {regime}" for regime in REGIMES],
    "mambamil": [f"MambaMIL, {regime}" for regime in REGIMES],
}
"""Arms that are done one after the other, in the order of their worth."""
Figures = dict[str, Any]


class Ground(NamedTuple):
    """Cells, standardised by those of training and validation, and what is known of them."""

    bags: Bags
    scale: Scale
    table: pd.DataFrame
    truth: Mapping[str, np.ndarray]
    """Of each task, in the order of the packed cells: 1 where a cell shows it."""
    tasks: Sequence[str]

    @classmethod
    def of(cls, bags: Bags, table: pd.DataFrame, truth: Mapping[str, np.ndarray]) -> "Ground":
        """The ground of raw features; the table has their slides in their order."""
        learns = torch.tensor((table["split"] != "test").tolist())
        scale = measure_scale([bags.features[learns[bags.owner]]])
        features = ((bags.features - scale.mean) / scale.deviation).float()
        return cls(Bags(features, bags.offsets), scale, table, truth, list(truth))

    def of_split(self, name: str) -> torch.Tensor:
        """The numbers of its slides."""
        return torch.from_numpy(np.flatnonzero(self.table["split"] == name))

    def questions(self, tasks: Sequence[str]) -> Questions:
        """Those tasks, asked together."""
        return Questions(tuple(parse_tasks(",".join(tasks), self.table)))


class Arms:
    """All arms of one division; what is done is found on disk.

    Args:
        ground: The division's slides.
        home: Where figures and models are kept.
        config: Epochs, learning rate, batch and seed of every fit.
        deadline: When no further arm is begun, seconds of `time.monotonic`.
    """

    def __init__(self, ground: Ground, home: Path, config: TrainConfig, deadline: float) -> None:
        self.ground, self.home, self.config, self.deadline = ground, home, config, deadline
        self.models: dict[str, Aggregator] = {}
        (home / "models").mkdir(parents=True, exist_ok=True)

    def run(self, arms: Sequence[str]) -> Iterator[str]:
        """Every arm that has no figures yet; one that fails is written down and does not end the others."""
        for arm in arms:
            file = self.home / f"{arm}.json"
            if time.monotonic() > self.deadline or (file.exists() and "error" not in json.loads(file.read_text())):
                continue
            started = time.monotonic()
            try:
                figures = self._figures(arm)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other arms go on and the table says it
                figures = {"error": f"{type(error).__name__}: {error}"}
            file.write_text(json.dumps({**figures, "minutes": (time.monotonic() - started) / 60}))
            yield arm

    def _figures(self, arm: str) -> Figures:
        if arm.startswith("extension"):
            return self._extension(int(arm.split()[1]))
        model, how = arm.split(", ")
        if model in MULTI:
            network = self.multi(arm)
            return {"tasks": self.judged(network, self.ground.tasks, cells=True)}
        tasks: Figures = {}
        for task in self.ground.tasks:
            network = self.fitted([task], SINGLE[model], balance=REGIMES[how])
            tasks.update(self.judged(network, [task], cells=False))
        return {"tasks": tasks}

    def multi(self, arm: str) -> Aggregator:
        """The model of an arm that answers all tasks; students find or make their teacher."""
        model, how = arm.split(", ")
        own = {"routing": False} if "without" in model else {}
        tasks = self.ground.tasks
        if how in REGIMES:
            return self.kept(arm, lambda: self.fitted(tasks, MULTI[model], balance=REGIMES[how], **own))
        teacher = self.multi(f"{model}, balanced")
        guide = Guide(SOFTENED[how], DistillConfig.distillation_weight, self.answers(teacher))
        return self.kept(arm, lambda: self.fitted(tasks, "mecds", balance="none", guide=guide, **own))

    def kept(self, name: str, make: Callable[[], Aggregator]) -> Aggregator:
        """A model of this division, made once."""
        file = self.home / "models" / f"{name}.safetensors"
        if name not in self.models and file.exists():
            described = json.loads(file.with_suffix(".json").read_text())
            self.models[name] = restored(described["name"], described["options"], load_file(file))
        if name not in self.models:
            model = self.models[name] = make()
            kind = MULTI.get(name.split(", ")[0], "mecds")
            file.with_suffix(".json").write_text(json.dumps({"name": kind, "options": model.options}))
            save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
        return self.models[name]

    def fitted(self, tasks: Sequence[str], name: str, *, balance: str, guide: Guide | None = None,
               start: Aggregator | None = None, **options: Any) -> Aggregator:
        """A slide model of those tasks, of its best epoch by the mean validation AUC.

        With `start` only the last task is learned.
        """
        ground, epochs = self.ground, self.config.epochs // (2 if name in SLOW else 1)
        config = replace(self.config, task=",".join(tasks), aggregators=(name,), balance=balance, epochs=epochs,
                         patience=min(self.config.patience, epochs), options={name: {**OPTIONS[name], **options}})
        questions = ground.questions(tasks)
        targets = questions.targets(ground.table)
        if start is not None:
            targets[:, :-1] = math.nan
        lesson = Lesson(Slides(ground.bags, targets), ground.of_split("train"), ground.of_split("validation"), questions,
                        ground.scale, guide, start)
        fit = Fit(name, lesson, config)
        while not fit.finished:
            fit.run_epoch()
        fit.model.load_state_dict(fit.best_weights)
        return fit.model.eval()

    def answers(self, model: Aggregator) -> torch.Tensor:
        """The logits of all slides."""
        return Computer.of(self.config).answer(model, self.ground.bags, torch.arange(len(self.ground.table)))

    def judged(self, model: Aggregator, tasks: Sequence[str], *, cells: bool) -> Figures:
        """Figures of each task: on test slides, at the threshold that validation slides set; and, if asked, on their cells."""
        ground, questions = self.ground, self.ground.questions(tasks)
        found: Figures = {}
        for task, logits in zip(questions.tasks, questions.logits(self.answers(model)), strict=True):
            scores, labels = task.suspicion(logits).numpy(), ground.table[task.name].to_numpy()
            held, test = ground.of_split("validation").numpy(), ground.of_split("test").numpy()
            threshold = highest(scores[held][labels[held] == 1])
            called = scores[test] >= threshold
            positive = labels[test] == 1
            found[task.name] = {"AUC": float(roc_auc_score(positive, scores[test])), "positives": int(positive.sum()),
                                "sensitivity": float(called[positive].mean()),
                                "specificity": float(1 - called[~positive].mean())}
        if cells:
            for name, figures in cell_figures(ground, questions, model).items():
                found[name].update(figures)
        return found

    def _extension(self, number: int) -> Figures:
        """Two tasks learned on the balanced set, then the third in both modes: old tasks before and after."""
        new = self.ground.tasks[2 - number]
        old = [task for task in self.ground.tasks if task != new]
        base = self.kept(f"pair without {new}", lambda: self.fitted(old, "mecds", balance="sampling"))
        before, wide = self.judged(base, old, cells=False), self.ground.questions(old).outputs
        figures: Figures = {"new": new, "old": old, "before": before}
        for mode in ("strict", "shared"):
            start = base.extended(self.ground.questions([new]).outputs, mode=mode)
            model = self.fitted([*old, new], "mecds", balance="sampling", start=start)
            after = self.judged(model, [*old, new], cells=False)
            moved = (self.answers(model)[:, :wide] - self.answers(base)).abs().max()
            figures[mode] = {"tasks": after, "moved": float(moved)}
        return figures


def highest(positive: np.ndarray) -> float:
    """The highest threshold at which enough of the positive slides are called."""
    return float(np.sort(positive)[::-1][math.ceil(SENSITIVITY * len(positive)) - 1])


@torch.no_grad()
def cell_figures(ground: Ground, questions: Questions, model: Aggregator) -> dict[str, Figures]:
    """AUC of each task's cells within its positive test slides, mean over slides.

    By what the model says of a cell alone, by its attention and by its routing.
    """
    found: dict[str, Figures] = {}
    test = ground.of_split("test")
    for place, task in enumerate(questions.tasks):
        rows: list[dict[str, float]] = []
        for slide in test[torch.from_numpy(ground.table[task.name].to_numpy()[test.numpy()] == 1)][:LOOKED]:
            begin, end = ground.bags.offsets[slide : slide + 2].tolist()
            witness = ground.truth[task.name][begin:end]
            if not 0 < witness.sum() < len(witness):
                continue
            features = ground.bags.features[begin:end]
            whole = model.aggregate(Bags(features, torch.tensor([0, end - begin])))
            alone = list(questions.logits(model.aggregate(cells_alone(features)).logits))[place]
            row = {"cell AUC": roc_auc_score(witness, task.suspicion(alone).numpy())}
            for name, shares in (("attention AUC", whole.attention), ("routing AUC", whole.routing)):
                if shares is not None:
                    row[name] = roc_auc_score(witness, task.attention(list(questions.logits(shares))[place]).numpy())
            rows.append(row)
        found[task.name] = pd.DataFrame(rows).mean().to_dict()
    return found
