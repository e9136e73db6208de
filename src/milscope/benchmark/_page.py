"""The page of one or several benchmarks: what each method finds at each witness rate, and what it misses."""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from milscope.benchmark._drawn import Look, against_depth, against_rate, differences, limits, looks
from milscope.benchmark._examples import Examples, examples
from milscope.benchmark._summary import CEILING, Summary, summarise
from milscope.benchmark._tables import costs, ordered, worst
from milscope.benchmark._words import (
    MAIN,
    MEANINGS,
    NAMES,
    percent,
    sentences,
    titled,
    told,
    warnings,
    worst_sentences,
)
from milscope.metrics import Bootstrap, Interval
from milscope.report import Chart
from milscope.store import write_text
from milscope.types import refuse

PAGE = "index.html"
OTHERS = tuple(name for name in NAMES if name not in MAIN)
"""The measures told in a table that is opened."""
COMPARED = ("recall_at_10", "auc")
"""The measures of which differences are drawn."""


class Table(NamedTuple):
    """A measure at each witness rate: what it is, its columns, and rows of a name and cells (text, and whether the best)."""

    caption: str
    note: str
    head: str
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


class Part(NamedTuple):
    """What the page shows of one benchmark; `suffix` makes its anchors its own."""

    name: str
    suffix: str
    reference: str
    sentences: list[str]
    warnings: list[str]
    key: list[Look]
    against_rate: list[Chart]
    tables: list[Table]
    others: list[Table]
    depth: list[Chart]
    limits: Markup
    costs: list[tuple[str, list[str]]]
    differences: list[Chart]
    examples: list[Examples]
    gaps: list[str]
    settings: list[tuple[str, str]]


class Together(NamedTuple):
    """The worst of several benchmarks."""

    sentences: list[str]
    key: list[Look]
    charts: list[Chart]
    tables: list[Table]


def write_page(directories: Sequence[Path | str], page: Path | str, bootstrap: Bootstrap | None = None) -> Path:
    """Writes one HTML file that needs nothing else; of several benchmarks it tells the worst first.

    Args:
        directories: What `milscope benchmark witness` writes, finished or not.
        page: The file.
        bootstrap: How intervals are made.

    Raises:
        InputError: If there is no directory, one has no result, or two have one name.
    """
    summaries = [summarise(directory, bootstrap) for directory in directories]
    names = [summary.grid.name for summary in summaries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if not summaries or twice is not None:
        raise refuse("benchmarks", "one or more directories, each of its own name",
                     f"`{twice}` twice" if twice is not None else "none", "Rename a directory, or name each once.")
    write_text(Path(page), page_text(summaries))
    return Path(page)


def page_text(summaries: Sequence[Summary]) -> str:
    """The page as HTML text."""
    look = files("milscope.report").joinpath("page.css").read_text(encoding="utf-8")
    template = files("milscope.benchmark").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "code": _code}
    parts = [_part(summary, f"-{place}" if len(summaries) > 1 else "") for place, summary in enumerate(summaries, 1)]
    return environment.from_string(template).render(
        parts=parts, together=_together(summaries) if len(summaries) > 1 else None, style=Markup(look),
        confidence=f"{100 * summaries[0].bootstrap.confidence:g} %", ceiling=CEILING)


def _part(summary: Summary, suffix: str) -> Part:
    grid, methods = summary.grid, ordered(summary, "recall_at_10")
    key = looks(methods, summary.reference, methods)
    return Part(
        grid.name, suffix, summary.reference, sentences(summary), list(warnings(summary)), key,
        against_rate=list(_rates(summary, methods, key, suffix)),
        tables=[_table(summary, measure) for measure in MAIN],
        others=[_table(summary, measure) for measure in OTHERS if (summary.figures["measure"] == measure).any()],
        depth=list(_depth(summary, key, suffix)),
        limits=limits(f"limits{suffix}", summary),
        costs=[(name, [*row, f"{count:,}"])
               for (name, *row), count in zip(costs(summary), summary.limits["results"], strict=True)],
        differences=list(_differences(summary, suffix)),
        examples=examples(grid, summary.reference),
        gaps=[*(f"{method}, {percent(rate)}, seed {seed}: failed, {why}" for (seed, rate, method), why in grid.failed.items()),
              *(f"{method}, {percent(rate)}, seed {seed}: not there yet" for seed, rate, method in grid.missing)],
        settings=[(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
                  for name, value in _settings(grid.plan)],
    )


def _settings(plan: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in plan.items():
        yield from value.items() if isinstance(value, dict) else [(name, value)]


def _rates(summary: Summary, methods: Sequence[str], key: Sequence[Look], suffix: str) -> Iterator[Chart]:
    for measure in MAIN:
        svg = against_rate(f"rate{suffix}-{measure}", measure, summary.grid.rates, methods, key,
                           lambda rate, name, measure=measure: summary.figure(rate, name, measure))
        yield Chart(titled(measure), svg, _sentence(measure))


def _table(summary: Summary, measure: str) -> Table:
    rates = summary.grid.rates
    values = {name: [summary.figure(rate, name, measure) for rate in rates] for name in ordered(summary, measure)}
    return _filled(measure, [percent(rate) for rate in rates], {name: [(told(found), found.value) for found in row]
                                                               for name, row in values.items()})


def _filled(measure: str, columns: list[str], cells: dict[str, list[tuple[str, float]]]) -> Table:
    """The table; of each column the best that is not the ceiling is marked."""
    best = [max((row[place][1] for name, row in cells.items() if name != CEILING and np.isfinite(row[place][1])),
                default=np.inf) for place in range(len(columns))]
    rows = [(name, [(text, name != CEILING and value >= top) for (text, value), top in zip(row, best, strict=True)])
            for name, row in cells.items()]
    note = f"{_sentence(measure)} ◂ marks the best of a column{f', `{CEILING}` left out' if CEILING in cells else ''}."
    return Table(f"{titled(measure)} by witness rate", note, "method", columns, rows)


def _depth(summary: Summary, key: Sequence[Look], suffix: str) -> Iterator[Chart]:
    readings = {"recall": "share of a slide's witnesses among the first k cells", "precision": "share of witnesses among them"}
    for rate in summary.grid.rates:
        if not any(at == rate for at, _ in summary.curves):
            continue
        for kind, reading in readings.items():
            svg = against_depth(f"depth{suffix}-{kind}-{f'{rate:g}'.replace('.', '_')}", summary, rate, kind, key)
            yield Chart(f"{kind.capitalize()}@k at {percent(rate)}", svg, f"{reading[0].upper()}{reading[1:]}.")


def _differences(summary: Summary, suffix: str) -> Iterator[Chart]:
    for rate in summary.grid.rates:
        for measure in COMPARED:
            svg = differences(f"apart{suffix}-{measure}-{f'{rate:g}'.replace('.', '_')}", summary, rate, measure)
            if svg is not None:
                yield Chart(f"{titled(measure)} at {percent(rate)}", svg, "")


def _together(summaries: Sequence[Summary]) -> Together:
    """The worst of all benchmarks, by method and rate."""
    found = worst(summaries)
    reference = summaries[0].reference
    rates = sorted(found["rate"].unique().tolist(), reverse=True)
    values = {(row["rate"], row["method"], row["measure"]): (Interval(row["value"], row["low"], row["high"]), row["name"])
              for row in found.to_dict("records")}
    unknown = (Interval(np.nan, np.nan, np.nan), "")
    means = found[found["measure"] == "recall_at_10"].groupby("method")["value"].mean().sort_values(ascending=False)
    methods = [name for name in means.index if name != CEILING] + [name for name in means.index if name == CEILING]
    key = looks(methods, reference, methods)
    charts = [Chart(f"{titled(measure)}, worst of all sets",
                    against_rate(f"worst-{measure}", measure, rates, methods, key,
                                 lambda rate, name, measure=measure: values.get((rate, name, measure), unknown)[0]),
                    f"{_sentence(measure)} Each method on the set where it is worst.") for measure in MAIN]
    tables = [_filled(measure, [percent(rate) for rate in rates],
                      {name: [_cell(*values.get((rate, name, measure), unknown)) for rate in rates] for name in methods})
              for measure in MAIN]
    tables = [each._replace(caption=f"{each.caption}, worst of all sets") for each in tables]
    by_set = [_by_set(summaries, reference, rates, measure) for measure in ("recall_at_10", "auc")]
    return Together(worst_sentences(found, summaries), key, charts, [*by_set, *tables])


def _by_set(summaries: Sequence[Summary], reference: str, rates: Sequence[float], measure: str) -> Table:
    """A measure of the reference on each set."""
    rows = [(each.grid.name, [(told(each.figure(rate, reference, measure)), False) for rate in rates]) for each in summaries]
    caption = f"{titled(measure)} of {reference} on each set"
    return Table(caption, _sentence(measure), "set", [percent(rate) for rate in rates], rows)


def _sentence(measure: str) -> str:
    return f"{MEANINGS[measure][0].upper()}{MEANINGS[measure][1:]}."


def _cell(found: Interval, name: str) -> tuple[str, float]:
    return (f"{told(found)} {name}", found.value) if np.isfinite(found.value) else ("–", np.nan)


def _code(text: str) -> Markup:
    """Text whose words between backquotes are code."""
    parts = [Markup("<code>{}</code>").format(part) if place % 2 else Markup("{}").format(part)
             for place, part in enumerate(text.split("`"))]
    return Markup().join(parts)
