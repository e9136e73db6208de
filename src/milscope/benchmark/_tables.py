"""A benchmark as tables: CSV with all numbers, Markdown with the main ones, and the worst of several benchmarks."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from milscope.benchmark._summary import CEILING, Summary
from milscope.benchmark._words import MAIN, duration, limit_words, percent, sentences, titled, told, warnings
from milscope.store import write_text

TABLES = {"figures": "table.csv", "differences": "differences.csv", "methods": "methods.csv", "words": "table.md"}


def write_tables(summary: Summary, out: Path) -> None:
    """Writes table.csv (figures), differences.csv, methods.csv (detection limit, cost) and table.md."""
    write_text(out / TABLES["figures"], summary.figures.to_csv(index=False))
    write_text(out / TABLES["differences"], summary.differences.to_csv(index=False))
    write_text(out / TABLES["methods"], summary.limits.to_csv(index=False))
    write_text(out / TABLES["words"], markdown(summary))


def markdown(summary: Summary) -> str:
    """The sentences, a table of each main measure, and that of detection limits and costs."""
    parts = [f"# {summary.grid.name}: methods by witness rate", *sentences(summary)]
    parts += [f"**Read with care.** {warning}" for warning in warnings(summary)]
    for measure in MAIN:
        rows = [[f"`{name}`", *(told(summary.figure(rate, name, measure)) for rate in summary.grid.rates)]
                for name in ordered(summary, measure)]
        parts += [f"## {titled(measure)} by witness rate",
                  _table(["method", *map(percent, summary.grid.rates)], rows)]
    head = ["method", "detection limit", "time of one result", "encoder images"]
    rows = [[f"`{method}`", *told_of] for method, *told_of in costs(summary)]
    parts += ["## Detection limit and cost", _table(head, rows)]
    return "\n\n".join(parts) + "\n"


def costs(summary: Summary) -> list[list[str]]:
    """Of each method its name, detection limit, time of a result and encoder images."""
    return [[row["method"], limit_words(summary, row["method"]), duration(row["seconds"]),
             f"{row['images']:,.0f}" if np.isfinite(row["images"]) else "–"] for row in summary.limits.to_dict("records")]


def ordered(summary: Summary, measure: str) -> list[str]:
    """The methods with results, best mean over the rates first; the ceiling last."""
    rows = summary.figures[summary.figures["measure"] == measure]
    means = rows.groupby("method")["value"].mean().fillna(-np.inf)
    names = sorted(means.index, key=lambda name: (-means[name], name))
    return [name for name in names if name != CEILING] + [name for name in names if name == CEILING]


def worst(summaries: Sequence[Summary], measures: Iterable[str] = MAIN) -> pd.DataFrame:
    """Of each rate, method and measure the lowest value over several benchmarks: rate, method, measure, value, low, high, name.

    Only rates and methods that all of them have.
    """
    rates = [rate for rate in summaries[0].grid.rates if all(rate in each.grid.rates for each in summaries)]
    methods = [name for name in summaries[0].grid.methods if all(name in each.grid.methods for each in summaries)]
    rows = []
    for rate in rates:
        for method in methods:
            for measure in measures:
                found = [(each.figure(rate, method, measure), each.grid.name) for each in summaries]
                if all(np.isfinite(figure.value) for figure, _ in found):
                    figure, name = min(found, key=lambda pair: pair[0].value)
                    rows.append({"rate": rate, "method": method, "measure": measure, **figure._asdict(), "name": name})
    return pd.DataFrame(rows, columns=["rate", "method", "measure", "value", "low", "high", "name"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
