"""Everything a run's directory has to say, read once; what a run does not hold is empty, never an error."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pandas as pd
import pyarrow as pa

from milscope.store import Manifest, fingerprint, read_manifest
from milscope.types import refuse

KINDS = {
    "tile": "cells", "check": "audit", "pretrain": "encoder", "endtoend": "endtoend", "encode": "features", "train": "model",
    "predict-teacher": "scores", "evaluate-teacher": "metrics", "distill": "model",
    "seek": "scores", "predict": "scores", "retrieve": "ranked", "evaluate": "metrics",
}
TEACHER = ("predict-teacher", "evaluate-teacher")
NUMBERS = ("label", "probability", "called", "cells", "skipped", "width", "height", "mpp")
TEXTS = ("slide", "patient", "split")


class Gathered(NamedTuple):
    """A run, as the page needs it.

    Attributes:
        run: Its directory.
        task: The question that was asked of every slide; "" if the run does not say.
        manifests: Stage → manifest, of the stages that are there and that the scores came from.
        slides: One row per slide in order of suspicion: slide, patient, split, label, probability, called, cells,
            skipped, width, height (slide pixels), mpp (microns per pixel), and the numbers of `evaluate`'s table.
        failures: slide, cell, reason of what could not be read.
        metrics: As `evaluate` wrote them.
        curves: The task's curves.
        pretraining: The encoder's log, one row per epoch.
        training: The slide models' log; of `endtoend` that of both together.
        teaching: That of the teacher, where there is one.
        candidates: The slide models that were tried.
        audit: What `check` found, as it wrote it.
        record: model.json of the model that the scores came from.
        taught: The metrics of its teacher, where there is one.
        fingerprints: Of everything above.
    """

    run: Path
    task: str
    manifests: dict[str, Manifest]
    slides: pd.DataFrame
    failures: pd.DataFrame
    metrics: dict[str, Any]
    curves: dict[str, Any]
    pretraining: pd.DataFrame
    training: pd.DataFrame
    teaching: pd.DataFrame
    candidates: pd.DataFrame
    audit: dict[str, Any]
    record: dict[str, Any]
    taught: dict[str, Any]
    fingerprints: dict[str, str]

    @property
    def scores(self) -> Path:
        """Where the scores lie."""
        return self.run / _scoring(self.manifests)

    @property
    def learned(self) -> Path:
        """Where the model lies that the scores came from; there may be none."""
        return self.run / _learned(self.manifests)

    @property
    def scored(self) -> Manifest | None:
        """The manifest of the scores, if there are any."""
        return self.manifests.get(self.scores.name)

    def slide_metrics(self) -> dict[str, dict[str, float]]:
        """Metric → {value, low, high} over test slides; empty if not evaluated."""
        return of_task(self.metrics.get("slides"), self.task)

    def cell_metrics(self) -> dict[str, dict[str, float]]:
        """Metric → {value, low, high} over cells of test slides; empty without truth."""
        return of_task(self.metrics.get("cells"), self.task)


def gather(run: Path) -> Gathered:
    """Reads a run's small files; pixels are left where they are.

    Raises:
        InputError: If `run` holds neither a slide table nor a finished stage, or an artifact is damaged.
    """
    manifests = {stage: read_manifest(run / stage, kind) for stage, kind in KINDS.items()
                 if (run / stage / "manifest.json").exists()}
    if not manifests and not (run / "slides.csv").exists():
        raise refuse("run", "the directory of a run", f"neither slides.csv nor a finished stage in {run}",
                     "Give the folder that `milscope run` wrote.")
    manifests = {stage: manifest for stage, manifest in manifests.items() if stage not in _left(manifests)}
    task, learned = _task(run, manifests), run / _learned(manifests)
    fingerprints = {stage: manifest.fingerprint for stage, manifest in manifests.items()}
    if (run / "slides.csv").exists():
        fingerprints["slides"] = fingerprint((run / "slides.csv").read_text(encoding="utf-8"))
    return Gathered(
        run, task, manifests,
        slides=_slides(run, _scoring(manifests), task),
        failures=table(run / "tile" / "failures.csv"),
        metrics=_json(run / "evaluate" / "metrics.json"),
        curves=of_task(_json(run / "evaluate" / "curves.json"), task),
        pretraining=table(run / "pretrain" / "log.csv") if "pretrain" in manifests else pd.DataFrame(),
        training=table(learned / "log.csv"),
        teaching=table(run / "train" / "log.csv") if {"train", "distill"} <= set(manifests) else pd.DataFrame(),
        candidates=table(learned / "candidates.csv"),
        audit=_json(run / "check" / "audit.json"),
        record=_json(learned / "model.json"),
        taught=_json(run / "evaluate-teacher" / "metrics.json") if "evaluate-teacher" in manifests else {},
        fingerprints=fingerprints,
    )


def _learned(manifests: Mapping[str, Manifest]) -> str:
    """Where the model lies that the scores came from."""
    return "endtoend/model" if "endtoend" in manifests else "distill" if "distill" in manifests else "train"


def _scoring(manifests: Mapping[str, Manifest]) -> str:
    """The stage that scored the slides."""
    return "seek" if "seek" in manifests else "predict"


def _left(manifests: Mapping[str, Manifest]) -> set[str]:
    """Of stages that another recipe left in the same folder those that the scores did not come from."""
    if "seek" in manifests and "predict" in manifests:
        last = manifests.get("retrieve") or manifests.get("evaluate")
        if last is not None and last.inputs.get("scores") == manifests["predict"].fingerprint:
            return {"seek", *_left({stage: each for stage, each in manifests.items() if stage != "seek"})}
    if "seek" in manifests:
        encoded = "features" in manifests["seek"].inputs
        return {"endtoend", "train", "distill", *TEACHER, "predict", *(() if encoded else ("pretrain", "encode"))}
    scored = manifests["predict"].inputs.get("model") if "predict" in manifests else None
    teacher, left = manifests.get("train"), set[str]()
    if "distill" in manifests:
        given = manifests["distill"].inputs.get("teacher")
        if teacher is not None and scored == teacher.fingerprint:
            left = {"distill", *TEACHER}
        elif teacher is not None and given != teacher.fingerprint:
            left = {"train", *TEACHER}
    if "endtoend" not in manifests:
        return left
    if scored is not None and any(stage in manifests and stage not in left and scored == manifests[stage].fingerprint
                                  for stage in ("train", "distill")):
        return {*left, "endtoend"}
    encoder, init = manifests.get("pretrain"), manifests["endtoend"].inputs.get("init")
    left = {"train", "distill", *TEACHER}
    return left if encoder is not None and encoder.fingerprint == init else {*left, "pretrain"}


def of_task(node: Any, task: str) -> dict[str, Any]:  # noqa: ANN401
    """The part of a nested result that belongs to the task; the whole if it is not nested by task."""
    node = node if isinstance(node, dict) else {}
    part = node.get(task, node)
    return part if isinstance(part, dict) else {}


def curves_of(run: Path, task: str) -> dict[str, Any]:
    """The curves of one task, as `evaluate` wrote them; empty if there are none."""
    found = _json(run / "evaluate" / "curves.json").get(task)
    return found if isinstance(found, dict) else {}


def table(path: Path) -> pd.DataFrame:
    """A CSV whose names stay text (a slide called `NA` or `007` keeps its name); empty if there is none."""
    if not path.exists() or not path.read_text(encoding="utf-8").strip():
        return pd.DataFrame()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    texts = {*TEXTS, "cell", "reason", "file", "aggregator"}
    return frame.assign(**{name: _numbers(frame[name]) for name in frame if name not in texts})


def cells(run: Path, slide: str, most: int, task: str = "") -> pd.DataFrame:
    """The slide's highest-ranked cells with their pixels: rank, cell, score, x, y, width, height, mpp, image.

    Args:
        run: The run's directory.
        slide: Its name.
        most: How many cells.
        task: By which task, "" for the main one.
    """
    path = run / "retrieve" / "tasks" / task / f"{slide}.arrow" if task else run / "retrieve" / f"{slide}.arrow"
    if not path.exists():
        return pd.DataFrame()
    with pa.memory_map(str(path)) as source:
        frame = pa.ipc.open_file(source).read_all().slice(0, most).to_pandas()
    scales = _scales(run / "tile" / f"{slide}.arrow")
    return frame if "mpp" in frame or not len(scales) else frame.assign(mpp=frame["cell"].map(scales))


def known(value: object) -> TypeGuard[float]:
    """Whether a number is there: neither missing nor NaN nor infinite."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _scales(path: Path) -> pd.Series:
    if not path.exists():
        return pd.Series(dtype=float)
    with pa.memory_map(str(path)) as source:
        frame = pa.ipc.open_file(source).read_all().select(["cell", "mpp"]).to_pandas()
    return frame.drop_duplicates("cell").set_index("cell")["mpp"].astype(float)


def _slides(run: Path, scores: str, task: str) -> pd.DataFrame:
    listed = table(run / "slides.csv")
    if task in listed:
        listed = listed.rename(columns={task: "label"})
    frame = pd.DataFrame({"slide": []}, dtype=str)
    for part in (table(run / scores / "slides.csv"), table(run / "tile" / "slides.csv"), listed,
                 table(run / "evaluate" / "test_slides.csv")):
        if "slide" not in part:
            continue
        new = part.drop_duplicates("slide")
        frame = frame.merge(new[["slide", *(name for name in new if name not in frame)]], on="slide", how="outer")
    for name in NUMBERS:
        frame[name] = _numbers(frame[name]) if name in frame else np.nan
    for name in TEXTS:
        frame[name] = frame[name].fillna("").astype(str) if name in frame else ""
    frame["patient"] = frame["patient"].where(frame["patient"] != "", frame["slide"])
    return frame.sort_values(["probability", "slide"], ascending=[False, True], ignore_index=True)


def _task(run: Path, manifests: dict[str, Manifest]) -> str:
    for stage in ("seek", "predict", "distill", "train", "endtoend", "evaluate", "pretrain"):
        if stage in manifests:
            said = manifests[stage].summary.get("task") or manifests[stage].config.get("task")
            if said:
                return str(said)
    columns = table(run / "slides.csv").columns
    left = [name for name in columns if name not in {*TEXTS, *NUMBERS, "file"}]
    return str(left[0]) if len(left) == 1 else ""


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise refuse(str(path), "a JSON object", repr(error), "Run `milscope evaluate` again.") from error


def _numbers(column: pd.Series) -> pd.Series:
    words = column.astype(str).str.lower().map({"true": "1", "false": "0"})
    return pd.to_numeric(words.fillna(column.astype(str)), errors="coerce").astype(float)
