"""Figures of every task of the scores, by its kind."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.curves import slide_curves
from milscope.evaluate._about import About, check_probabilities, test_rows, yes
from milscope.evaluate._slides import highest_slides, patients_of, plain, review_figures, slide_scores
from milscope.evaluate._words import few_of_a_class, n
from milscope.metrics import ClassScores, SurvivalScores, class_metrics, confusion, slide_metrics, survival_metrics
from milscope.store import Manifest
from milscope.types import refuse

SURVIVAL = ("cox", "hazards", "survival")


class Task(NamedTuple):
    """One task: its rows that are judged, `label` the number of the class (of survival tasks: whether the event was seen).

    Attributes:
        name: Of the task.
        kind: binary, multiclass, ordinal, or one of `SURVIVAL`.
        classes: Their names, the normal one first; none for survival tasks.
        rows: The judged rows.
        every: The same, and the rows without a label of the same patients: what was said of them counts for the patient.
        warnings: What was left out.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    rows: pd.DataFrame
    every: pd.DataFrame
    warnings: list[str]


def read_tasks(scores: Path, origin: Manifest, *, transductive: bool) -> list[Task]:
    """The tasks of the scores with the rows that are judged; none where the scores have no table of tasks."""
    kinds = _kinds(origin.summary.get("tasks") or [])
    found = {path.stem: path for path in sorted((scores / "tasks").glob("*.csv"))}
    names = [*(name for name in kinds if name in found), *(name for name in found if name not in kinds)]
    return [_read(found[name], kinds.get(name, ""), transductive=transductive) for name in names]


def task_figures(task: Task, about: About) -> dict[str, Any]:
    """kind, counts and figures of a task; figures are empty where nothing can be judged."""
    rows = task.rows
    entry: dict[str, Any] = {"kind": task.kind, "n": len(rows), "patients": patients_of(rows)}
    labels = rows["label"].to_numpy()
    if task.classes:
        entry["classes"] = {name: int((labels == place).sum()) for place, name in enumerate(task.classes)}
    else:
        entry["events"] = int(labels.sum())
    if rows.empty:
        return entry | {"figures": {}}
    entry["figures"] = _figures(task, rows, about)
    if len(task.classes) > 2:
        entry["suspicion"] = plain(slide_metrics(slide_scores(rows, about), about.bootstrap))
    if task.classes and (review := review_figures(rows, about)):
        entry["review"] = review
    if task.every["patient"].duplicated().any():
        by = "risk" if not task.classes else "logit"
        grouped, mixed = highest_slides(task.every, by, nominal=task.kind == "multiclass")
        entry["patients_figures"] = _figures(task, grouped, about) if len(grouped) else {}
        if mixed:
            entry["patients_mixed"] = mixed
    return entry


def task_curves(task: Task, about: About) -> dict[str, Any]:
    """What a page draws of a task of classes: the confusion of them, and of yes/no tasks the curves."""
    if not task.classes or task.rows.empty:
        return {}
    given = _class_scores(task, task.rows)
    counts = confusion(given, np.ones((1, len(task.rows))))[0].astype(int).tolist()
    curves = slide_curves(slide_scores(task.rows, about), about.bootstrap) if len(task.classes) == 2 else {}
    return {**curves, "classes": {"names": list(task.classes), "counts": counts}}


def task_warnings(task: Task, entry: Mapping[str, Any], *, main: bool) -> Iterator[str]:
    """What speaks against trusting a task's figures; of the main yes/no task only what its slides do not tell already."""
    about = f"Task {task.name}: "
    yield from (about + said for said in task.warnings)
    if task.rows.empty:
        yield about + "no test slide has a label."
    elif not (main and task.kind == "binary"):
        labels = task.rows["label"].to_numpy()
        names = task.classes or ("without the event", "with the event")
        counts = {name: patients_of(task.rows, labels == place) for place, name in enumerate(names)}
        yield from (about + said for said in few_of_a_class(counts))
    if entry.get("patients_mixed"):
        yield about + (f"{n(entry['patients_mixed'], 'patient has', 'patients have')} slides of different classes and "
                       f"{'is' if entry['patients_mixed'] == 1 else 'are'} left out of the figures of patients.")


def _kinds(described: Any) -> dict[str, str]:  # noqa: ANN401 - as JSON had it
    """Name → kind from the descriptions of tasks: a list of {name, kind, …}, or name → {kind, …}."""
    if isinstance(described, Mapping):
        described = [{"name": name, **about} for name, about in described.items()]
    return {str(about["name"]): str(about["kind"]) for about in described}


def _read(path: Path, kind: str, *, transductive: bool) -> Task:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    classes = tuple(name.removeprefix("p:") for name in table if name.startswith("p:"))
    numbers = [name for name in table if name in ("probability", "logit", "time", "event", "risk") or name[:2] in ("p:", "S:")]
    table[numbers] = table[numbers].apply(pd.to_numeric, errors="coerce").astype(float)
    check_probabilities(table)
    if not classes:
        if "risk" not in table:
            raise refuse(path.name, "of columns `p:<class>`, or `risk`, `time` and `event`", ", ".join(table),
                         "Run `predict` again.")
        table["label"] = table["event"]
        known = table["time"].notna() & table["event"].notna()
        unknown: list[str] = []
    else:
        places = {name: float(place) for place, name in enumerate(classes)}
        unknown = sorted(set(table["label"]) - {"", *classes})
        table = table.assign(said=table["label"], label=table["label"].map(places), called=yes(table["called"]),
                             predicted=_predicted(table, classes))
        known = table["label"].notna()
    test = test_rows(table, transductive=transductive)
    warnings = []
    if unknown and (left := int((test & table["said"].isin(unknown)).sum())):
        warnings.append(f"{n(left, 'test slide is', 'test slides are')} of a class that the model does not know "
                        f"({', '.join(unknown[:3])}) and left out.")
    rows = table[test & known].reset_index(drop=True)
    every = table.assign(label=table["label"].where(known))[test & table["patient"].isin(rows["patient"])]
    return Task(path.stem, kind or _guess(classes), classes, rows, every.reset_index(drop=True), warnings)


def _predicted(table: pd.DataFrame, classes: tuple[str, ...]) -> pd.Series:
    """The number of the predicted class."""
    found = table["predicted"].map({name: place for place, name in enumerate(classes)})
    if found.isna().any():
        raise refuse("predicted", "one of " + ", ".join(classes), f"`{table.loc[found.isna(), 'predicted'].iloc[0]}`",
                     "Run `predict` again.")
    return found.astype(int)


def _guess(classes: tuple[str, ...]) -> str:
    return "survival" if not classes else "binary" if len(classes) == 2 else "multiclass"


def _figures(task: Task, rows: pd.DataFrame, about: About) -> dict[str, dict[str, float]]:
    if not task.classes:
        return plain(survival_metrics(_survival_scores(rows), about.bootstrap))
    if len(task.classes) == 2:
        return plain(slide_metrics(slide_scores(rows, about), about.bootstrap))
    return plain(class_metrics(_class_scores(task, rows), about.bootstrap))


def _class_scores(task: Task, rows: pd.DataFrame) -> ClassScores:
    return ClassScores(rows["label"].to_numpy(dtype=int), _columns(rows, [f"p:{name}" for name in task.classes]),
                       rows["predicted"].to_numpy(dtype=int), rows["patient"].tolist(), task.kind == "ordinal")


def _survival_scores(rows: pd.DataFrame) -> SurvivalScores:
    told = sorted((float(name[2:]), name) for name in rows if name.startswith("S:"))
    grid = np.array([time for time, _ in told]) if told else None
    survival = _columns(rows, [name for _, name in told]) if told else None
    return SurvivalScores(rows["time"].to_numpy(dtype=float), rows["label"].to_numpy() == 1,
                          rows["risk"].to_numpy(dtype=float), rows["patient"].tolist(), grid, survival)


def _columns(rows: pd.DataFrame, names: list[str]) -> Float[np.ndarray, "slide column"]:
    values = rows[names].to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise refuse("scores", "finite", json.dumps(names), "Train the model again with a lower learning rate.")
    return values
