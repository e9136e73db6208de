"""Cross-validation: every slide is scored by a model that has seen neither its patient nor its site."""

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from milscope.cohorts import labelled_slides
from milscope.configs import CrossvalidateConfig, TrainConfig
from milscope.predict import predict
from milscope.slides import read_slides
from milscope.split import folds, read_splits
from milscope.store import Stage, feature_slides, fingerprint, open_features, read_manifest, write_text
from milscope.tasks import settled_tasks
from milscope.train import train
from milscope.types import refuse


class Crossvalidated(NamedTuple):
    """The scores' directory, the number of folds, and of slides scored."""

    directory: Path
    folds: int
    slides: int
    warnings: list[str]


def crossvalidate(
    features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: CrossvalidateConfig | None = None, *,
    splits: Path | str | None = None,
) -> Crossvalidated:
    """Trains once per fold and scores the fold's test patients: `evaluate` and `retrieve` take the result as any scores.

    Each model is trained, chosen and given its threshold without its fold's test patients. Finished folds are kept beside
    the result, so that an interrupted run goes on.

    Args:
        features: A `features` artifact, or a folder of features as other tools write them.
        slides: The slide table with labels; its split is not looked at.
        out: Directory of the scores; each fold's model is in `models/<fold>`, the division in splits.csv.
        config: Settings; the defaults of `CrossvalidateConfig` if None.
        splits: Folds as CLAM (`splits_0.csv`, …) or STAMP (`splits.json`) wrote them, instead of new ones.

    Raises:
        InputError: As `folds`, `read_splits` and `train`.
    """
    config, frame = config or CrossvalidateConfig(), read_slides(slides)
    origin = open_features(Path(features))
    known, columns = labelled_slides(frame, feature_slides(Path(features)), config.task)
    tables = _folds(known, columns, config) if splits is None else _given(splits, frame, known, columns, config)
    training = TrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})
    training = replace(training, task=settled_tasks(config.task, known))
    inputs = {"features": origin.fingerprint, "folds": fingerprint([table.to_dict("list") for table in tables])}
    with Stage(Path(out), "scores", config, inputs, origin.patients) as stage:
        if not stage.done:
            models, scores = stage.work / "models", stage.work / "scores"
            for number, table in enumerate(tables):
                train(features, table, models / str(number), training)
                predict(features, models / str(number), scores / str(number), table[table["split"] == "test"])
            _join([scores / str(number) for number in range(len(tables))], stage.work)
            manifests = [read_manifest(scores / str(number), "scores") for number in range(len(tables))]
            stage.summary.update(_summary([manifest.summary for manifest in manifests], _left_out(frame, known)))
            shutil.rmtree(scores)
            write_text(stage.work / "splits.csv", _division(tables).to_csv(index=False))
    found = stage.manifest.summary
    return Crossvalidated(Path(out), found["folds"], found["slides"], found["warnings"])


def _folds(known: pd.DataFrame, columns: Sequence[str], config: CrossvalidateConfig) -> list[pd.DataFrame]:
    """The slides once for each fold, shared out by these columns."""
    return folds(known, config.folds, seed=config.seed, task=",".join(columns), site=config.site, validation=config.validation)


def _given(splits: Path | str, frame: pd.DataFrame, known: pd.DataFrame, columns: Sequence[str],
           config: CrossvalidateConfig) -> list[pd.DataFrame]:
    """The same by splits of one's own; slides that cannot be learned from may be named and are left out.

    Raises:
        InputError: As `read_splits`; or if a fold tests no slide, or a slide is tested in two.
    """
    tables = read_splits(splits, frame, validation=config.validation, seed=config.seed, task=",".join(columns),
                         only=known["slide"].tolist())
    tested: dict[str, int] = {}
    for number, table in enumerate(tables):
        slides = table["slide"][table["split"] == "test"]
        if slides.empty:
            raise refuse("splits", "folds that each test some slides with features and a label", f"none in fold {number}",
                         "Leave that fold out.")
        for slide in slides:
            if tested.setdefault(slide, number) != number:
                raise refuse("splits", "folds that test a slide once at most",
                             f"`{slide}` tested in fold {tested[slide]} and fold {number}",
                             "Its score would count twice: give one split at a time, as `--splits splits_0.csv`.")
    return tables


def _left_out(frame: pd.DataFrame, known: pd.DataFrame) -> list[str]:
    """What is to be said of the slides that cannot be learned from."""
    missing = frame["slide"][~frame["slide"].isin(known["slide"])].tolist()
    return [f"{len(missing)} slides without features or without a label were left out: {', '.join(missing)}"] if missing else []


def _join(parts: Sequence[Path], out: Path) -> None:
    """The tables of all folds one after the other, with a column `fold` where there is a row per slide or patient."""
    names = ["slides.csv", "patients.csv", *sorted(f"tasks/{path.name}" for path in (parts[0] / "tasks").glob("*.csv"))]
    (out / "tasks").mkdir(exist_ok=True)
    for name in names:
        tables = [pd.read_csv(part / name, dtype=str, keep_default_na=False).assign(fold=number)
                  for number, part in enumerate(parts)]
        write_text(out / name, pd.concat(tables, ignore_index=True).to_csv(index=False))
    first, *others = (pq.read_schema(part / "cells.parquet") for part in parts)
    schema = pa.schema([field for field in first if all(field.name in other.names for other in others)])  # some folds may route
    with pq.ParquetWriter(out / "cells.parquet", schema) as writer:
        for part in parts:
            with pq.ParquetFile(part / "cells.parquet") as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group, schema.names))


def _summary(summaries: Sequence[dict], notes: Sequence[str]) -> dict:
    first = summaries[0]
    return {"task": first["task"], "tasks": first["tasks"], "threshold": None, "folds": len(summaries),
            "aggregator": ", ".join(dict.fromkeys(each["aggregator"] for each in summaries)),
            **{name: sum(each[name] for each in summaries) for name in ("slides", "positives", "review")},
            "skipped": sorted(name for each in summaries for name in each["skipped"]),
            "warnings": [*notes, *(f"fold {number}: {warning}" for number, each in enumerate(summaries)
                                   for warning in each["warnings"])]}


def _division(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a slide, one column a fold."""
    division = tables[0][["slide", "patient"]].copy()
    for number, table in enumerate(tables):
        division[f"fold_{number}"] = division["slide"].map(table.set_index("slide")["split"])
    return division
