"""The page's charts: small SVG drawings that take their colours from the page, so that they follow light and dark."""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from milscope.report._words import Naming

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface",
             **{colour: f"series-{place}" for place, colour in enumerate(SERIES, 1)}}
NORMAL, ABNORMAL = SERIES[0], SERIES[1]
PLAIN = Naming()
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (7, 2, 1, 2)), (0, (3, 1)))
DOTS_AT_MOST = 240
DOT_WIDTH = 0.03
ALL_FOUND = 0.9995
STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "font.size": 10.5, "legend.fontsize": 10, "legend.frameon": True,
    "legend.facecolor": SURFACE, "legend.edgecolor": "none", "legend.framealpha": 1,
    "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.linewidth": 0.8, "axes.axisbelow": True,
    "lines.linewidth": 1.9, "figure.facecolor": "none", "axes.facecolor": "none", "xtick.labelsize": 10, "ytick.labelsize": 10,
}


class Chart(NamedTuple):
    """A drawing and how to read it."""

    title: str
    svg: Markup
    reading: str


class Line(NamedTuple):
    """One curve of a chart over epochs."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def roc(curve: dict[str, Any], operating: tuple[float, float] | None, named: Naming = PLAIN) -> Markup:
    """Sensitivity against the share of normal slides called abnormal, with its band.

    Args:
        curve: false_positive_rate, sensitivity, and a band of the same with low and high, each in 0..1.
        operating: Where the chosen threshold lies: (1 - specificity, sensitivity).
        named: What slides are called.
    """
    with Drawing(f"{named.prefix}roc", "ROC curve: sensitivity against false alarms, test slides", 4.2, 3.7) as drawing:
        _unit_square(drawing.axes, named.said("normal slides called abnormal (1 − specificity)"),
                     named.said("abnormal slides found (sensitivity)"))
        drawing.axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHES[1], label="guessing")
        _band(drawing.axes, curve.get("band") or {}, "false_positive_rate")
        drawing.axes.plot(curve["false_positive_rate"], curve["sensitivity"], color=SERIES[0], label="this model")
        if operating:
            drawing.axes.plot(*operating, "o", color=ABNORMAL, markersize=7, label="at the threshold", clip_on=False)
        drawing.axes.legend(loc="lower right")
    return drawing.svg


def precision_recall(curve: dict[str, Any], named: Naming = PLAIN) -> Markup:
    """How many of the slides called abnormal are abnormal, against how many of those are found.

    Args:
        curve: recall, precision, prevalence, and a band of the same with low and high, each in 0..1.
        named: What slides are called.
    """
    with Drawing(f"{named.prefix}pr", "Precision-recall curve, test slides", 4.2, 3.7) as drawing:
        _unit_square(drawing.axes, named.said("abnormal slides found (recall)"),
                     named.said("called slides truly abnormal (precision)"))
        if "prevalence" in curve:
            drawing.axes.axhline(curve["prevalence"], color=MUTED, linewidth=1, linestyle=DASHES[1], label="guessing")
        _band(drawing.axes, curve.get("band") or {}, "recall")
        whole = next((place for place, recall in enumerate(curve["recall"], 1) if recall >= 1), None)  # then: only false calls
        x, y = curve["recall"][:whole], curve["precision"][:whole]
        drawing.axes.plot(x, y, color=SERIES[0], label="this model", drawstyle="steps-pre")
        drawing.axes.legend(loc="lower left")
    return drawing.svg


def calibration(curve: dict[str, Any], named: Naming = PLAIN) -> Markup:
    """How many slides of about the same probability are abnormal, against that probability; vertical lines are intervals.

    Args:
        curve: probability and share in groups of slides, low and high of the share, each in 0..1; None where undefined.
        named: What slides are called.
    """
    title = named.said("Calibration: share of abnormal test slides against told probability")
    with Drawing(f"{named.prefix}calibration", title, 4.2, 3.7) as drawing:
        _unit_square(drawing.axes, "probability that was told, group by group",
                     named.said("share of the group that is abnormal"))
        drawing.axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=DASHES[1], label="every probability true")
        told, share, low, high = (np.asarray(curve[name], float) for name in ("probability", "share", "low", "high"))
        drawing.axes.vlines(told, low, high, color=SERIES[0], alpha=0.45, linewidth=3, label="interval")
        drawing.axes.plot(told, share, color=SERIES[0], marker="o", clip_on=False, label="this model")
        drawing.axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1), ncols=3, columnspacing=1, handlelength=1.4,
                            handletextpad=0.5)  # above: with few slides lines may be anywhere
    return drawing.svg


def recall_at(curve: dict[str, Any], chance: float | None, named: Naming = PLAIN) -> Markup:
    """Share of a slide's abnormal cells that are among the first k shown.

    Args:
        curve: k, value and the band's low, high.
        chance: Share of a slide's cells that one cell is, on average: what drawing cells blindly adds per cell.
        named: What cells are called.
    """
    with Drawing(f"{named.prefix}recall", named.said("Abnormal cells found among the first k shown"), 4.2, 3.7) as drawing:
        axes, ks, values = drawing.axes, np.asarray(curve["k"], float), np.asarray(curve["value"], float)
        axes.set(xlabel="cells looked at per slide (k)", ylabel=named.said("share of abnormal cells found"), ylim=(0, 1.02))
        axes.set_xlim(0, ks[min(int(np.sum(values < ALL_FOUND)), len(ks) - 1)] * 1.03)
        if chance is not None:
            axes.plot([0, *ks], np.minimum(1, chance * np.array([0, *ks])), color=MUTED, linewidth=1,
                      linestyle=DASHES[1], label="looking at random")
        _band(axes, curve, "k")
        axes.plot(ks, values, color=SERIES[0], label="this ranking", marker="o" if len(ks) < 8 else "")
        axes.legend(loc="upper left" if np.nanmax(values) < 0.5 else "lower right")
    return drawing.svg


def scores(normal: Sequence[float], abnormal: Sequence[float], threshold: float, named: Naming = PLAIN) -> Markup:
    """One dot per slide at its probability, normal below and abnormal above; bars when there are too many for dots."""
    with Drawing(f"{named.prefix}scores", named.said("Probabilities of normal and abnormal test slides"), 4.2, 3.7) as drawing:
        axes, dots = drawing.axes, len(normal) + len(abnormal) <= DOTS_AT_MOST
        place = _swarm if dots else _bars
        heights = {side: place(np.sort(values)) for side, values in ((1, abnormal), (-1, normal))}
        tallest = max(3, *(y.max(initial=0) for _, y in heights.values()))
        for side, values, colour, name in ((1, abnormal, ABNORMAL, named.yes), (-1, normal, NORMAL, named.no)):
            x, y = heights[side]
            if dots:
                axes.plot(x, side * y, "o", color=colour, markersize=max(2.5, min(7, 100 / tallest)), clip_on=False)
            else:
                axes.bar(x, side * y, width=0.036, color=colour)
            axes.text(0, side * tallest * 1.22, f"{name} slides ({len(values):,})", color=colour, va="center", weight="bold")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=DASHES[1])
        right = threshold < 0.7
        axes.annotate(f"threshold {threshold:.2g}", (threshold, -tallest * 1.45), (5 if right else -5, 0),
                      textcoords="offset points", ha="left" if right else "right", va="center")
        axes.set(xlim=(-0.02, 1.02), ylim=(-tallest * 1.6, tallest * 1.4),
                 xlabel=named.said("probability that the slide is abnormal"))
        axes.set_yticks([])
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
    return drawing.svg


def epochs(name: str, title: str, lines: Sequence[Line], *, reference: tuple[float, str] | None = None,
           limits: tuple[float, float] | None = None) -> Markup:
    """Quantities over the passes of training.

    Args:
        name: A name for the drawing, unique on the page.
        title: What the drawing shows, for those who cannot see it, and its vertical axis.
        lines: The curves, told apart by colour and dashes.
        reference: A height to compare with, and what it means.
        limits: Least and greatest value of the vertical axis.
    """
    with Drawing(name, f"{title} in every pass of training", 3.5, 2.5) as drawing:
        axes = drawing.axes
        for line, colour, dash in zip(lines, SERIES, DASHES, strict=False):
            mark = "o" if len(line.x) == 1 else ""
            axes.plot(line.x, line.y, color=colour, linestyle=dash, label=line.label, marker=mark)
        if reference:
            axes.axhline(reference[0], color=MUTED, linewidth=1, linestyle=DASHES[2], label=reference[1])
        axes.set(xlabel="pass over the training cells" if name.startswith("pretrain") else "pass over the training slides")
        axes.set_ylabel(title)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        if limits:
            axes.set_ylim(*limits)
        if len(lines) > 1 or reference:
            axes.legend(loc="best", handlelength=2.4)
    return drawing.svg


def lines_of(frame: pd.DataFrame, columns: dict[str, str], prefix: str = "") -> list[Line]:
    """The curves of those columns (column → label) that are there and hold a number."""
    kept = [name for name in columns if name in frame and np.isfinite(frame[name].astype(float)).any()]
    return [Line(prefix + columns[name], frame["epoch"].tolist(), frame[name].astype(float).tolist()) for name in kept]


class Drawing:
    """One figure; on leaving, `svg` is its markup, with colours as variables and ids unique to the drawing."""

    def __init__(self, name: str, title: str, width: float, height: float) -> None:
        self.name, self.title, self.size = name, title, (width, height)
        self.svg = Markup()

    def __enter__(self) -> "Drawing":
        style: Any = {**STYLE, "svg.hashsalt": self.name}
        self._style = mpl.rc_context(style)
        self._style.__enter__()
        self.figure = Figure(figsize=self.size, dpi=72, layout="constrained")
        self.axes: Axes = self.figure.add_subplot()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                text = io.StringIO()
                FigureCanvasSVG(self.figure).print_svg(text, metadata={"Date": None, "Creator": None})
                self.svg = inlined(text.getvalue(), self.name, self.title)
        finally:
            self._style.__exit__(None, None, None)


def inlined(svg: str, name: str, title: str) -> Markup:
    """An SVG file as part of a page: no prolog, no global style, own ids, colours of the page, a title to be read."""
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", svg[svg.index("<svg"):], flags=re.DOTALL)
    used = set(re.findall(r"[(\"]#([\w-]+)[)\"]", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"([(\"])#([\w-]+)(?=[)\"])", rf"\1#{name}-\2", svg).replace("xlink:href", "href")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"font-family: [^;\"]*;? ?| transform=\"rotate\(-0 [^\"]*\"", "", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    head = f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="{box[1] if box else "0 0 1 1"}">'
    return Markup(re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1:]))


def _swarm(values: Float[np.ndarray, " slide"]) -> tuple[Float[np.ndarray, " slide"], Float[np.ndarray, " slide"]]:
    """Each sorted value at the lowest height where it does not touch another."""
    rows: list[float] = []
    heights = np.zeros(len(values))
    for place, value in enumerate(values):
        row = next((row for row, last in enumerate(rows) if value - last >= DOT_WIDTH), len(rows))
        rows[row:row + 1] = [value]
        heights[place] = row + 0.7
    return values, heights


def _bars(values: Float[np.ndarray, " slide"]) -> tuple[Float[np.ndarray, " bin"], Float[np.ndarray, " bin"]]:
    edges = np.linspace(0, 1, 26)
    return (edges[:-1] + edges[1:]) / 2, np.histogram(values, edges)[0].astype(float)


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))


def _band(axes: Axes, band: dict[str, Any], x: str) -> None:
    low, high = (np.asarray(band.get(name) or [], float) for name in ("low", "high"))
    if len(low) and len(low) == len(high) == len(band.get(x) or []):
        axes.fill_between(np.asarray(band[x], float), low, high, color=SERIES[0], alpha=0.22, linewidth=0, label="interval")
