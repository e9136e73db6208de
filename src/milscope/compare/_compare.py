"""The stage: every model on the same folds of the same patients, repeated, and judged side by side."""

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.aggregators import aggregator_class
from milscope.cohorts import labelled_slides
from milscope.compare._judge import Judged, judge
from milscope.compare._repeat import Repetition, read_repetition, repeat
from milscope.compare._words import BASELINE, NAMES, cells, columns, markdown, sentences, table, warnings
from milscope.configs import CompareConfig, TrainConfig
from milscope.metrics import Bootstrap
from milscope.report import ComparedModel, ComparisonPage, comparison_page
from milscope.slides import read_slides
from milscope.split import folds
from milscope.store import Manifest, Stage, feature_slides, fingerprint, open_features, write_text
from milscope.tasks import parse_tasks
from milscope.types import refuse

KIND = "comparison"
PAGE = "index.html"


class Compared(NamedTuple):
    """Where the comparison is, its page, and what speaks against trusting it."""

    directory: Path
    page: Path
    models: int
    warnings: list[str]


def compare(features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: CompareConfig | None = None,
            ) -> Compared:
    """Trains every model on the same divisions of the patients and tells which of them can be told apart.

    In each repetition the patients are divided into folds anew, for all models alike; each model is trained once per fold
    and scores the patients that it has not seen. The first model is compared with every other one. What is finished is
    kept: an interrupted comparison goes on, and one with more models trains those only.

    Args:
        features: A `features` artifact, or a folder of features as other tools write them.
        slides: The slide table with labels; its split is looked at only with `folds` 0.
        out: Directory of the comparison: table.csv, table.md, index.html, runs/<model>/<repetition>/slides.csv.
        config: Settings; the defaults of `CompareConfig` if None.

    Raises:
        InputError: If a model is unknown or named twice, the encoder was trained on judged patients (and not
            `transductive`), there are too few draws for so many models, or as `folds` and `train`.
    """
    config, features, out = config or CompareConfig(), Path(features), Path(out)
    models = _models(config)
    origin = open_features(features)
    plans = _plans(read_slides(slides), feature_slides(features), config)
    judged = {patient for tables in plans for each in tables for patient in each.loc[each["split"] == "test", "patient"]}
    seen = _seen(judged, origin, config)
    inputs = {"features": origin.fingerprint, "slides": fingerprint([[each.to_dict("list") for each in p] for p in plans])}
    with Stage(out, KIND, config, inputs, [*origin.patients, *plans[0][0]["patient"]]) as stage:
        if not stage.done:
            kept = out.parent / f".{out.name}.runs"
            for number, tables in enumerate(plans):
                for model in models:
                    run = kept / model / str(number)
                    if not run.exists() and (out / "runs" / model / str(number)).exists():
                        shutil.copytree(out / "runs" / model / str(number), run)
                    repeat(features, tables, run, _training(config, model, number))
            found = judge(_read(kept, models, config.seeds), Bootstrap(config.draws, config.confidence, config.seed))
            stage.summary.update(task=found.task["name"], models=models, slides=found.slides, patients=found.patients,
                                 warnings=warnings(found, config, seen))
            _write(found, config, stage)
            shutil.rmtree(stage.work / "runs", ignore_errors=True)
            for model in models:
                shutil.copytree(kept / model, stage.work / "runs" / model)
    shutil.rmtree(out.parent / f".{out.name}.runs", ignore_errors=True)
    summary = stage.manifest.summary
    return Compared(out, out / PAGE, len(models), summary["warnings"])


def _models(config: CompareConfig) -> list[str]:
    """The models in their order, the baseline among them.

    Raises:
        InputError: If a setting of the comparison is impossible.
    """
    if not config.models:
        raise refuse("models", "at least one name", "none", "Name some, such as `abmil,clam-sb`.")
    for name in (*config.models, *config.options):
        aggregator_class(name)
        if config.models.count(name) > 1:
            raise refuse("models", "named once each", f"`{name}` twice", "A model is not compared with itself: keep one.")
    models = [*config.models, *([] if BASELINE in config.models else [BASELINE])]
    for name in config.options:
        if name not in models:
            raise refuse("options", "of models that are compared", f"some of `{name}`", "Name it in `models`, or leave it out.")
    for name, least in (("seeds", 1), ("folds", 0)):
        if getattr(config, name) < least:
            raise refuse(name, f"at least {least}", getattr(config, name), "Correct it.")
    if not 0 < config.confidence < 1:
        raise refuse("confidence", "between 0 and 1", config.confidence, "0.95 is common.")
    if len(models) < 2:
        raise refuse("models", f"others than the baseline `{BASELINE}`", f"`{BASELINE}` alone", "Name at least one more.")
    needed = round(2 * (len(models) - 1) / (1 - config.confidence)) + 1
    if config.draws < needed:
        raise refuse("draws", f"at least {needed:,}, or no difference among {len(models)} models could ever be shown",
                     config.draws, "Draw more often.")
    return models


def _plans(frame: pd.DataFrame, available: Sequence[str], config: CompareConfig) -> list[list[pd.DataFrame]]:
    """For each repetition the slides that have features and labels, once for each fold."""
    frame, columns = labelled_slides(frame, available, config.task)
    if config.folds:
        return [folds(frame, config.folds, seed=config.seed + number, task=",".join(columns), site=config.site,
                      validation=config.validation) for number in range(config.seeds)]
    parse_tasks(config.task, frame)[0].fitted(frame[frame["split"] == "test"], "test")
    return [[frame]] * config.seeds


def _seen(judged: set[str], origin: Manifest, config: CompareConfig) -> list[str]:
    """The judged patients that the encoder was trained on."""
    seen = sorted(judged & set(origin.patients))
    if seen and not config.transductive:
        raise refuse("features", "of an encoder that was not trained on the patients it is judged on",
                     f"{len(seen)} of {len(judged)} that it was ({', '.join(seen[:3])}{', …' if len(seen) > 3 else ''})",
                     "Compare on the encoder's own split with `folds` 0, take another encoder, or judge them "
                     "nevertheless with `transductive`, which the page will say.")
    return seen


def _training(config: CompareConfig, model: str, number: int) -> TrainConfig:
    """How one model is trained in one repetition."""
    shared = {field.name for field in fields(TrainConfig)} & {field.name for field in fields(CompareConfig)}
    values = {name: getattr(config, name) for name in shared - {"seeds", "confidence"}}
    options = {model: config.options[model]} if model in config.options else {}
    return replace(TrainConfig(**values), aggregators=(model,), options=options, seed=config.seed + number)


def _read(kept: Path, models: Sequence[str], seeds: int) -> dict[str, list[Repetition]]:
    return {model: [read_repetition(kept / model / str(number)) for number in range(seeds)] for model in models}


def _write(found: Judged, config: CompareConfig, stage: Stage) -> None:
    """table.csv, table.md and the page."""
    told, beware = sentences(found, config), stage.summary["warnings"]
    write_text(stage.work / "table.csv", table(found).to_csv(index=False))
    write_text(stage.work / "table.md", markdown(found, told, beware))
    settings = [(field.name, str(getattr(config, field.name)), field.metadata["meaning"]) for field in fields(config)]
    models = [ComparedModel(row.model, row.figures[found.measure], row.repeated,
                            row.against.difference if row.against else None, found.apart(row), cells(row, found))
              for row in found.rows]
    page = ComparisonPage(found.task["name"], NAMES[found.measure], told, beware, columns(found), models, settings)
    write_text(stage.work / PAGE, comparison_page(page))
