"""Prediction: the probability of every slide, and for each of its cells the attention and the evidence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from scipy.special import expit
from torch import Tensor

from milscope.aggregators import Aggregator
from milscope.configs import PredictConfig
from milscope.progress import progress
from milscope.slides import read_slides
from milscope.store import (
    Bags,
    Manifest,
    Stage,
    cells_alone,
    feature_slides,
    fingerprint,
    read_cells,
    read_features,
    read_manifest,
    write_text,
)
from milscope.train import load_model
from milscope.types import refuse

CHUNK = 8192
"""Cells scored alone at a time."""
CELL_SCHEMA = pa.schema([
    ("slide", pa.string()), ("cell", pa.string()), *((name, pa.float64()) for name in ("x", "y", "width", "height")),
    ("attention", pa.float32()), ("evidence", pa.float32()),
])


class Predicted(NamedTuple):
    """The scores' directory, how many slides were scored, and how many of them were called positive."""

    directory: Path
    slides: int
    positives: int


def predict(
    features: Path | str, model: Path | str, out: Path | str,
    slides: Path | str | pd.DataFrame | None = None, config: PredictConfig | None = None,
) -> Predicted:
    """Scores slides and their cells with a trained model.

    Args:
        features: A `features` artifact of the encoder that the model was trained with.
        model: A `model` artifact (`train`).
        out: Directory of the scores: slides.csv, and cells.parquet with the cells in the order of their features.
        slides: The slide table; its slides are scored, and patient, split and label are copied into slides.csv, where
            otherwise the label and split are empty and every slide is its own patient. None: all slides with features.
        config: Settings; the defaults of `PredictConfig` if None.

    Raises:
        InputError: If the features are another encoder's, the threshold is no probability, or no slide can be scored.
    """
    config = config or PredictConfig()
    if not 0 <= config.threshold <= 1:
        raise refuse("threshold", "a probability, from 0 to 1", config.threshold, "Correct it.")
    origin, trained = read_manifest(Path(features), "features"), read_manifest(Path(model), "model")
    aggregator, record = load_model(model)
    _check_encoder(origin, record)
    table, missing = _table(Path(features), slides, record["task"])
    inputs = {"features": origin.fingerprint, "model": trained.fingerprint, "slides": fingerprint(table.to_dict("list"))}
    with Stage(Path(out), "scores", config, inputs, trained.patients) as stage:
        if not stage.done:
            scores, odd = _score(Path(features), aggregator, table, stage.work / "cells.parquet")
            _write_slides(table, scores, config.threshold, stage.work / "slides.csv")
            stage.summary.update(task=record["task"], threshold=config.threshold, aggregator=record["aggregator"],
                                 **_summary(scores, config.threshold, missing, odd))
    found = stage.manifest.summary
    return Predicted(Path(out), found["slides"], found["positives"])


@torch.inference_mode()
def cell_evidence(aggregator: Aggregator, features: Float[Tensor, "cell feature"]) -> Float[Tensor, " cell"]:
    """The evidence of each cell: the logit of the positive class minus that of the negative, were it alone on a slide.

    It is comparable between slides and between aggregators, which attention is not. Memory is bounded: cells are
    scored a few thousand at a time.
    """
    parts = [aggregator(cells_alone(rows)).logits for rows in features.split(CHUNK)]
    return torch.cat([logits[:, 1] - logits[:, 0] for logits in parts])


def _check_encoder(origin: Manifest, record: dict[str, Any]) -> None:
    if origin.inputs.get("encoder", "") != record["encoder"]:
        raise refuse("features", f"of encoder {record['encoder']}, with which the model was trained",
                     f"features of encoder {origin.inputs.get('encoder', '')}",
                     "Encode the cells with the model's encoder, or train a model on these features.")


def _table(features: Path, slides: Path | str | pd.DataFrame | None, task: str) -> tuple[pd.DataFrame, list[str]]:
    """slide, patient, split and label ("", "0" or "1") of the slides to score, and the names of those without features."""
    available = feature_slides(features)
    if slides is None:
        frame = pd.DataFrame({"slide": available, "patient": available, "split": "", "label": ""}, dtype=str)
    else:
        given = read_slides(slides)
        frame = given[["slide", "patient", "split"]].copy()
        values = given[task] if task in given else pd.Series(np.nan, index=given.index)
        frame["label"] = values.map({0.0: "0", 1.0: "1"}).fillna("").astype(str)
    has = frame["slide"].isin(available)
    missing = frame.loc[~has, "slide"].tolist()
    if not has.any():
        raise refuse("slides", "slides that have features", f"none of {len(frame)} in {features}",
                     "Run `milscope encode` on their cells.")
    return frame[has].reset_index(drop=True), missing


def _score(
    features: Path, aggregator: Aggregator, table: pd.DataFrame, cells: Path
) -> tuple[dict[str, float], dict[str, str]]:
    """Writes the cells' scores, one row group per slide; gives the slides' logits, and why a slide has none."""
    logits, odd = {}, {}
    with pq.ParquetWriter(cells, CELL_SCHEMA) as writer, progress("predict", len(table), "slides") as advance:
        for slide, bags in _bags(features, table["slide"].tolist()):
            advance(1)
            if len(bags.features) == 0:
                odd[slide] = "no cells"
            elif not torch.isfinite(bags.features).all():
                odd[slide] = "features that are not finite"
            else:
                logits[slide], frame = _score_slide(aggregator, bags, read_cells(features, slide))
                frame.insert(0, "slide", slide)
                writer.write_table(pa.Table.from_pandas(frame, CELL_SCHEMA, preserve_index=False))
    if not logits:
        raise refuse("features", "of at least one slide with cells and finite features", f"none ({next(iter(odd.values()))})",
                     "Encode the slides again.")
    return logits, odd


def _bags(features: Path, slides: list[str]) -> Iterator[tuple[str, Bags]]:
    for slide in slides:
        yield slide, read_features(features, [slide])


@torch.inference_mode()
def _score_slide(aggregator: Aggregator, bags: Bags, cells: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    found = aggregator(bags)
    logit = (found.logits[0, 1].double() - found.logits[0, 0].double()).item()
    evidence = cell_evidence(aggregator, bags.features)
    return logit, cells.assign(attention=found.attention[:, 1].numpy(), evidence=evidence.numpy())


def _write_slides(table: pd.DataFrame, scores: dict[str, float], threshold: float, path: Path) -> None:
    frame = table[table["slide"].isin(scores)].copy()
    logits = frame["slide"].map(scores).to_numpy(dtype=float)
    frame["probability"] = expit(logits)
    frame["logit"] = logits
    frame["called"] = (frame["probability"] >= threshold).astype(int)
    write_text(path, frame.to_csv(index=False))


def _summary(scores: dict[str, float], threshold: float, missing: list[str], odd: dict[str, str]) -> dict[str, Any]:
    positives = int((expit(np.array(list(scores.values()))) >= threshold).sum())
    reasons = dict.fromkeys(missing, "no features") | odd
    return {
        "slides": len(scores), "positives": positives, "skipped": list(reasons),
        "warnings": [f"slide {slide} was not scored: {reason}" for slide, reason in reasons.items()],
    }
