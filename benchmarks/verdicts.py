"""What verdicts on single cells gain: recall of the first cells against the number of verdicts, on slides nobody judged.

A simulated reviewer goes round the slides that were learned from, the most suspicious first, five cells of each at a visit, and
says what the truth says, or in 5 of 100 cases the opposite. After 10, 50, 100 and 150 verdicts the cells are ranked anew, and
the reviewer goes on by the new order; beside it the plain way, by the unchanged one. Then slide models learn from verdicts on
cells of training slides. The finished runs of `benchmarks/real.py` and of `milscope benchmark witness` are needed.

    python benchmarks/verdicts.py DATA [--runs runs/real] [--witness DIR] [--cache DIR] [--docs docs/results.md] [--json FILE]
    python benchmarks/verdicts.py DATA --choose 1,10,100     # cell weights, on validation slides
"""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from _judging import NUMBERS, WRONG, Case, Cells, Reviewer, looks_of, measured, ranked_anew, read_cells, slide_table
from _taught import Figures, measures_as_features, one_model, taught_table
from real import interval, write_between_marks

from milscope.configs import CELL_WEIGHT
from milscope.store import CellStore

ROUNDS = (10, 50, 100, 150, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"))
    parser.add_argument("--witness", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("runs/verdicts"), help="where measures of cells are kept")
    parser.add_argument("--choose", help="weights of cells to compare on validation slides, instead of all else")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.choose:
        return choose(arguments)
    start, figures, tables = time.perf_counter(), {}, []
    for title, cases in sets(arguments):
        figures[title] = [one_case(case) for case in cases]
        tables.append(table(title, figures[title]))
        print(tables[-1], f"\n{time.perf_counter() - start:.0f} s so far\n", flush=True)
    for title, kinds, cases in taught(arguments):
        figures[title] = [one_model(case, run, kinds, CELL_WEIGHT) for run, case in cases.items()]
        tables.append(taught_table(title, figures[title]))
        print(tables[-1], f"\n{time.perf_counter() - start:.0f} s so far\n", flush=True)
    if arguments.docs:
        write_between_marks(arguments.docs, "\n\n".join(tables), "verdicts")
    if arguments.json:
        machine = {"machine": platform.machine(), "seconds": time.perf_counter() - start, "figures": figures, "ratios": {},
                   "versions": {each: version(each) for each in ("milscope", "scikit-learn")}}
        arguments.json.write_text(json.dumps(machine, indent=1))
    return None


def malaria(arguments: argparse.Namespace) -> tuple[list[Path], pd.DataFrame]:
    truth = pd.read_csv(arguments.data / "malaria/cell_truth.csv").rename(columns={"parasitized": "witness"})
    return sorted((arguments.runs / "malaria").glob("seed-*")), truth


def sets(arguments: argparse.Namespace) -> Iterator[tuple[str, list[Case]]]:
    """What is ranked anew, with its title."""
    runs, truth = malaria(arguments)
    for what in ("measures of pixels", "SLAM-AGS features"):
        yield (f"Malaria as it is, ranked by SLAM-AGS; learned on {what}",
               [Case(run / "predict", CellStore(runs[0] / "tile"), slide_table(run / "slides.csv", run / "predict"), truth,
                     arguments.cache / "malaria", run / "encode" if "features" in what else None) for run in runs])
    for rate in ("0.02", "0.005") if arguments.witness else ():
        for method in ("slam-ags", "seek"):
            homes = [path.parents[2] for path in sorted(arguments.witness.glob(f"[0-9]*/{rate}/{method}/scores/slides.csv"))]
            yield (f"Malaria cells drawn at {float(rate):.1%} abnormal, ranked by {method}; learned on measures of pixels",
                   [Case(home / method / "scores", CellStore(home / "cells"),
                         slide_table(home / "slides.csv", home / method / "scores"), pd.read_csv(home / "truth.csv"),
                         arguments.cache / "-".join(home.parts[-2:])) for home in homes])


def taught(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, tuple[int, ...]], dict[Path, Case]]]:
    """What slide models are trained on, with its title and how many verdicts of which kind; each case by its run."""
    runs, truth = malaria(arguments)
    for what, kinds in (("SLAM-AGS features", {"right": NUMBERS, "wrong": NUMBERS}),
                        ("measures of pixels as features", {"right": (0, 200)})):
        cases = {run: Case(run / "predict", CellStore(runs[0] / "tile"), slide_table(run / "slides.csv", run / "predict"),
                           truth, arguments.cache / "malaria", run / "encode") for run in runs}
        if "measures" in what:
            looks = looks_of(cases[runs[0]]._replace(features=None))
            own = measures_as_features(looks, arguments.cache / "malaria-features")
            cases = {run: case._replace(features=own) for run, case in cases.items()}
        yield f"Malaria as it is: gated ABMIL trained with `--cell-labels`; {what}", kinds, cases


def choose(arguments: argparse.Namespace) -> None:
    """Prints what cell weights gain on validation slides; test slides play no part."""
    for title, _, cases in taught(arguments):
        for weight in (0.0, *map(float, arguments.choose.split(","))):
            numbers = (50, 200) if weight else (0,)
            rows = [one_model(case, run, {"right": numbers}, weight, "validation")["right"] for run, case in cases.items()]
            for number in numbers:
                told = [f"{name} {np.mean([row[number][name] for row in rows]):.3f}" for name in rows[0][number]]
                print(f"{title}; weight {weight:g}, {number} verdicts: {', '.join(told)}", flush=True)


def one_case(case: Case) -> Figures:
    """Every figure, of right verdicts and of some wrong ones, by the number of verdicts."""
    figures: Figures = {}
    first, looks = read_cells(case.scores, case.truth), looks_of(case)
    asked = case.slides[case.slides["split"] != "test"].sort_values("probability", ascending=False)["slide"].tolist()
    plain = Reviewer(asked, 0.0).judge(first, max(NUMBERS))["witness"]
    for name, wrong in (("right", 0.0), ("wrong", WRONG)):
        reviewer, scores = Reviewer(asked, wrong), {0: first}
        now: Cells = first
        for number in ROUNDS:
            verdicts = reviewer.judge(now, number)
            now = scores[number] = ranked_anew(case, first, verdicts, looks)
        met = verdicts["witness"]
        figures[name] = {number: {**measured(case, scores[number]), "met": int(met.iloc[:number].sum()),
                                  "met_plain": int(plain.iloc[:number].sum())} for number in NUMBERS}
    return figures


def table(title: str, rows: list[Figures]) -> str:
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
