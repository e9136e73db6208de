"""Prediction: what the model says of every slide and patient, and for each cell the attention and the evidence."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from milscope.configs import PredictConfig
from milscope.devices import choose_precision
from milscope.models import Model, check_encoder, load_model
from milscope.operating import Band
from milscope.predict._scorer import CPU, scorer_of
from milscope.predict._slides import Work, score_slides
from milscope.predict._tables import write_slides
from milscope.slides import read_slides
from milscope.store import Stage, feature_slides, fingerprint, open_features, read_manifest
from milscope.tasks import Questions, Task
from milscope.training import outside_warnings
from milscope.types import refuse

ROUNDING = 1e-12
"""Share of a logit that is lost when a probability is turned into it."""


class Predicted(NamedTuple):
    """The scores' directory, how many slides were scored, and how many of them were called positive."""

    directory: Path
    slides: int
    positives: int


def predict(
    features: Path | str, model: Path | str, out: Path | str,
    slides: Path | str | pd.DataFrame | None = None, config: PredictConfig | None = None,
) -> Predicted:
    """Scores slides, patients and cells with a trained model.

    Args:
        features: A `features` artifact of the encoder that the model was trained with.
        model: A `model` artifact (`train`).
        out: Directory of the scores: slides.csv and patients.csv of the main task, tasks/<task>.csv of each, and
            cells.parquet with the cells in the order of their features.
        slides: The slide table; its slides are scored, and patient, split and labels are copied, where otherwise labels
            and split are empty and every slide is its own patient. None: all slides with features.
        config: Settings; the defaults of `PredictConfig` if None.

    Raises:
        InputError: If the features are another encoder's, the threshold is no probability, or no slide can be scored.
    """
    config = config or PredictConfig()
    _check(config)
    origin, trained = open_features(Path(features)), read_manifest(Path(model), "model")
    loaded = load_model(model)
    check_encoder(origin, loaded.record)
    table, missing = _table(Path(features), slides, loaded.questions)
    scales = table.pop("mpp").tolist()
    inputs = {"features": origin.fingerprint, "model": trained.fingerprint, "slides": fingerprint(table.to_dict("list"))}
    if any(map(math.isfinite, scales)):
        inputs["mpp"] = fingerprint(scales)
    with Stage(Path(out), "scores", config, inputs, trained.patients) as stage:
        if not stage.done:
            bands = {task.name: _band(task, loaded, config.threshold) for task in loaded.questions.tasks}
            scorer = scorer_of(loaded, choose_precision(config.precision, CPU), gradient=config.gradient)
            work = Work(Path(features), Path(model), trained.fingerprint, stage.work, scorer.precision, scorer.gradient)
            logits, odd = score_slides(dict(zip(table["slide"], scales, strict=True)), work, scorer, config)
            told = write_slides(table, logits, loaded.questions, bands, stage.work)
            stage.summary.update(task=loaded.record["task"], threshold=_threshold(loaded, config),
                                 tasks=[task.describe() for task in loaded.questions.tasks],
                                 aggregator=loaded.record["aggregator"],
                                 **_summary(told, missing, odd, outside_warnings(origin)))
    found = stage.manifest.summary
    return Predicted(Path(out), found["slides"], found["positives"])


def _check(config: PredictConfig) -> None:
    for name, rule, good in (
        ("threshold", "a probability, from 0 to 1", config.threshold is None or 0 <= config.threshold <= 1),
        ("workers", "0 or more", config.workers >= 0),
        ("limit", "above 0 seconds, or 0 for none", 0 <= config.limit < math.inf),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")


def _band(task: Task, model: Model, threshold: float | None) -> Band:
    """Where decisions change, on the logit: as asked for, else as frozen in the model, else at a probability of one half."""
    if threshold is not None:
        edge = float(logit(threshold))
        edge -= ROUNDING * max(1.0, abs(edge))
        return Band(edge, edge)
    return model.operating[task.name].band if task.name in model.operating else Band(0.0, 0.0)


def _threshold(model: Model, config: PredictConfig) -> float:
    """The probability from which slides are called positive for the main task."""
    band = _band(model.questions.tasks[0], model, None)
    return float(expit(band.lower)) if config.threshold is None else config.threshold


def _table(features: Path, slides: Path | str | pd.DataFrame | None, questions: Questions) -> tuple[pd.DataFrame, list[str]]:
    """slide, patient, split, mpp and the tasks' columns of the slides to score; the names of those without features."""
    available = feature_slides(features)
    columns = list(dict.fromkeys(name for task in questions.tasks for name in task.columns))
    if slides is None:
        frame = pd.DataFrame({"slide": available, "patient": available, "split": ""}, dtype=str).assign(mpp=np.nan)
    else:
        given = read_slides(slides)
        frame = given[["slide", "patient", "split", "mpp", *(name for name in columns if name in given)]].copy()
    frame = frame.assign(**{name: np.nan if task.kind == "binary" else "" for task in questions.tasks
                            for name in task.columns if name not in frame})
    has = frame["slide"].isin(available)
    missing = frame.loc[~has, "slide"].tolist()
    if not has.any():
        raise refuse("slides", "slides that have features", f"none of {len(frame)} in {features}",
                     "Run `milscope encode` on their cells.")
    return frame[has].reset_index(drop=True), missing


def _summary(told: pd.DataFrame, missing: list[str], odd: dict[str, str], warnings: list[str]) -> dict[str, Any]:
    reasons = dict.fromkeys(missing, "no features") | odd
    return {
        "slides": len(told), "positives": int(told["called"].sum()), "skipped": list(reasons),
        "review": int((told["decision"] == "review").sum()),
        "warnings": [*warnings, *(f"slide {slide} was not scored: {reason}" for slide, reason in reasons.items())],
    }
