"""Cells of a store ranked by what learns from slide labels, written as `predict` writes its scores."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from scipy.special import logit, softmax

from milscope.configs import SeekConfig
from milscope.operating import Band
from milscope.predict import write_slides
from milscope.ranking import LEARNED, ON_FEATURES, ON_PIXELS, Learned, Seen
from milscope.seek._seen import Cohort, read_cohort, read_pixels
from milscope.seek._tops import Tops, by_tops
from milscope.seek._trust import Trust, trust
from milscope.store import CellStore, Stage, fingerprint, open_features, temporary_name
from milscope.tasks import Binary, Questions
from milscope.types import refuse

PLACES = ("x", "y", "width", "height")
DOUBT = 0.05
"""Slides that chance would tell apart as well as this often are not told apart."""


class Sought(NamedTuple):
    """The scores' directory, how many slides were scored and called positive, and how slides to learn from were told apart.

    `trust` says what speaks for the order of the cells.
    """

    directory: Path
    slides: int
    positives: int
    validation_auc: float
    trust: str
    warnings: list[str]


def seek(cells: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: SeekConfig | None = None, *,
         features: Path | str | None = None, learned: Mapping[str, Learned] | None = None) -> Sought:
    """Scores cells and slides by rankings that learn from slide labels; no slide model is needed, and no label of a cell.

    Training and validation slides with a label are learned from; all slides of the table that have cells are scored. The
    scores of each cell are in a column of the ranking's name; `evidence` is the first ranking, `attention` the cell's share of
    its slide by that. Slides are told apart by their highest cells. Rankings that are finished are kept when it is interrupted.

    Args:
        cells: A `cells` artifact (`tile`).
        slides: The slide table, with split and labels.
        out: Directory of the scores, as `predict` writes them.
        config: Settings; the defaults of `SeekConfig` if None.
        features: A `features` artifact of these cells, for rankings that look at features.
        learned: Rankings of your own, on pixels, by the names that the settings ask for.

    Raises:
        InputError: If a ranking is unknown or lacks its features, there are not two slides of each class to learn from, or the
            decoded cells would not fit.
    """
    config = _checked(config or SeekConfig(), features, learned or {})
    store = CellStore(cells)
    origin = open_features(Path(features)) if features is not None else None
    cohort = read_cohort(store, slides, Path(features) if features is not None else None, config.task)
    table, known = cohort.table, ~np.isnan(cohort.label)
    told = table[["slide", "patient", "split", cohort.task]].to_dict("list")
    inputs = {"cells": store.manifest.fingerprint, "slides": fingerprint([told, sorted(cohort.left_out.items())])}
    inputs |= {"features": origin.fingerprint} if origin else {}
    patients = {*table.loc[known, "patient"], *(origin.patients if origin else ())}
    with Stage(Path(out), "scores", config, inputs, patients) as stage:
        if not stage.done:
            scores = _rank_all(store, cohort, config, learned or {}, stage.work)
            found = trust(scores, cohort.slide, cohort.label)
            tops = _write(store, cohort, scores, config, stage.work)
            stage.summary.update(_summary(stage.work, cohort, (tops, found), config))
    summary = stage.manifest.summary
    return Sought(Path(out), summary["slides"], summary["positives"], summary["validation_auc"], summary.get("trust", ""),
                  summary["warnings"])


def _checked(config: SeekConfig, features: Path | str | None, learned: Mapping[str, Learned]) -> SeekConfig:
    unknown = [name for name in config.rankings if name not in {**LEARNED, **learned}]
    if unknown or not config.rankings or len(set(config.rankings)) < len(config.rankings):
        raise refuse("rankings", "some of " + ", ".join(LEARNED) + ", each once", ",".join(config.rankings) or "none",
                     "Choose one or more.")
    blind = [name for name in config.rankings if name in ON_FEATURES and name not in learned]
    if blind and features is None:
        raise refuse("features", f"given for {', '.join(blind)}", "none", "Run `milscope encode`, and give `--features`.")
    for name, rule, good in (("size", "at least 8", config.size >= 8), ("cache", "at least 0", config.cache >= 0),
                             ("threshold", "a probability between 0 and 1", 0 < config.threshold < 1)):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")
    return config


def _rank_all(store: CellStore, cohort: Cohort, config: SeekConfig, learned: Mapping[str, Learned],
              work: Path) -> dict[str, Float[np.ndarray, " cell"]]:
    """The scores of all cells by each ranking; each is kept as soon as it is there."""
    kept = work / "kept"
    kept.mkdir(exist_ok=True)
    todo = [name for name in config.rankings if not (kept / f"{name}.npy").exists()]
    if todo:
        looks = any(name in {**ON_PIXELS, **learned} for name in todo)
        none = np.zeros((len(cohort.slide), 0, 0, 3), np.uint8)
        pixels = read_pixels(store, cohort, config, kept / "pixels.npy") if looks else none
        seen = Seen(pixels, cohort.features, cohort.slide, cohort.label, config.seed)
        for name in todo:
            _keep(kept / f"{name}.npy", {**LEARNED, **learned}[name](seen))
    return {name: np.load(kept / f"{name}.npy") for name in config.rankings}


def _keep(path: Path, scores: Float[np.ndarray, " cell"]) -> None:
    with temporary_name(path).open("wb") as file:
        np.save(file, scores.astype(np.float64))
    temporary_name(path).replace(path)


def _write(store: CellStore, cohort: Cohort, scores: Mapping[str, Float[np.ndarray, " cell"]], config: SeekConfig,
           work: Path) -> Tops:
    """Writes what `predict` writes: slides, patients, the task, and the cells."""
    evidence = scores[config.rankings[0]]
    parts = np.split(evidence, cohort.starts[1:-1])
    tops = by_tops(parts, cohort.label, cohort.table["patient"].tolist(), config.seed)
    normal = evidence[(cohort.label == 0)[cohort.slide]]
    _write_cells(store, cohort, {**scores, "attention": (evidence - normal.mean()) / max(float(normal.std()), 1e-12),
                                 "evidence": evidence}, work / "cells.parquet")
    edge = float(logit(config.threshold))
    logits = {slide: torch.tensor([0.0, float(each)], dtype=torch.float64)
              for slide, each in zip(cohort.table["slide"], tops.logits, strict=True)}
    write_slides(cohort.table, logits, Questions((Binary(cohort.task),)), {cohort.task: Band(edge, edge)}, work)
    shutil.rmtree(work / "kept")
    return tops


def _write_cells(store: CellStore, cohort: Cohort, scores: Mapping[str, Float[np.ndarray, " cell"]], path: Path) -> None:
    """One row group per slide; the score called attention becomes shares of the slide."""
    names = ["attention", "evidence", *(name for name in scores if name not in ("attention", "evidence"))]
    schema = pa.schema([("slide", pa.string()), ("cell", pa.string()), *((name, pa.float64()) for name in PLACES),
                        *((name, pa.float32()) for name in names)])
    with pq.ParquetWriter(path, schema) as writer:
        for slide, start, stop in zip(cohort.table["slide"], cohort.starts, cohort.starts[1:], strict=False):
            own = {name: scores[name][start:stop] for name in names}
            own["attention"] = softmax(own["attention"])
            given = store.table(slide)
            columns: dict[str, Any] = {"slide": [slide] * (stop - start), "cell": given["cell"].to_pylist(),
                                       **{name: given[name].combine_chunks() for name in PLACES}, **own}
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _summary(work: Path, cohort: Cohort, judged: tuple[Tops, Trust], config: SeekConfig) -> dict[str, Any]:
    tops, found = judged
    slides = pd.read_csv(work / "slides.csv", usecols=["called"])
    warnings = [f"slide {slide} was not scored: {reason}" for slide, reason in cohort.left_out.items()]
    if tops.chance > DOUBT:
        warnings.append(f"the highest cells by {config.rankings[0]} do not tell the slides to learn from apart (AUC "
                        f"{tops.auc:.2f}, reached by chance alone in {tops.chance:.0%} of such sets): do not trust their order")
    warnings += found.warnings()
    return {
        "task": cohort.task, "tasks": [Binary(cohort.task).describe()], "threshold": config.threshold,
        "rankings": list(config.rankings), "learned": int((~np.isnan(cohort.label)).sum()), "tops": tops.weights,
        "validation_auc": tops.auc, "trust": found.told(config.rankings[0]), "borne_out": found.borne,
        "agreement": found.agreement, "slides": len(slides), "positives": int(slides["called"].sum()), "review": 0,
        "skipped": list(cohort.left_out), "warnings": warnings,
    }
