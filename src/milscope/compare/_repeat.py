"""One model, once: trained for each fold, its patients scored, and what that cost."""

import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from milscope.compare._within import GradedScores, RiskScores
from milscope.configs import TrainConfig
from milscope.models import Model, load_model
from milscope.store import Stage, fingerprint, open_features, read_features, read_manifest, write_text
from milscope.tasks import Graded, Questions, Task
from milscope.train import train
from milscope.types import InputError, refuse

KIND = "repetition"


class Cost(NamedTuple):
    """What the trainings of one repetition took.

    Attributes:
        training_seconds: Of each training, from reading the features to the written model; without those gone on with after an
            interruption, of which nobody knows.
        passes: Of each training, until it ended.
        parameters: Of the model.
        prediction_seconds: Of all slides together, one at a time, their features in memory.
        predicted: Number of slides.
    """

    training_seconds: list[float]
    passes: list[int]
    parameters: int
    prediction_seconds: float
    predicted: int


class Repetition(NamedTuple):
    """One model, once.

    Attributes:
        task: Name, kind and classes of the main task.
        scores: Of all test slides, in the order of their names.
        cost: What it took.
        left_out: Test slides that cannot be scored.
    """

    task: dict[str, Any]
    scores: GradedScores | RiskScores
    cost: Cost
    left_out: list[str]


def repeat(features: Path, tables: Sequence[pd.DataFrame], out: Path, config: TrainConfig) -> None:
    """Writes the artifact of one model and one repetition: slides.csv with what was said of each test slide.

    Every fold that is finished is kept if the rest is interrupted.

    Args:
        features: A `features` artifact, or another tool's folder.
        tables: The slide table once for each fold, whose test slides are scored.
        out: Directory of the artifact.
        config: Names one model.

    Raises:
        InputError: As `train`; the line names the model.
    """
    inputs = {"features": open_features(features).fingerprint,
              "slides": fingerprint([table.to_dict("list") for table in tables])}
    try:
        with Stage(out, KIND, config, inputs, tables[0]["patient"]) as stage:
            if not stage.done:
                folds = [_fold(features, table, stage.work / f"fold-{place}", config) for place, table in enumerate(tables)]
                scored = pd.concat([pd.read_csv(stage.work / f"fold-{place}.csv", dtype=str, keep_default_na=False)
                                    for place in range(len(tables))], ignore_index=True)
                stage.summary.update(task=_same(folds, "task"), cost=_total([fold["cost"] for fold in folds])._asdict(),
                                     left_out=sorted({slide for fold in folds for slide in fold["left_out"]}))
                write_text(stage.work / "slides.csv", scored.sort_values("slide").to_csv(index=False))
                for place in range(len(tables)):
                    for kind in ("csv", "json"):
                        (stage.work / f"fold-{place}.{kind}").unlink()
    except InputError as error:
        raise InputError(f"{config.aggregators[0]}: {error}") from error


def read_repetition(directory: Path) -> Repetition:
    """What `repeat` wrote."""
    summary = read_manifest(directory, KIND).summary
    table = pd.read_csv(directory / "slides.csv", dtype={"slide": str, "patient": str, "label": str}, keep_default_na=False)
    patients, folds = table["patient"].tolist(), table["fold"].to_numpy(dtype=int)
    if "risk" in table:
        scores: GradedScores | RiskScores = RiskScores(table["time"].to_numpy(dtype=float), table["event"].to_numpy() == 1,
                                                       table["risk"].to_numpy(dtype=float), patients, folds)
    else:
        names = [name.removeprefix("p:") for name in table if name.startswith("p:")]
        places = {name: place for place, name in enumerate(names)}
        probabilities = table[[f"p:{name}" for name in names]].to_numpy(dtype=float)
        labels = table["label"].map(places).to_numpy(dtype=int)
        scores = GradedScores(labels, probabilities, probabilities.argmax(1), patients, folds)
    return Repetition(summary["task"], scores, Cost(**summary["cost"]), summary["left_out"])


def _fold(features: Path, table: pd.DataFrame, stem: Path, config: TrainConfig) -> dict[str, Any]:
    """Trains, scores, and forgets the model; stem.csv and stem.json stay."""
    record, model = stem.with_suffix(".json"), stem.with_suffix(".model")
    if not record.exists():
        fresh = not model.exists() and not model.with_name(f".{model.name}.partial").exists()
        start = time.perf_counter()
        train(features, table, model, config)
        seconds = time.perf_counter() - start
        loaded, passes = load_model(model), len(pd.read_csv(model / "log.csv"))
        own = table[table["split"] == "test"].reset_index(drop=True)
        task, scored, took, left_out = _score(features, loaded, own)
        write_text(stem.with_suffix(".csv"), scored.assign(fold=int(stem.name.removeprefix("fold-"))).to_csv(index=False))
        parameters = sum(parameter.numel() for parameter in loaded.aggregator.parameters())
        cost = Cost([seconds] if fresh else [], [passes], parameters, took, len(scored))
        write_text(record, json.dumps({"task": task, "cost": cost._asdict(), "left_out": left_out}))
        shutil.rmtree(model)
    return json.loads(record.read_text())


def _score(features: Path, model: Model, table: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame, float, list[str]]:
    """The main task, what is said of the slides that have its label, the seconds that took, and slides left out."""
    task = model.questions.tasks[0]
    targets = task.targets(table)
    known = task.known(targets).numpy()
    table, targets = table[known].reset_index(drop=True), targets[torch.from_numpy(known)]
    logits, seconds, left_out = _logits(model, features, table["slide"].tolist())
    kept = ~table["slide"].isin(left_out).to_numpy()
    own = next(Questions(model.questions.tasks).logits(logits))
    told = _told(task, table[kept].reset_index(drop=True), targets[torch.from_numpy(kept)], own.double())
    return {"name": task.name, "kind": task.kind, "classes": list(getattr(task, "classes", ()))}, told, seconds, left_out


@torch.inference_mode()
def _logits(model: Model, features: Path, slides: Sequence[str]) -> tuple[Float[Tensor, "slide logit"], float, list[str]]:
    """Of each slide alone, in float32, as `predict` has them; the first is looked at twice, and its first look not timed."""
    logits, seconds, left_out = [torch.empty(0, model.questions.outputs)], 0.0, []
    for slide in slides:
        bags = read_features(features, [slide])
        if not len(bags.features) or not torch.isfinite(bags.features).all():
            left_out.append(slide)
            continue
        if len(logits) == 1:
            model.aggregator(bags)
        start = time.perf_counter()
        logits.append(model.aggregator(bags).logits)
        seconds += time.perf_counter() - start
    return torch.cat(logits), seconds, left_out


def _told(task: Task, table: pd.DataFrame, targets: Float[Tensor, "slide column"],
          logits: Float[Tensor, "slide logit"]) -> pd.DataFrame:
    """slide, patient, then label and the classes' probabilities, or time, event and risk."""
    told, frame = task.told(logits), table[["slide", "patient"]]
    if not np.isfinite(told.select_dtypes("number").to_numpy()).all():
        raise refuse("learning_rate", "low enough for finite scores", "scores that are not", "Lower it.")
    if isinstance(task, Graded):
        labels = [task.classes[int(value)] for value in targets[:, 0].tolist()]
        return pd.concat([frame.assign(label=labels), told], axis=1)
    return frame.assign(time=targets[:, 0].numpy(), event=targets[:, 1].numpy(), risk=told["risk"])


def _same(folds: Sequence[dict[str, Any]], name: str) -> Any:  # noqa: ANN401 - as JSON has it
    """What all folds must agree on."""
    if any(fold[name] != folds[0][name] for fold in folds):
        classes = [", ".join(fold[name]["classes"]) for fold in folds]
        raise refuse("task", "of classes that the training patients of every fold have", " and ".join(dict.fromkeys(classes)),
                     "Name the classes, as in `kind:multiclass(normal,other)`, or leave the rare ones out.")
    return folds[0][name]


def _total(costs: Sequence[dict[str, Any]]) -> Cost:
    parts = [Cost(**cost) for cost in costs]
    return Cost([seconds for part in parts for seconds in part.training_seconds],
                [passes for part in parts for passes in part.passes], parts[0].parameters,
                math.fsum(part.prediction_seconds for part in parts), sum(part.predicted for part in parts))
