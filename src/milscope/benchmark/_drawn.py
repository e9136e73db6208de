"""The charts of a benchmark: figures against witness rate, curves against depth, differences, detection limits."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from milscope.benchmark._summary import CEILING, Summary
from milscope.benchmark._tables import ordered
from milscope.benchmark._words import NAMES, percent
from milscope.metrics import Interval
from milscope.report import DASHES, INK, MUTED, SERIES, SURFACE, Drawing

CHANCE = {"auc": 0.5}
"""What guessing gives: axes of such measures begin below it."""
KNOWN = ("paper", "simclr+svdd")
"""Methods that have a colour wherever they are: the paper's, and the strongest known rival at low rates."""
MARKS = ("o", "s", "^", "D", "v")
Figure = Callable[[float, str], Interval]
"""Rate and method in, figure out."""


class Look(NamedTuple):
    """How a method is drawn: colour, dashes, mark; and the same as SVG has it."""

    method: str
    colour: str
    dash: Any
    mark: str
    variable: str
    dashes: str


def looks(methods: Sequence[str], reference: str, best: Sequence[str]) -> list[Look]:
    """The methods that have a colour: the reference, those of `KNOWN`, the best of the others, and the ceiling.

    Args:
        methods: All that are drawn.
        reference: The first.
        best: Methods in the order of their figures.
    """
    named = [reference, *(name for name in KNOWN if name in methods and name != reference)]
    named += [name for name in best if name in methods and name not in (*named, CEILING)][:len(SERIES) - 1 - len(named)]
    found = [Look(name, colour, dash, mark, f"series-{place}", _dashes(dash))
             for place, (name, colour, dash, mark) in enumerate(zip(named, SERIES, DASHES, MARKS, strict=False), 1)]
    if CEILING in methods and reference != CEILING:
        found.append(Look(CEILING, INK, DASHES[2], "", "ink", _dashes(DASHES[2])))
    return found


def against_rate(name: str, measure: str, rates: Sequence[float], methods: Sequence[str], look: Sequence[Look], figure: Figure,
                 ) -> Markup:
    """A measure of every method against the witness rate; those without a colour are thin lines.

    Args:
        name: Of the drawing, unique on the page.
        measure: Which.
        rates: The highest first.
        methods: All that are drawn.
        look: Those with a colour.
        figure: Tells the measure.
    """
    with Drawing(name, f"{NAMES[measure]} of each method against witness rate", 4.2, 3.5) as drawing:
        axes = drawing.axes
        coloured = {each.method for each in look}
        for method in methods:
            if method not in coloured:
                _line(axes, rates, [figure(rate, method) for rate in rates], color=MUTED, linewidth=0.9, alpha=0.55)
        for each in reversed(look):
            found = [figure(rate, each.method) for rate in rates]
            if each.colour != INK:
                _fill(axes, rates, found, each.colour, 0.22 if each is look[0] else 0.1)
            _line(axes, rates, found, color=each.colour, linestyle=each.dash, marker=each.mark, markersize=5.5,
                  linewidth=2.4 if each is look[0] else 1.7, clip_on=False)
        if measure == "auc":
            axes.axhline(0.9, color=MUTED, linewidth=1, linestyle=DASHES[2])
        axes.set(xscale="log", ylim=(_lowest(measure, rates, methods, figure), 1.01), ylabel=NAMES[measure],
                 xlabel="witness rate: abnormal cells of a positive slide, %")
        axes.xaxis.set_major_locator(FixedLocator(list(rates)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.3g}"))
        axes.set_xlim(min(rates) / 1.15, max(rates) * 1.15)
    return drawing.svg


def against_depth(name: str, summary: Summary, rate: float, kind: str, look: Sequence[Look]) -> Markup:
    """Recall or precision among the first k cells of a slide, at one rate.

    Args:
        name: Of the drawing, unique on the page.
        summary: The benchmark.
        rate: Which of its rates.
        kind: recall or precision.
        look: The methods drawn; the first with its band.
    """
    with Drawing(name, f"{kind}@k of each method at a witness rate of {percent(rate)}", 3.7, 2.9) as drawing:
        axes = drawing.axes
        for each in reversed(look):
            curve = summary.curves.get((rate, each.method))
            if curve is None:
                continue
            found = getattr(curve, kind)
            if each is look[0]:
                _fill(axes, curve.k, found, each.colour, 0.22)
            _line(axes, curve.k, found, color=each.colour, linestyle=each.dash, linewidth=2.4 if each is look[0] else 1.6)
        most = max(curve.k[-1] for (at, _), curve in summary.curves.items() if at == rate)
        chance = np.geomspace(1, most, 40)
        axes.plot(chance, chance / most if kind == "recall" else np.full(40, rate), color=MUTED, linewidth=1,
                  linestyle=DASHES[1])
        axes.set(xscale="log", xlim=(1, most), ylim=(-0.01, 1.02), xlabel="cells looked at on a slide (k)", ylabel=f"{kind}@k")
        axes.xaxis.set_major_locator(FixedLocator([k for k in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if k <= most]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:,.0f}"))
    return drawing.svg


def differences(name: str, summary: Summary, rate: float, measure: str) -> Markup | None:
    """The reference less every other method, each with its interval; None if there is nothing to compare."""
    rows = summary.differences
    own = rows[(rows["rate"] == rate) & (rows["measure"] == measure) & rows["difference"].notna()].set_index("method")
    methods = [method for method in ordered(summary, measure) if method in own.index]
    if not methods:
        return None
    title = f"{NAMES[measure]} of {summary.reference} less that of each other method at a witness rate of {percent(rate)}"
    with Drawing(name, title, 4.2, 0.9 + 0.24 * len(methods)) as drawing:
        axes = drawing.axes
        axes.axvline(0, color=INK, linewidth=1, linestyle=DASHES[1])
        for row, method in enumerate(methods):
            value, low, high = own.loc[method, ["difference", "low", "high"]].astype(float)
            apart = low > 0 or high < 0
            colour = MUTED if method == CEILING else SERIES[0] if not apart or value > 0 else SERIES[1]
            axes.plot([low, high], [row, row], color=colour, linewidth=2)
            axes.plot(value, row, "o", color=colour, markersize=6, markerfacecolor=colour if apart else SURFACE,
                      markeredgewidth=1.6)
        _rows(axes, methods)
        axes.set_xlabel(f"{NAMES[measure]}: {summary.reference} less the other")
        axes.set_xlim(min(-0.05, axes.get_xlim()[0]), max(0.05, axes.get_xlim()[1]))
    return drawing.svg


def limits(name: str, summary: Summary) -> Markup:
    """Down to which rate each method tells slides apart: a bar from the highest rate to its detection limit."""
    methods = ordered(summary, "auc")
    rates = summary.grid.rates
    with Drawing(name, "Detection limit of each method", 4.2, 0.9 + 0.26 * len(methods)) as drawing:
        axes = drawing.axes
        for row, method in enumerate(methods):
            limit = summary.limit(method)
            colour = SERIES[0] if method == summary.reference else MUTED
            if np.isfinite(limit):
                axes.plot([max(rates) * 1.15, limit], [row, row], color=colour, linewidth=4.5, alpha=0.55,
                          solid_capstyle="butt")
                axes.plot(limit, row, "o", color=colour, markersize=7)
            else:
                axes.text(max(rates) * 1.1, row, "none", color=INK, va="center", ha="right")
        _rows(axes, methods)
        axes.set(xscale="log", xlim=(min(rates) / 1.3, max(rates) * 1.15), xlabel="detection limit: witness rate, %")
        axes.xaxis.set_major_locator(FixedLocator(list(rates)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:.3g}"))
    return drawing.svg


def _lowest(measure: str, rates: Sequence[float], methods: Sequence[str], figure: Figure) -> float:
    """Where the axis of a measure begins: below all values."""
    if measure not in CHANCE:
        return -0.01
    values = [figure(rate, method).value - 0.03 for rate in rates for method in methods]
    return float(np.nanmin([CHANCE[measure] - 0.1, *values]))


def _line(axes: Axes, x: Sequence[float], found: Iterable[Interval], **style: Any) -> None:  # noqa: ANN401
    axes.plot(x, [each.value for each in found], **style)


def _fill(axes: Axes, x: Sequence[float], found: Sequence[Interval], colour: str, alpha: float) -> None:
    low, high = np.array([[each.low, each.high] for each in found], dtype=float).T
    axes.fill_between(np.asarray(x, dtype=float), low, high, color=colour, alpha=alpha, linewidth=0)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _dashes(dash: Any) -> str:  # noqa: ANN401 - a matplotlib dash
    return "" if dash == "-" else " ".join(f"{2 * length:g}" for length in dash[1])
