"""The verb: figures, curves and warnings of scores."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from milscope.configs import EvaluateConfig, RetrieveConfig
from milscope.curves import slide_curves
from milscope.evaluate._about import About, missing_slides, read_scored, seen_patients, test_slides, unlabelled
from milscope.evaluate._cells import Cells, cell_figures, cell_warnings, measure_cells
from milscope.evaluate._slides import patient_figures, patients_of, plain, review_figures, slide_scores
from milscope.evaluate._tasks import Task, read_tasks, task_curves, task_figures, task_warnings
from milscope.evaluate._truths import Truths, measure_others, read_truths
from milscope.evaluate._words import slide_warnings
from milscope.metrics import slide_metrics
from milscope.store import Manifest, Stage, fingerprint, fingerprint_files, json_values, read_manifest, write_text
from milscope.truth import Truth
from milscope.types import refuse


class Evaluated(NamedTuple):
    """Where the figures are, the slide AUC (NaN if undefined), and what speaks against trusting them."""

    directory: Path
    auc: float
    warnings: list[str]


class _Given(NamedTuple):
    """What is judged: the scores, the slides of the main task, all tasks, the truth of the cells."""

    scores: Path
    test: pd.DataFrame
    tasks: list[Task]
    truths: Truths


def evaluate(
    scores: str | Path,
    out: str | Path,
    config: EvaluateConfig | None = None,
    *,
    ranked: str | Path | None = None,
    truth: str | Path | None = None,
    slides: str | Path | pd.DataFrame | None = None,
) -> Evaluated:
    """Measures slide scores, and with a truth the order of cells, on the test patients; writes metrics and curves.

    The test slides are those of split `test` that have a label; if no slide has a split (a new cohort), all that
    have a label. With `transductive`, and splits but no test split, also all that have a label. Every task of the scores
    is measured on the test slides that have its label.

    Args:
        scores: A `scores` artifact (`predict`).
        out: Directory of the figures: metrics.json, curves.json, test_slides.csv.
        config: Settings; the defaults of `EvaluateConfig` if None.
        ranked: A `ranked` artifact (`retrieve`): its ranking is measured, over all cells. None: by evidence.
        truth: A table of cells and their truth, see `milscope.truth.read_truth`; other tasks than the main one are measured
            by the columns of their names.
        slides: The slide table; test slides in it that have no score are warned of.

    Raises:
        InputError: If there is nothing to measure, a test patient was learned from (and not `transductive`), or the
            truth does not fit the scores.
    """
    config = _checked(config or EvaluateConfig())
    origin = read_manifest(Path(scores), "scores")
    main, rank = str(origin.summary["task"]), _rank(ranked, origin)
    scored = read_scored(Path(scores) / "slides.csv")
    test = test_slides(scored, transductive=config.transductive)
    tasks = read_tasks(Path(scores), origin, transductive=config.transductive)
    judged = {patient for table in (test, *(task.rows for task in tasks)) for patient in table["patient"]}
    seen = seen_patients(judged, origin, transductive=config.transductive)
    missing = missing_slides(slides, main, scored)
    told = read_truths(truth, main, tasks, config)
    inputs = {"scores": origin.fingerprint, "rank": rank, "missing": fingerprint(missing)}
    if truth is not None:
        inputs["truth"] = fingerprint_files([Path(truth)])
    with Stage(Path(out), "metrics", config, inputs) as stage:
        if not stage.done:
            about = About(main, rank, config, origin, judged, seen, missing, unlabelled(scored))
            document = _measure(_Given(Path(scores), test, tasks, told), about, stage.work)
            stage.summary.update(task=main, auc=document["slides"][main]["auc"]["value"], warnings=document["warnings"])
    summary = stage.manifest.summary
    return Evaluated(Path(out), math.nan if summary["auc"] is None else summary["auc"], summary["warnings"])


def _measure(given: _Given, about: About, work: Path) -> dict[str, Any]:
    """Writes metrics.json, curves.json and test_slides.csv; gives the content of the first."""
    test = given.test
    slides = slide_scores(test, about)
    figures, curves = slide_metrics(slides, about.bootstrap), slide_curves(slides, about.bootstrap)
    document: dict[str, Any] = {
        "task": about.task, "slides": {about.task: plain(figures)}, "cells": {}, **_more(given, about),
        **_counts(test, about), "threshold": about.origin.summary.get("threshold"), "rank": about.rank,
        "at": about.levels._asdict(), "bootstrap": about.bootstrap._asdict(), "transductive": about.config.transductive,
    }
    warnings = [*slide_warnings(slides, figures["auc"], about)]
    for task in given.tasks:
        warnings += task_warnings(task, document["tasks"][task.name], main=task.name == about.task)
    drawn = {task.name: task_curves(task, about) for task in given.tasks}
    truth = given.truths.main
    if truth is not None:
        cells = measure_cells(given.scores, test, truth, about.rank)
        test = test.merge(cells.table, on="slide", how="left")
        warnings += cell_warnings(test, truth, cells)
        document["truth"] = _told(truth, cells)
        figures_of_cells, curves_of_cells = cell_figures(test, cells, about)
        document["cells"] |= {about.task: figures_of_cells} if figures_of_cells else {}
        curves |= curves_of_cells
    elif given.truths.others:
        warnings.append(f"The truth has no column of {about.task}: its cells are not measured.")
    drawn[about.task] = drawn.get(about.task, {}) | curves
    for name, own_figures, own_curves, told in measure_others(given.scores, given.tasks, given.truths, about):
        document["cells"] |= {name: own_figures} if own_figures else {}
        drawn[name] |= own_curves
        warnings += told
    document["warnings"] = warnings
    document = json_values(document)
    write_text(work / "metrics.json", json.dumps(document, indent=1, allow_nan=False))
    write_text(work / "curves.json", json.dumps(json_values(drawn), allow_nan=False))
    test.astype({"label": int, "called": int}).to_csv(work / "test_slides.csv", index=False)
    return document


def _told(truth: Truth, cells: Cells) -> dict[str, Any]:
    """What became of the rows of the truth."""
    return {"column": truth.column, "rows": len(truth.rows), "rows_without_value": truth.missing,
            "rows_repeated": truth.repeated, "rows_of_other_slides": cells.elsewhere, "rows_unmatched": cells.unmatched,
            "cells_matched": cells.told, "cells_unmatched": cells.untold}


def _more(given: _Given, about: About) -> dict[str, Any]:
    """The figures of patients, of the review band and of all tasks: each key only where there is something to tell."""
    tasks = {task.name: task_figures(task, about) for task in given.tasks}
    if any(task.name == about.task and len(task.classes) == 2 for task in given.tasks):
        patients = tasks[about.task].get("patients_figures", {})  # the same question, told twice: the same answer
    else:
        patients = patient_figures(given.scores, given.test, about)
    review = review_figures(_decided(given, about), about)
    found = {"patients_figures": patients and {about.task: patients}, "review": review and {about.task: review}, "tasks": tasks}
    return {name: value for name, value in found.items() if value}


def _decided(given: _Given, about: About) -> pd.DataFrame:
    """The judged slides of the main task with their decisions, wherever these are written."""
    own = next((task.rows for task in given.tasks if task.name == about.task), None)
    if "decision" in given.test or own is None or "decision" not in own:
        return given.test
    return given.test.merge(own[["slide", "decision"]], on="slide")


def _counts(test: pd.DataFrame, about: About) -> dict[str, dict[str, int]]:
    positive = test["label"].to_numpy() == 1
    return {
        "patients": {"test": patients_of(test), "positive": patients_of(test, positive),
                     "learned_from": len(about.origin.patients), "seen": len(about.seen)},
        "test": {"slides": len(test), "positive": int(positive.sum()), "negative": int((~positive).sum()),
                 "unlabelled": about.unlabelled, "missing": len(about.missing)},
    }


def _rank(ranked: str | Path | None, origin: Manifest) -> str:
    if ranked is None:
        return RetrieveConfig().rank
    manifest = read_manifest(Path(ranked), "ranked")
    if manifest.inputs.get("scores") != origin.fingerprint:
        raise refuse("ranked", "made from these scores", "cells ranked by other scores", "Run `retrieve` again.")
    if "labels" in manifest.inputs:
        raise refuse("ranked", "ranked without verdicts on cells", f"{ranked}, where judged cells stand as they were judged",
                     "Measure the order before, or leave `--ranked` out.")
    return str(manifest.config["rank"])


def _checked(config: EvaluateConfig) -> EvaluateConfig:
    if config.draws < 1:
        raise refuse("draws", "at least 1", config.draws, "The default is 1000.")
    if not 0 < config.confidence < 1:
        raise refuse("confidence", "between 0 and 1", config.confidence, "The default is 0.95.")
    for name in ("at_specificity", "at_sensitivity"):
        if not 0 < getattr(config, name) <= 1:
            default = getattr(EvaluateConfig(), name)
            raise refuse(name, "above 0 and at most 1", getattr(config, name), f"The default is {default}.")
    return config
