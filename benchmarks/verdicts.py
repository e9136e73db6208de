"""What verdicts on single cells gain: recall of the first cells against the number of verdicts, on slides nobody judged.

A simulated reviewer goes round the slides that were learned from, the most suspicious first, five cells of each at a visit, and
says what the truth says, or in 5 of 100 cases the opposite. After 10, 50, 100 and 150 verdicts the cells are ranked anew, and
the reviewer goes on by the new order; beside it the plain way, by the unchanged one. The finished runs of `benchmarks/real.py`
and of `milscope benchmark witness` are needed.

    python benchmarks/verdicts.py DATA [--runs runs/real] [--witness DIR] [--docs docs/results.md] [--json FILE]
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from real import interval, write_between_marks

from milscope.metrics import cell_metrics
from milscope.ranking import Asked, Correction, Looks, find_ranking, order, rank_slides
from milscope.store import CellStore

NUMBERS, ROUNDS, VISIT, WRONG = (0, 10, 50, 200), (10, 50, 100, 150, 200), 5, 0.05
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
    """Looks that stay in memory, for many orders of the same cells."""

    def of(self, slide: str, rows: np.ndarray) -> np.ndarray:
        if not hasattr(self, "memory"):
            self.memory: dict[str, np.ndarray] = {}
        if slide not in self.memory:
            self.memory[slide] = super().of(slide, np.arange(self.store.count(slide)))
        return self.memory[slide][rows]


class Session(NamedTuple):
    """Judged cells and their verdicts, in turn; how many abnormal ones were met; and scores of all cells at each number."""

    verdicts: pd.DataFrame
    met: dict[int, int]
    scores: dict[int, Cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"))
    parser.add_argument("--witness", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/verdicts"), help="where measures of cells are kept")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    start, figures, tables = time.perf_counter(), {}, []
    for title, cases in sets(arguments):
        figures[title] = [one_case(case) for case in cases]
        tables.append(table(title, figures[title]))
        print(tables[-1], f"\n{time.perf_counter() - start:.0f} s so far\n", flush=True)
    if arguments.docs:
        write_between_marks(arguments.docs, "\n\n".join(tables), "verdicts")
    if arguments.json:
        machine = {"machine": platform.machine(), "seconds": time.perf_counter() - start, "figures": figures, "ratios": {},
                   "versions": {each: version(each) for each in ("milscope", "scikit-learn")}}
        arguments.json.write_text(json.dumps(machine, indent=1))


def sets(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Case]]]:
    """What is measured, with its title."""
    truth = pd.read_csv(arguments.data / "malaria/cell_truth.csv").rename(columns={"parasitized": "witness"})
    runs = sorted((arguments.runs / "malaria").glob("seed-*"))
    for what in ("measures of pixels", "SLAM-AGS features"):
        yield (f"Malaria as it is, ranked by SLAM-AGS; learned on {what}",
               [Case(run / "predict", CellStore(runs[0] / "tile"), slide_table(run / "slides.csv", run / "predict"), truth,
                     arguments.work / "malaria", run / "encode" if "features" in what else None) for run in runs])
    for rate in ("0.02", "0.005") if arguments.witness else ():
        for method in ("slam-ags", "seek"):
            homes = [path.parents[2] for path in sorted(arguments.witness.glob(f"[0-9]*/{rate}/{method}/scores/slides.csv"))]
            yield (f"Malaria cells drawn at {float(rate):.1%} abnormal, ranked by {method}; learned on measures of pixels",
                   [Case(home / method / "scores", CellStore(home / "cells"),
                         slide_table(home / "slides.csv", home / method / "scores"), pd.read_csv(home / "truth.csv"),
                         arguments.work / "-".join(home.parts[-2:])) for home in homes])


def slide_table(slides: Path, scores: Path) -> pd.DataFrame:
    found = pd.read_csv(slides).merge(pd.read_csv(scores / "slides.csv")[["slide", "probability"]], on="slide")
    return found.rename(columns={"infected": "label", "abnormal": "label"})


def one_case(case: Case) -> dict[str, dict[int, dict[str, float]]]:
    """Every figure, of right verdicts and of some wrong ones, by the number of verdicts."""
    figures: dict[str, dict[int, dict[str, float]]] = {}
    first, looks = read_cells(case), Remembered(case.store, case.features, case.work, None)
    plain = judge(case, first, None, wrong=0.0)
    for name, wrong in (("right", 0.0), ("wrong", WRONG)):
        session = judge(case, first, looks, wrong=wrong)
        figures[name] = {number: {**measured(case, session.scores[number]), "met": session.met[number],
                                  "met_plain": plain.met[number]} for number in NUMBERS}
    return figures


def read_cells(case: Case) -> Cells:
    told = case.truth[["slide", "cell", "witness"]]
    return {slide: cells.merge(told, on=["slide", "cell"], how="left")
            for slide, cells in rank_slides(case.scores, find_ranking("evidence"))}


def judge(case: Case, first: Cells, looks: Looks | None, *, wrong: float) -> Session:
    """A reviewer's verdicts; with looks the cells are ranked anew after each of `ROUNDS`."""
    asked = case.slides[case.slides["split"] != "test"].sort_values("probability", ascending=False)
    random, seen, now, at, scores = np.random.default_rng(5), [], first, 0, {0: first}
    done: dict[str, set[int]] = {slide: set() for slide in asked["slide"]}
    for number in ROUNDS:
        while len(seen) < number:
            slide = asked["slide"].iloc[at % len(asked)]
            unjudged = [row for row in order(now[slide]["score"].to_numpy()) if row not in done[slide]]
            for row in unjudged[: min(VISIT, number - len(seen))]:
                cell = now[slide].iloc[row]
                label = cell["witness"] if random.random() >= wrong else 1 - cell["witness"]
                seen.append({"slide": slide, "cell": cell["cell"], "x": np.nan, "y": np.nan, "label": float(label),
                             "witness": cell["witness"]})
                done[slide].add(row)
            at += 1
        now = ranked_anew(case, first, pd.DataFrame(seen), looks) if looks else first
        scores[number] = now
    table = pd.DataFrame(seen)
    return Session(table, {number: int(table["witness"].iloc[:number].sum()) for number in NUMBERS}, scores)


def ranked_anew(case: Case, first: Cells, verdicts: pd.DataFrame, looks: Looks) -> Cells:
    normal = case.slides[(case.slides["split"] != "test") & (case.slides["label"] == 0)]["slide"]
    told = verdicts.drop(columns="witness")
    correction = Correction(Asked(case.scores, find_ranking("evidence"), "", 2000, frozenset(normal), told, looks))
    return {slide: cells.assign(score=correction.scores(slide, cells)) for slide, cells in first.items()}


def measured(case: Case, cells: Cells) -> dict[str, float]:
    """Means over positive test slides, of which no cell was judged."""
    test = case.slides[(case.slides["split"] == "test") & (case.slides["label"] == 1)]["slide"]
    found = [cell_metrics(cells[slide]["score"].to_numpy(), cells[slide]["witness"].to_numpy() == 1, (10,)) for slide in test]
    return {name: float(np.mean([each[name] for each in found])) for name in ("recall_at_10", "precision_at_10")}


def table(title: str, rows: list[dict[str, dict[int, dict[str, float]]]]) -> str:
    """One Markdown table: means over seeds with their intervals, and what is gained on no verdict, paired by seed."""
    def values(kind: str, number: int, name: str) -> np.ndarray:
        return np.array([row[kind][number][name] for row in rows])

    lines = [f"**{title}** ({len(rows)} seed{'s' if len(rows) > 1 else ''})", "",
             "| verdicts | recall@10 | gained | with 5 % wrong | gained | precision@10 | with 5 % wrong "
             "| abnormal cells met | by the order before |", "|---" * 9 + "|"]
    for number in NUMBERS:
        right, wrong = (values(kind, number, "recall_at_10") for kind in ("right", "wrong"))
        before = values("right", 0, "recall_at_10")
        gains = [f"*{interval(each - before, sign='+')}*" if number else "" for each in (right, wrong)]
        precision = [f"{values(kind, number, 'precision_at_10').mean():.2f}" for kind in ("right", "wrong")]
        met = [f"{values('right', number, name).mean():.1f}" if number else "" for name in ("met", "met_plain")]
        cells = [number, interval(right, most=1.0), gains[0], interval(wrong, most=1.0), gains[1], *precision, *met]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
