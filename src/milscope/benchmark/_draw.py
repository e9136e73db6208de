"""Slides of an exact witness rate, drawn from cells whose truth is known: no cell twice, training and test apart."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from milscope.benchmark._imports import shrunk
from milscope.configs import TileConfig, WitnessConfig
from milscope.slides import Cell
from milscope.store import CellStore, CellWriter, Stage, fingerprint, write_text
from milscope.types import refuse

TASK = "abnormal"
"""The column of the drawn slides' labels."""
TRIES = 20
"""Orders of the patients in which a division is looked for."""
PARTS = ("train", "test")
KINDS = ("normal", "witness")


class Division(NamedTuple):
    """The cells of one seed in the order in which they are drawn, as rows of the pool's table.

    Attributes:
        rows: Part and kind → rows, shuffled.
        slides: Part → its slides.
    """

    rows: dict[tuple[str, str], Int[np.ndarray, " cell"]]
    slides: dict[str, int]


def count_witnesses(rate: float, cells: int) -> int:
    """The witnesses of a positive slide.

    Raises:
        InputError: If that would be none, or all cells.
    """
    witnesses = round(rate * cells)
    if not 0 < rate < 1 or not 1 <= witnesses < cells:
        raise refuse("rates", f"shares above 0 and below 1, of at least one witness among {cells} cells", f"{rate:g}",
                     f"Draw slides of {int(np.ceil(1 / rate))} cells or more." if 0 < rate < 1 else "Correct it.")
    return witnesses


def divide(table: pd.DataFrame, config: WitnessConfig, seed: int) -> Division:
    """The cells of a seed's training and of its test slides: no patient has cells in both.

    It does not depend on the rates. Patients come in random order, each to the part that lacks more of what the patient has; of
    several orders the one that divides the witnesses best.

    Args:
        table: The pool's (patient, witness); a cell without a patient stands for itself.
        config: How many slides of how many cells, and at which rates.
        seed: Same seed, same division.

    Raises:
        InputError: If there are too few cells or patients; the line says what would fit.
    """
    normal = int((~table["witness"]).sum())
    for tests in _tests(normal, config):
        slides = {"train": config.slides, "test": tests}
        found = [Division(_rows(table, tests / (config.slides + tests), np.random.default_rng([seed, attempt])), slides)
                 for attempt in range(TRIES)]
        good = [each for each in found if all(len(each.rows[part, "normal"]) >= slides[part] * config.cells for part in PARTS)]
        if good:
            return _enough(max(good, key=lambda each: min(len(each.rows[part, "witness"]) / slides[part] for part in PARTS)),
                           config)
    most = normal // config.cells
    raise refuse("slides", f"few enough for {normal:,} normal cells of {_patients(table):,} patients",
                 f"{config.slides} to learn from and {config.test_slides or 'at least 2'} to test on, of {config.cells} cells",
                 f"About {most} slides of so many cells can be drawn, test slides and all; or lower `--cells`.")


def _tests(normal: int, config: WitnessConfig) -> list[int]:
    """Numbers of test slides to try, the wanted one first."""
    if config.test_slides:
        return [config.test_slides]
    most = min(config.slides, normal // config.cells - config.slides)
    return list(range(most - most % 2, 1, -2))


def _patients(table: pd.DataFrame) -> int:
    return table["patient"].nunique() if (table["patient"] != "").any() else len(table)


def _rows(table: pd.DataFrame, share: float, random: np.random.Generator) -> dict[tuple[str, str], Int[np.ndarray, " cell"]]:
    """The cells of each part and kind, shuffled."""
    tested, witness = _tested(table, share, random), table["witness"].to_numpy()
    return {(part, kind): random.permutation(np.flatnonzero(own & (witness == (kind == "witness"))))
            for part, own in zip(PARTS, (~tested, tested), strict=True) for kind in KINDS}


def _tested(table: pd.DataFrame, share: float, random: np.random.Generator) -> np.ndarray:
    """Whether each cell is for testing, all cells of a patient together; about that share of normal cells and of witnesses."""
    alone = table["patient"] == ""
    if alone.all():
        tested = np.zeros(len(table), bool)
        for kind in (False, True):
            own = random.permutation(np.flatnonzero(table["witness"].to_numpy() == kind))
            tested[own[: round(share * len(own))]] = True
        return tested
    owner = np.where(alone, np.arange(len(table)).astype(str), "p" + table["patient"].astype(str))
    codes, _ = pd.factorize(owner)
    has = np.zeros((codes.max() + 1, 2))
    np.add.at(has, (codes, table["witness"].to_numpy(dtype=int)), 1.0)
    has /= np.maximum(has.sum(0), 1)
    lack = np.array([[1 - share] * 2, [share] * 2])  # of training and of test slides, as shares of all
    wanted, tested = lack.copy(), np.zeros(len(has), bool)
    for patient in random.permutation(len(has)):
        gain = (has[patient] * lack / wanted).sum(1)
        tested[patient] = gain[1] > gain[0]
        lack[int(tested[patient])] -= has[patient]
    return tested[codes]


def _enough(division: Division, config: WitnessConfig) -> Division:
    """The division, if its witnesses suffice at every rate."""
    highest = max(map(float, config.rates))
    most = count_witnesses(highest, config.cells)
    for part in PARTS:
        positive, there = division.slides[part] // 2, len(division.rows[part, "witness"])
        if there < positive * most:
            fits = there // positive if positive else 0
            raise refuse("rates", f"at most {fits / config.cells:.4g} with {there} witnesses for {part}",
                         f"{highest:g}, which is {most} on each of {positive} positive slides",
                         "Lower the rate, `--cells` or `--slides`.")
    return division


def draw(division: Division, rate: float, config: WitnessConfig, seed: int) -> pd.DataFrame:
    """The cells of all slides at one rate: slide, split, label, cell, source (row of the pool's table), witness.

    At every rate of a seed a slide holds the same normal cells at the same places, some of which witnesses replace; and of the
    witnesses those of a lower rate.

    Args:
        division: The seed's.
        rate: Witnesses over cells of a positive slide.
        config: Cells a slide, and the share for validation.
        seed: Same seed, same slides.
    """
    random, count = np.random.default_rng([seed, 1, 1]), count_witnesses(rate, config.cells)
    frames = []
    for part in PARTS:
        slides = division.slides[part]
        label = random.permutation(np.arange(slides) < slides // 2).astype(int)
        aside = _validation(label, config.validation, random) if part == "train" else np.zeros(slides, bool)
        positive = np.flatnonzero(label)
        for slide in range(slides):
            source = division.rows[part, "normal"][slide * config.cells : (slide + 1) * config.cells].copy()
            places = random.permutation(config.cells)[:count]
            witness = np.zeros(config.cells, bool)
            if label[slide]:
                source[places] = division.rows[part, "witness"][np.searchsorted(positive, slide) :: len(positive)][:count]
                witness[places] = True
            name = f"{part}-{slide:02d}"
            split = "validation" if aside[slide] else part
            frames.append(pd.DataFrame({"slide": name, "split": split, "label": label[slide], "source": source,
                                        "cell": [f"{name}:{place:04d}" for place in range(config.cells)], "witness": witness}))
    return pd.concat(frames, ignore_index=True)


def _validation(label: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Which training slides are for choosing models: of each class that share, at least one and not all."""
    aside = np.zeros(len(label), bool)
    for value in (0, 1):
        own = random.permutation(np.flatnonzero(label == value))
        aside[own[: min(max(1, round(share * len(own))), len(own) - 1)]] = True
    return aside


class Job(NamedTuple):
    """Slides to be written: where to, and what `draw` made of them, with `cell` and `row` of the sources as `of` and `row`."""

    out: Path
    table: pd.DataFrame


def job(out: Path, drawn: pd.DataFrame, pool: pd.DataFrame) -> Job:
    """What `write_draw` needs."""
    sources = pool.iloc[drawn["source"].to_numpy()].reset_index(drop=True)
    return Job(out, drawn.assign(from_slide=sources["slide"], from_row=sources["row"], from_cell=sources["cell"]))


def write_draw(given: Job, *, store: Path, largest: int) -> int:
    """Writes `cells/` (a `cells` artifact), slides.csv, and truth.csv, which only measuring reads; gives the number of cells.

    Args:
        given: The slides.
        store: The `cells` artifact they are drawn from.
        largest: Most pixels of a stored cell's longer side; 0 for any.
    """
    source, table = CellStore(store), given.table
    inputs = {"store": source.manifest.fingerprint, "largest": str(largest),
              "draw": fingerprint(table[["slide", "from_slide", "from_row"]].to_dict("list"))}
    given.out.mkdir(parents=True, exist_ok=True)
    with Stage(given.out / "cells", "cells", TileConfig(), inputs) as stage:
        if not stage.done:
            rows = [(name, *_write_slide(own, source, stage.work, largest)) for name, own in table.groupby("slide")]
            columns = ["slide", "cells", "width", "height", "mpp"]
            pd.DataFrame(rows, columns=columns).assign(skipped=0, file="").to_csv(stage.work / "slides.csv", index=False)
            pd.DataFrame(columns=["slide", "cell", "reason"]).to_csv(stage.work / "failures.csv", index=False)
            stage.summary.update(slides=len(rows), cells=len(table), failures=0)
    slides = table.groupby("slide", as_index=False).agg(split=("split", "first"), label=("label", "first"))
    write_text(given.out / "slides.csv", slides.rename(columns={"label": TASK}).to_csv(index=False))
    truth = table.astype({"witness": int})[["slide", "split", "cell", "witness", "from_slide", "from_cell"]]
    write_text(given.out / "truth.csv", truth.to_csv(index=False))
    return len(table)


def _write_slide(own: pd.DataFrame, source: CellStore, work: Path, largest: int) -> tuple[Any, ...]:
    """Writes a slide's cells under names that tell nothing; gives their number, and a frame of unknown size."""
    name = str(own["slide"].iloc[0])
    with CellWriter(work / f"{name}.arrow", name) as writer:
        for cell, slide, row in zip(own["cell"], own["from_slide"], own["from_row"], strict=True):
            stored = source.table(slide)
            width, height, mpp = (stored[column][int(row)].as_py() for column in ("width", "height", "mpp"))
            image = shrunk(stored["image"][int(row)].as_py(), largest)
            writer.add(Cell(cell, None, None, width, height, mpp, image))
    return len(own), "", "", ""
