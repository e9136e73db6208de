"""Extension: a trained model learns a further task; what it said of the others is checked against what it says then."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from milscope.aggregators import Aggregator
from milscope.card import card_of
from milscope.checkpoints import step_seed
from milscope.cohorts import Cohort, check_promise, read_cohort
from milscope.configs import ExtendConfig
from milscope.models import Model, check_encoder, load_model, read_model
from milscope.operating import Band
from milscope.slides import read_slides
from milscope.store import Manifest, Stage, feature_slides, fingerprint, open_features, read_manifest, write_text
from milscope.tasks import Answers, Questions, Task, mean_measure, parse_tasks
from milscope.training import Learned, Start, Training, check_training, slide_logits
from milscope.types import refuse

FIXED = ("aggregators", "options", "dropout", "ensemble", "seeds")
"""Settings that are the old model's own."""


class Extended(NamedTuple):
    """The model's directory, the task that it learned, how it does on its validation slides, and how far old logits moved."""

    directory: Path
    task: str
    validation_auc: float
    moved: float
    """The largest difference of a logit of an old task; 0 in strict mode."""
    warnings: list[str]


@runtime_checkable
class Extensible(Protocol):
    """A model that can take a further task."""

    def extended(self, outputs: int, *, mode: str) -> Aggregator:
        """A model with so many logits more, of which only what is new asks for gradients."""
        ...


def extend(model: Path | str, features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str,
           config: ExtendConfig | None = None) -> Extended:
    """Teaches a model a further task: new are a token and a head and, in each block, a router and an expert.

    Tasks, operating points and temperatures that the model has are kept as they are. When the new one is learned, the model
    is written and read again, and what it says of the old tasks is compared with what it said, on every slide of the table
    that has features: `regression.csv`. In strict mode any difference ends the stage, and nothing is kept.

    Args:
        model: A `model` artifact of `mecds`. Its patients count as seen.
        features: A `features` artifact of the model's encoder, or a folder of features as other tools write them.
        slides: The slide table with labels of the new task and split; of the old tasks labels are only looked at for the
            regression table, where there are any.
        out: Directory of the model: as that of `train`, and regression.csv.
        config: Settings; `task` names the new one. What is said of aggregators, options and dropout is the model's own.

    Raises:
        InputError: If the model cannot be extended, has the task already or is of another encoder, in strict mode an old
            task moved, or `train` refuses.
    """
    config = config or ExtendConfig()
    _check(config)
    origin, before = open_features(Path(features)), read_manifest(Path(model), "model")
    old, frame = load_model(model), read_slides(slides)
    grown = _extensible(old)
    check_encoder(origin, old.record)
    _check_task(config, frame, old.questions)
    available = feature_slides(Path(features))
    cohort = read_cohort(available, frame, config)
    check_promise(cohort, config)
    watched = frame[frame["slide"].isin(available)].reset_index(drop=True)
    inputs = {"features": origin.fingerprint, "model": before.fingerprint,
              "slides": _fingerprint(cohort, watched, old.questions)}
    patients = [*origin.patients, *before.patients, *cohort.used["patient"]]
    with Stage(Path(out), "model", config, inputs, patients) as stage:
        if not stage.done:
            training = Training(Path(features), cohort, replace(config, aggregators=(old.record["aggregator"],)), stage.work,
                                start=Start(_extended(grown, cohort.questions, config), old.questions))
            learned = training.run(origin)
            record = _record(old, learned, before, config)
            training.write(learned, record)
            moved = regression(old, read_model(stage.work), Path(features), watched)
            if config.mode == "strict":
                _check_unmoved(moved)
            write_text(stage.work / "regression.csv", moved.to_csv(index=False))
            stage.summary.update(_summary(learned, record, moved))
            write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
    found = stage.manifest.summary
    task = found["learned"][-1]["tasks"][0]
    return Extended(Path(out), task, found["validation"][task], found["moved"], found["warnings"])


@torch.inference_mode()
def regression(old: Model, new: Model, features: Path, table: pd.DataFrame) -> pd.DataFrame:
    """How far the tasks of a model moved when it was extended: one row for each.

    Args:
        old: The model before.
        new: After: with further tasks behind.
        features: Where the features are.
        table: The slides to compare on, with labels as far as there are any.
    """
    before, filled = slide_logits(old.aggregator, features, table["slide"].tolist())
    after, _ = slide_logits(new.aggregator, features, table["slide"].tolist())
    table, rows = table[filled].reset_index(drop=True), []
    parts = (old.questions.logits(logits[:, :old.questions.outputs]) for logits in (before, after))
    for task, was, now in zip(old.questions.tasks, *parts, strict=True):
        band = old.operating[task.name].band if task.name in old.operating else Band(0.0, 0.0)
        calls = [band.decide(task.suspicion(logits.double()).numpy()) for logits in (was, now)]
        measures = [_measured(task, logits, table) for logits in (was, now)]
        rows.append({"task": task.name, "slides": len(table), "largest_difference": _moved(was, now),
                     "auc_before": measures[0], "auc_after": measures[1], "calls_changed": int(np.sum(calls[0] != calls[1]))})
    return pd.DataFrame(rows)


def _moved(was: Float[Tensor, "slide logit"], now: Float[Tensor, "slide logit"]) -> float:
    """The largest difference; 0 only if all are the same."""
    return float(torch.where(was == now, 0.0, (was - now).abs().nan_to_num(nan=torch.inf)).max()) if len(was) else 0.0


def _measured(task: Task, logits: Float[Tensor, "slide logit"], table: pd.DataFrame) -> float:
    """The task's measure on the slides with labels; NaN if there are none."""
    if not set(task.columns) <= set(table.columns):
        return float("nan")
    targets = task.targets(table)
    known = task.known(targets)
    return task.measure(Answers(logits[known], targets[known]))


def _extended(model: Extensible, questions: Questions, config: ExtendConfig) -> Aggregator:
    """The model with its new parts, which the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(config.seed, int.from_bytes(config.task.encode(), "big")))
        return model.extended(questions.outputs, mode=config.mode)


def _record(old: Model, learned: Learned, before: Manifest, config: ExtendConfig) -> dict[str, Any]:
    """What model.json says: of the old tasks what it said, of the new one what was found, and which were learned when."""
    was, new = old.record, learned.record
    name = new["task"]
    merged = {key: {**was.get(key, {}), **new[key]} for key in ("operating", "validation", "validation_intervals")}
    first = {"tasks": [task.name for task in old.questions.tasks]}
    *earlier, last = was.get("learned", [first])
    history = [*earlier, {**last, "made": before.created, "model": before.fingerprint}, {"tasks": [name], "mode": config.mode}]
    data = {**was.get("data", {}), **{f"{split} of {name}": counts for split, counts in new["data"].items()}}
    return {**was, **merged, "tasks": [task.describe() for task in (*old.questions.tasks, *learned.questions.tasks)],
            "best_epoch": new["best_epoch"], "validation_loss": new["validation_loss"],
            "validation_auc": mean_measure(list(merged["validation"].values())), "data": data, "learned": history}


def _summary(learned: Learned, record: Mapping[str, Any], moved: pd.DataFrame) -> dict[str, Any]:
    """What the manifest says."""
    changed = [f"{row['calls_changed']} of {row['slides']} slides are called otherwise for task {row['task']} than before"
               for row in moved.to_dict("records") if row["calls_changed"]]
    said = {name: record[name] for name in ("task", "validation_auc", "validation", "validation_intervals", "learned")}
    return {**learned.summary, **said, "moved": float(moved["largest_difference"].max()),
            "warnings": [*learned.summary["warnings"], *changed]}


def _fingerprint(cohort: Cohort, watched: pd.DataFrame, questions: Questions) -> str:
    """Of what is learned from, and of what old tasks are compared on."""
    names = [name for task in questions.tasks for name in task.columns]
    columns = ["slide", *(name for name in dict.fromkeys(names) if name in watched)]
    return fingerprint([cohort.used.to_dict("list"), watched[columns].to_dict("list")])


def _check(config: ExtendConfig) -> None:
    check_training(config)
    usual = {field.name: getattr(ExtendConfig(), field.name) for field in fields(ExtendConfig)}
    for name in FIXED:
        if getattr(config, name) != usual[name]:
            raise refuse(name, "left out, as it is the old model's own", getattr(config, name), "Leave it out.")


def _extensible(old: Model) -> Extensible:
    if not isinstance(old.aggregator, Extensible):
        raise refuse("model", "of `mecds`, which takes further tasks", f"`{old.record['aggregator']}`",
                     "Train one with `--aggregators mecds`, without `--ensemble` and `--seeds`.")
    return old.aggregator


def _check_task(config: ExtendConfig, frame: pd.DataFrame, questions: Questions) -> None:
    if not config.task:
        raise refuse("task", "the new task", "none", "Name its column.")
    tasks = parse_tasks(config.task, frame)
    if len(tasks) > 1:
        raise refuse("task", "one new task", ", ".join(task.name for task in tasks), "Add them one after the other.")
    names = [task.name for task in questions.tasks]
    if tasks[0].name in names:
        raise refuse("task", "one that the model has not learned", f"`{tasks[0].name}`", f"It has: {', '.join(names)}.")


def _check_unmoved(moved: pd.DataFrame) -> None:
    for row in moved[moved["largest_difference"] != 0].to_dict("records"):
        raise refuse("old tasks", "to the last bit what they were, in strict mode",
                     f"`{row['task']}` moved by {row['largest_difference']:.3g}",
                     "Nothing was written. Report it, with the model.")
