"""Retrieve: the cells of each slide that a person should look at first, with their pixels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from milscope.configs import RetrieveConfig
from milscope.progress import progress
from milscope.ranking import Ranking, find_ranking, order, other_tasks, rank_slides
from milscope.store import CellStore, Stage, read_manifest, write_text
from milscope.types import refuse

COLUMNS = ("slide", "rank", "cell", "score", "x", "y", "width", "height")
_PLACES = ("x", "y", "width", "height")


class Retrieved(NamedTuple):
    """Where the ranked cells are, and how many of how many slides."""

    directory: Path
    slides: int
    cells: int


def retrieve(scores: str | Path, cells: str | Path, out: str | Path, config: RetrieveConfig | None = None) -> Retrieved:
    """Takes the best k cells of every slide; writes ranked.csv, and `<slide>.arrow` with the pixels.

    They are those of the main task; the same of every other task of the scores is in `tasks/<task>`. Cells of equal score
    stay in the order of the store. A slide with fewer than k cells gives all it has. One slide at a time is in memory, and
    slides that are finished are kept when the stage is interrupted.

    Args:
        scores: A `scores` artifact (`predict`).
        cells: The `cells` artifact (`tile`) that the scores were made from.
        out: Directory of the ranked cells.
        config: Settings; the defaults of `RetrieveConfig` if None.

    Raises:
        InputError: If k is below 1, the ranking is unknown or not that of these scores, or a scored slide or cell is not in
            the store.
    """
    config = config or RetrieveConfig()
    if config.k < 1:
        raise refuse("k", "at least 1", config.k, "Ask for one cell or more.")
    ranking, store = find_ranking(config.rank), CellStore(Path(cells))
    origin = read_manifest(Path(scores), "scores")
    slides = _scored_slides(Path(scores), store)
    inputs = {"scores": origin.fingerprint, "cells": store.manifest.fingerprint}
    with Stage(Path(out), "ranked", config, inputs, origin.patients) as stage:
        if not stage.done:
            table = _rank_all(_Given(Path(scores), store, ranking, config.k, slides), stage.work, other_tasks(scores))
            stage.summary.update(slides=int(table["slide"].nunique()), cells=len(table))
    summary = stage.manifest.summary
    return Retrieved(Path(out), summary["slides"], summary["cells"])


class _Given(NamedTuple):
    """The scores, the cells, what orders them, how many of each slide, and the slides."""

    scores: Path
    store: CellStore
    ranking: Ranking
    k: int
    slides: list[str]


_EMPTY = pd.DataFrame(columns=list(COLUMNS))


def _rank_all(given: _Given, work: Path, others: list[str]) -> pd.DataFrame:
    """Writes the best cells by every task; gives those by the main one, without their pixels."""
    places = {"": work, **{task: work / "tasks" / task for task in others}}
    with progress("retrieve", len(given.slides) * len(places), "slides") as advance:
        tables = [_rank(given, task, place, advance) for task, place in places.items()]
    return tables[0]


def _rank(given: _Given, task: str, place: Path, advance: Callable[[int], None]) -> pd.DataFrame:
    """The best cells by one task, as a table, and slide by slide with the pixels."""
    place.mkdir(parents=True, exist_ok=True)
    for slide, frame in rank_slides(given.scores, given.ranking, task):
        path = place / f"{slide}.arrow"
        if not path.exists():
            _write(path, _best(slide, frame, given.store, given.k))
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
