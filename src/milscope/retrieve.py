"""Retrieve: the cells of each slide that a person should look at first, with their pixels."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from milscope.configs import RetrieveConfig
from milscope.judged import read_verdicts
from milscope.progress import progress
from milscope.ranking import Ranking, find_ranking, order, other_tasks, rank_slides
from milscope.store import (
    CellStore,
    Manifest,
    Stage,
    artifact_kind,
    fingerprint,
    read_manifest,
    write_text,
)
from milscope.types import refuse

COLUMNS = ("slide", "rank", "cell", "score", "x", "y", "width", "height")
_PLACES = ("x", "y", "width", "height")
Rescored = Callable[[str, pd.DataFrame], Float[np.ndarray, " cell"]]
"""A slide's name and its cells with their scores in, other scores out."""


class Retrieved(NamedTuple):
    """Where the ranked cells are, how many of how many slides; and with verdicts what they gain."""

    directory: Path
    slides: int
    cells: int
    gain: str | None = None
    warnings: tuple[str, ...] = ()


def retrieve(scores: str | Path, cells: str | Path, out: str | Path, config: RetrieveConfig | None = None, *,
             labels: str | Path | None = None, features: str | Path | None = None) -> Retrieved:
    """Takes the best k cells of every slide; writes ranked.csv, and `<slide>.arrow` with the pixels.

    They are those of the main task; the same of every other task of the scores is in `tasks/<task>`. Cells of equal score
    stay in the order of the store. A slide with fewer than k cells gives all it has. One slide at a time is in memory, and
    slides that are finished are kept when the stage is interrupted.

    Args:
        scores: A `scores` artifact (`predict`).
        cells: The `cells` artifact (`tile`) that the scores were made from.
        out: Directory of the ranked cells.
        config: Settings; the defaults of `RetrieveConfig` if None.
        labels: Table of verdicts on cells, see `read_verdicts`.
        features: With verdicts: a `features` artifact of these cells to learn on; None: measures of their pixels.

    Raises:
        InputError: If k is below 1, the ranking is unknown or not that of these scores, a scored slide or cell is not in
            the store, or verdicts or features are not of these cells.
    """
    config = config or RetrieveConfig()
    for name in ("k", "reach"):
        if getattr(config, name) < 1:
            raise refuse(name, "at least 1", getattr(config, name), "Ask for one cell or more.")
    ranking, store = find_ranking(config.rank), CellStore(Path(cells))
    origin = read_manifest(Path(scores), "scores")
    slides = _scored_slides(Path(scores), store)
    given = _Given(Path(scores), store, ranking, config, slides)
    said = _read_said(given, origin, labels, features)
    inputs = {"scores": origin.fingerprint, "cells": store.manifest.fingerprint, **said.inputs}
    with Stage(Path(out), "ranked", config, inputs, [*origin.patients, *said.patients]) as stage:
        if not stage.done:
            anew = said.learn(given, stage) if labels is not None else {}
            table = _rank_all(given, stage.work, anew)
            stage.summary.update(slides=int(table["slide"].nunique()), cells=len(table))
    return _retrieved(Path(out), stage.manifest.summary)


class _Given(NamedTuple):
    """The scores, the cells, what orders them, the settings, and the slides."""

    scores: Path
    store: CellStore
    ranking: Ranking
    config: RetrieveConfig
    slides: list[str]


class _Said(NamedTuple):
    """Verdicts on cells, of which task ("" the main one), what is learned on, and how the artifact records it."""

    verdicts: pd.DataFrame
    task: str
    features: Path | None
    inputs: dict[str, str]
    patients: list[str]
    normal: frozenset[str]

    def learn(self, given: _Given, stage: Stage) -> dict[str, Rescored]:
        """What orders the cells of the task anew; the summary tells of it."""
        from milscope.ranking import Asked, Correction, Looks  # scikit-learn and torch, which plain retrieving does not need

        out, own = stage.out, given.store.manifest.fingerprint
        same = artifact_kind(out) == "ranked" and read_manifest(out, "ranked").inputs.get("cells") == own
        looks = Looks(given.store, self.features, stage.work, out if same else None)
        found = Correction(Asked(given.scores, given.ranking, self.task, given.config.reach, self.normal, self.verdicts, looks))
        stage.summary.update(verdicts=found.summary, warnings=found.warnings)
        return {self.task: found.scores}


def _read_said(given: _Given, origin: Manifest, labels: str | Path | None, features: str | Path | None) -> _Said:
    if labels is None:
        if features is not None:
            raise refuse("--features", "given with `--labels`", features, "Without verdicts nothing is learned.")
        return _Said(pd.DataFrame(), "", None, {}, [], frozenset())
    verdicts = read_verdicts(labels)
    task = "" if given.config.labels_task == origin.summary.get("task") else given.config.labels_task
    if task and task not in other_tasks(given.scores):
        raise refuse("labels_task", "one whose scores of cells are there", task, "Leave it out for the main one.")
    inputs = {"labels": fingerprint(verdicts.to_dict("list"))}
    if features is not None:
        from milscope.store import open_features  # torch

        inputs["features"] = open_features(Path(features)).fingerprint
    table = pd.read_csv(given.scores / "slides.csv", dtype=str, keep_default_na=False)
    judged = table["slide"].isin(verdicts["slide"])
    if not judged.any():
        found = f"none, the first is of slide `{verdicts['slide'].iloc[0]}`" if len(verdicts) else "no verdict at all"
        raise refuse("labels", "about cells of the scored slides", found, "Use the slides' names as in the scores.")
    normal = table["split"].isin(("train", "validation")) & (pd.to_numeric(table["label"], errors="coerce") == 0)
    return _Said(verdicts, task, None if features is None else Path(features), inputs, table.loc[judged, "patient"].tolist(),
                 frozenset(() if task else table.loc[normal, "slide"]))


def _retrieved(out: Path, summary: dict[str, Any]) -> Retrieved:
    found, told = (summary.get("verdicts") or {}).get("gain"), None
    if found:
        told = (f"abnormal among the first {found['abnormal']} of {found['judged']} held-out verdicts: "
                f"{found['before']} before, {found['after']} now, {found['chance']:.0f} by chance")
    return Retrieved(out, summary["slides"], summary["cells"], told, tuple(summary.get("warnings", ())))


_EMPTY = pd.DataFrame(columns=list(COLUMNS))


def _rank_all(given: _Given, work: Path, anew: Mapping[str, Rescored]) -> pd.DataFrame:
    """Writes the best cells by every task; gives those by the main one, without their pixels."""
    places = {"": work, **{task: work / "tasks" / task for task in other_tasks(given.scores)}}
    with progress("retrieve", len(given.slides) * len(places), "slides") as advance:
        tables = [_rank(given, (task, anew.get(task)), place, advance) for task, place in places.items()]
    return tables[0]


def _rank(given: _Given, by: tuple[str, Rescored | None], place: Path, advance: Callable[[int], None]) -> pd.DataFrame:
    """The best cells by one task, in another order if one is given, as a table, and slide by slide with the pixels."""
    place.mkdir(parents=True, exist_ok=True)
    task, rescored = by
    for slide, frame in rank_slides(given.scores, given.ranking, task):
        path = place / f"{slide}.arrow"
        if not path.exists():
            scored = frame if rescored is None else frame.assign(score=rescored(slide, frame))
            _write(path, _best(slide, scored, given.store, given.config.k))
        advance(1)
    table = pd.concat([_EMPTY, *_read_ranked(place, given.slides)], ignore_index=True)
    write_text(place / "ranked.csv", table.to_csv(index=False))
    return table


def _best(slide: str, frame: pd.DataFrame, store: CellStore, k: int) -> pa.Table:
    """The k best cells of one slide, best first, as they stand in the store."""
    table = store.table(slide)
    rows = pd.Index(table["cell"].to_pylist()).get_indexer(pd.Index(frame["cell"]))
    if (rows < 0).any():
        absent = frame["cell"][rows < 0]
        raise refuse("cells", "the store that the scores were made from",
                     f"{len(absent)} scored cells of slide {slide} that are not in it, as {absent.iloc[0]}",
                     "Give that store, or encode and predict again.")
    chosen = order(frame["score"].to_numpy())[:k]
    taken = rows[chosen]
    places = {name: table[name].take(pa.array(taken)).combine_chunks() for name in _PLACES}
    return pa.table({
        "slide": pa.array([slide] * len(chosen), pa.string()),
        "rank": pa.array(range(1, len(chosen) + 1), pa.int64()),
        "cell": pa.array(frame["cell"].iloc[chosen], pa.string()),
        "score": pa.array(frame["score"].iloc[chosen], pa.float64()),
        **places,
        "image": pa.array(store.images(slide, taken), pa.binary()),
    }).replace_schema_metadata({"milscope_format": "ranked", "milscope_version": "1", "slide": slide})


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)


def _read_ranked(work: Path, slides: list[str]) -> Iterator[pd.DataFrame]:
    """The ranked cells of each slide that has any, without their pixels."""
    for slide in slides:
        path = work / f"{slide}.arrow"
        if path.exists():
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_file(file).read_all().select(list(COLUMNS)).to_pandas()


def _scored_slides(scores: Path, store: CellStore) -> list[str]:
    slides = pd.read_csv(scores / "slides.csv", dtype=str, keep_default_na=False)["slide"].tolist()
    absent = [slide for slide in slides if slide not in set(store.slides)]
    if absent:
        raise refuse("cells", "the store that the scores were made from", f"{len(absent)} scored slides that are not in "
                     f"it, as {absent[0]}", "Give that store, or encode and predict again.")
    return slides
