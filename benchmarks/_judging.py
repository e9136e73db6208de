"""What the measurements of verdicts share: the cells of one draw of slides, their looks, a reviewer, and figures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from milscope.metrics import cell_metrics
from milscope.ranking import Asked, Correction, Looks, find_ranking, order, rank_slides
from milscope.store import CellStore

NUMBERS, VISIT, WRONG = (0, 10, 50, 200), 5, 0.05
Cells = dict[str, pd.DataFrame]
"""Slide → its cells in stored order: cell, x, y, score, witness."""


class Case(NamedTuple):
    """One ranking of the cells of one draw of slides; `slides` holds slide, split, label, probability."""

    scores: Path
    store: CellStore
    slides: pd.DataFrame
    truth: pd.DataFrame
    work: Path
    features: Path | None = None


class Remembered(Looks):
    """Looks that stay in memory, for many orders of the same cells; measured beforehand by `measure_all`."""

    def prepare(self, wanted: object) -> None:
        """Nothing is left to measure."""

    def measure_all(self) -> "Remembered":
        super().prepare((slide, np.arange(self.store.count(slide))) for slide in self.store.slides)
        return self

    def of(self, slide: str, rows: np.ndarray) -> np.ndarray:
        if not hasattr(self, "memory"):
            self.memory: dict[str, np.ndarray] = {}
        if slide not in self.memory:
            self.memory[slide] = super().of(slide, np.arange(self.store.count(slide)))
        return self.memory[slide][rows]

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "memory"}


def looks_of(case: Case) -> Remembered:
    return Remembered(case.store, case.features, case.work, None).measure_all()


def slide_table(slides: Path, scores: Path) -> pd.DataFrame:
    found = pd.read_csv(slides).merge(pd.read_csv(scores / "slides.csv")[["slide", "probability"]], on="slide")
    return found.rename(columns={"infected": "label", "abnormal": "label"})


def read_cells(scores: Path, truth: pd.DataFrame) -> Cells:
    told = truth.set_index(["slide", "cell"])["witness"]
    return {slide: cells.assign(witness=told.reindex(pd.MultiIndex.from_frame(cells[["slide", "cell"]])).to_numpy())
            for slide, cells in rank_slides(scores, find_ranking("evidence"))}


class Reviewer:
    """Goes round slides, the first of the list first, five cells of each at a visit, the first that are not judged yet.

    Args:
        slides: By name, in turn.
        wrong: Share of verdicts that are the opposite of the truth.
    """

    def __init__(self, slides: list[str], wrong: float) -> None:
        self.slides, self.wrong, self.at, self.random = slides, wrong, 0, np.random.default_rng(5)
        self.done: dict[str, set[int]] = {slide: set() for slide in slides}
        self.verdicts: list[dict] = []

    def judge(self, cells: Cells, number: int) -> pd.DataFrame:
        """Goes on until so many cells are judged; all verdicts so far."""
        while len(self.verdicts) < number:
            slide = self.slides[self.at % len(self.slides)]
            unjudged = [row for row in order(cells[slide]["score"].to_numpy()) if row not in self.done[slide]]
            for row in unjudged[: min(VISIT, number - len(self.verdicts))]:
                cell = cells[slide].iloc[row]
                label = cell["witness"] if self.random.random() >= self.wrong else 1 - cell["witness"]
                self.verdicts.append({"slide": slide, "cell": cell["cell"], "x": np.nan, "y": np.nan, "label": float(label),
                                      "witness": cell["witness"]})
                self.done[slide].add(row)
            self.at += 1
        return pd.DataFrame(self.verdicts)


def ranked_anew(case: Case, first: Cells, verdicts: pd.DataFrame, looks: Looks) -> Cells:
    normal = case.slides[(case.slides["split"] != "test") & (case.slides["label"] == 0)]["slide"]
    told = verdicts.drop(columns="witness")
    correction = Correction(Asked(case.scores, find_ranking("evidence"), "", 2000, frozenset(normal), told, looks))
    return {slide: cells.assign(score=correction.scores(slide, cells)) for slide, cells in first.items()}


def measured(case: Case, cells: Cells, split: str = "test") -> dict[str, float]:
    """Means over positive slides of a part, of which no cell was judged."""
    own = case.slides[(case.slides["split"] == split) & (case.slides["label"] == 1)]["slide"]
    found = [cell_metrics(cells[slide]["score"].to_numpy(), cells[slide]["witness"].to_numpy() == 1, (10,)) for slide in own]
    return {name: float(np.mean([each[name] for each in found])) for name in ("recall_at_10", "precision_at_10")}
