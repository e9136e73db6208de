"""Prediction: what the model says of every slide and patient, and for each cell the attention and the evidence."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from scipy.special import expit, logit
from torch import Tensor

from milscope.aggregators import Aggregator, Ensemble
from milscope.configs import PredictConfig
from milscope.devices import choose_precision, mixed_precision
from milscope.operating import Band
from milscope.progress import progress
from milscope.slides import read_slides
from milscope.store import (
    Bags,
    Manifest,
    Stage,
    feature_slides,
    fingerprint,
    open_features,
    read_cells,
    read_features,
    read_manifest,
    write_text,
)
from milscope.tasks import Graded, Questions, Survival, Task
from milscope.train import Model, load_model, outside_warnings
from milscope.types import InputError, refuse

CPU = torch.device("cpu")
ROUNDING = 1e-12
"""Share of a logit that is lost when a probability is turned into it."""
PLACES = ("x", "y", "width", "height")


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
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise refuse("threshold", "a probability, from 0 to 1", config.threshold, "Correct it.")
    origin, trained = open_features(Path(features)), read_manifest(Path(model), "model")
    loaded = load_model(model)
    _check_encoder(origin, loaded.record)
    table, missing = _table(Path(features), slides, loaded.questions)
    inputs = {"features": origin.fingerprint, "model": trained.fingerprint, "slides": fingerprint(table.to_dict("list"))}
    with Stage(Path(out), "scores", config, inputs, trained.patients) as stage:
        if not stage.done:
            bands = {task.name: _band(task, loaded, config.threshold) for task in loaded.questions.tasks}
            scorer = _Scorer(loaded, choose_precision(config.precision, CPU), config.gradient)
            logits, odd = _score(Path(features), scorer, table["slide"].tolist(), stage.work / "cells.parquet")
            told = _write_slides(table, logits, loaded.questions, bands, stage.work)
            stage.summary.update(task=loaded.record["task"], threshold=_threshold(loaded, config),
                                 tasks=[task.describe() for task in loaded.questions.tasks],
                                 aggregator=loaded.record["aggregator"],
                                 **_summary(told, missing, odd, outside_warnings(origin)))
    found = stage.manifest.summary
    return Predicted(Path(out), found["slides"], found["positives"])


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


def _check_encoder(origin: Manifest, record: Mapping[str, Any]) -> None:
    if origin.inputs.get("encoder", "") != record["encoder"]:
        raise refuse("features", f"of encoder {record['encoder']}, with which the model was trained",
                     f"features of encoder {origin.inputs.get('encoder', '')}",
                     "Encode the cells with the model's encoder, or train a model on these features.")


def _table(features: Path, slides: Path | str | pd.DataFrame | None, questions: Questions) -> tuple[pd.DataFrame, list[str]]:
    """slide, patient, split and the tasks' columns of the slides to score; the names of those without features."""
    available = feature_slides(features)
    columns = list(dict.fromkeys(name for task in questions.tasks for name in task.columns))
    if slides is None:
        frame = pd.DataFrame({"slide": available, "patient": available, "split": ""}, dtype=str)
    else:
        given = read_slides(slides)
        frame = given[["slide", "patient", "split", *(name for name in columns if name in given)]].copy()
    frame = frame.assign(**{name: np.nan if task.kind == "binary" else "" for task in questions.tasks
                            for name in task.columns if name not in frame})
    has = frame["slide"].isin(available)
    missing = frame.loc[~has, "slide"].tolist()
    if not has.any():
        raise refuse("slides", "slides that have features", f"none of {len(frame)} in {features}",
                     "Run `milscope encode` on their cells.")
    return frame[has].reset_index(drop=True), missing


def _score(features: Path, scorer: "_Scorer", slides: list[str], cells: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Writes the cells' scores, one row group per slide; gives the slides' logits, and why a slide has none."""
    logits: dict[str, Tensor] = {}
    odd: dict[str, str] = {}
    schema = scorer.schema
    with pq.ParquetWriter(cells, schema) as writer, progress("predict", len(slides), "slides") as advance:
        for slide, bags in _bags(features, slides):
            advance(1)
            if isinstance(bags, InputError):
                odd[slide] = str(bags)
            elif len(bags.features) == 0:
                odd[slide] = "no cells"
            elif not (bags.features.sum().isfinite() or torch.isfinite(bags.features).all()):  # the sum is quick
                odd[slide] = "features that are not finite"
            else:
                logits[slide], columns = scorer.score(bags)
                frame = read_cells(features, slide).assign(slide=slide, **columns)
                writer.write_table(pa.Table.from_pandas(frame[schema.names], schema, preserve_index=False))
    if not logits:
        raise refuse("features", "of at least one slide with cells and finite features", f"none ({next(iter(odd.values()))})",
                     "Encode the slides again.")
    return logits, odd


def _bags(features: Path, slides: list[str]) -> Iterator[tuple[str, Bags | InputError]]:
    """Each slide with its features, or why they cannot be read; the next is read while one is scored."""
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(_read, features, slide) for slide in slides[:1]]
        for place, slide in enumerate(slides):
            ready = ahead.pop().result()
            ahead += [reader.submit(_read, features, each) for each in slides[place + 1 : place + 2]]
            yield slide, ready


def _read(features: Path, slide: str) -> Bags | InputError:
    try:
        return read_features(features, [slide])
    except InputError as error:
        return error


class _Scorer(NamedTuple):
    """What a model says of one slide after the other."""

    model: Model
    precision: torch.dtype
    gradient: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns of cells.parquet."""
        scores = [name for place, task in enumerate(self.model.questions.tasks) for name in self._columns(place, task)]
        return pa.schema([("slide", pa.string()), ("cell", pa.string()), *((name, pa.float64()) for name in PLACES),
                          *((name, pa.float32()) for name in scores)])

    def score(self, bags: Bags) -> tuple[Float[Tensor, " logit"], dict[str, Float[np.ndarray, " cell"]]]:
        """The slide's logits, and the columns of its cells."""
        model, questions = self.model.aggregator, self.model.questions
        with torch.inference_mode(), mixed_precision(CPU, self.precision):
            found, alone = model.with_cells_alone(bags)
        columns: dict[str, Float[np.ndarray, " cell"]] = {}
        shares = zip(questions.tasks, questions.logits(found.attention.float()), questions.logits(alone.float()), strict=True)
        for place, (task, attention, logits) in enumerate(shares):
            scores = [task.attention(attention), task.suspicion(logits)]
            scores += [self._gradient(bags, place)] if self.gradient else []
            columns |= {name: score.numpy() for name, score in zip(self._columns(place, task), scores, strict=True)}
        return found.logits[0].float(), columns

    def _columns(self, place: int, task: Task) -> list[str]:
        """Those of the main task have the plain names."""
        names = ["attention", "evidence", *(["gradient"] if self.gradient else [])]
        return names if place == 0 else [f"{name}:{task.name}" for name in names]

    def _gradient(self, bags: Bags, place: int) -> Float[Tensor, " cell"]:
        """The gradient of the slide's suspicion times the cell's standardised features, summed over them."""
        model, questions = self.model.aggregator, self.model.questions
        with torch.enable_grad(), mixed_precision(CPU, self.precision):
            features = bags.features.clone().requires_grad_()
            logits = model(Bags(features, bags.offsets)).logits.float()
            suspicion = questions.tasks[place].suspicion(list(questions.logits(logits))[place])
            slope, = torch.autograd.grad(suspicion.sum(), features)
        one = cast(Aggregator, model.members[0]) if isinstance(model, Ensemble) else model  # members have the same mean
        return (slope * (bags.features - one.mean)).sum(1)


def _write_slides(table: pd.DataFrame, scored: Mapping[str, Tensor], questions: Questions, bands: Mapping[str, Band],
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


def _summary(told: pd.DataFrame, missing: list[str], odd: dict[str, str], warnings: list[str]) -> dict[str, Any]:
    reasons = dict.fromkeys(missing, "no features") | odd
    return {
        "slides": len(told), "positives": int(told["called"].sum()), "skipped": list(reasons),
        "review": int((told["decision"] == "review").sum()),
        "warnings": [*warnings, *(f"slide {slide} was not scored: {reason}" for slide, reason in reasons.items())],
    }
