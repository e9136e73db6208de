"""What is told of slides and patients: the tables of a `scores` artifact."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor

from milscope.operating import Band
from milscope.store import write_text
from milscope.tasks import Graded, Questions, Survival, Task


def write_slides(table: pd.DataFrame, scored: Mapping[str, Tensor], questions: Questions, bands: Mapping[str, Band],
                 work: Path) -> pd.DataFrame:
    """Writes slides.csv, patients.csv and tasks/<task>.csv; gives the first."""
    table = table[table["slide"].isin(scored)].reset_index(drop=True)
    logits = torch.stack([scored[slide] for slide in table["slide"]])
    (work / "tasks").mkdir(exist_ok=True)
    frames = []
    for task, own in zip(questions.tasks, questions.logits(logits), strict=True):
        suspicion = _with_suspicion(task, table, own, bands[task.name])
        frames.append(suspicion)
        write_text(work / "tasks" / f"{task.name}.csv", _told(task, table, own, suspicion).to_csv(index=False))
    columns = ["slide", "patient", "split", "label", "probability", "logit", "called"]
    write_text(work / "slides.csv", frames[0][columns].to_csv(index=False))
    write_text(work / "patients.csv", _patients(frames[0], bands[questions.tasks[0].name]).to_csv(index=False))
    return frames[0]


def _with_suspicion(task: Task, table: pd.DataFrame, logits: Float[Tensor, "slide logit"], band: Band) -> pd.DataFrame:
    """slide, patient, split, label ("", "0" or "1"), probability, logit, called and decision."""
    scores = task.suspicion(logits.double()).numpy()
    known = task.suspicious(task.targets(table)).numpy()
    frame = table[["slide", "patient", "split"]].copy()
    frame["label"] = [{0.0: "0", 1.0: "1"}.get(float(value), "") for value in known]
    return frame.assign(probability=expit(scores), logit=scores, called=(scores >= band.lower).astype(int),
                        decision=band.decide(scores))


def _told(task: Task, table: pd.DataFrame, logits: Float[Tensor, "slide logit"], suspicion: pd.DataFrame) -> pd.DataFrame:
    """All that is known and said about a task."""
    frame, targets = table[["slide", "patient", "split"]], task.targets(table)
    if isinstance(task, Graded):
        names = [task.classes[int(value)] if value == value else "" for value in targets[:, 0].tolist()]
        frame = frame.assign(label=names)
    elif isinstance(task, Survival):
        frame = frame.assign(time=targets[:, 0].numpy(), event=targets[:, 1].numpy())
    return pd.concat([frame, task.told(logits), suspicion[["probability", "logit", "called", "decision"]]], axis=1)


def _patients(slides: pd.DataFrame, band: Band) -> pd.DataFrame:
    """One row a patient: the highest of its slides decides; positive if any of them is known to be."""
    groups = slides.assign(label=pd.to_numeric(slides["label"], errors="coerce")).groupby("patient", sort=True)
    frame = groups.agg(split=("split", "first"), slides=("slide", "size"), label=("label", "max"),
                       probability=("probability", "max"), logit=("logit", "max")).reset_index()
    frame["label"] = frame["label"].map({0.0: "0", 1.0: "1"}).fillna("")
    return frame.assign(called=(frame["logit"] >= band.lower).astype(int), decision=band.decide(frame["logit"].to_numpy()))
