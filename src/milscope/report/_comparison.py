"""The page of a comparison: several models side by side."""

from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from milscope.report._charts import ABNORMAL, DASHES, INK, MUTED, NORMAL, SURFACE, Chart, Drawing

Bounded = tuple[float, float, float]
"""A value, and the bounds of its interval."""


class ComparedModel(NamedTuple):
    """One model: its figure, what that was in each repetition, how it differs from the first model's, its row of the table."""

    name: str
    value: Bounded
    repeated: Sequence[float]
    difference: Bounded | None
    apart: bool
    """Whether it is told from the first model."""
    cells: Sequence[str]


class ComparisonPage(NamedTuple):
    """What the page tells."""

    task: str
    measure: str
    sentences: Sequence[str]
    warnings: Sequence[str]
    columns: Sequence[str]
    models: Sequence[ComparedModel]
    settings: Sequence[tuple[str, str, str]]
    """Name, value and meaning."""


def comparison_page(page: ComparisonPage) -> str:
    """The page as HTML text; it needs no network, no other file and no JavaScript."""
    folder = files("milscope.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(folder.joinpath("comparison.html.j2").read_text(encoding="utf-8")).render(
        page=page, style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        charts=[_values(page), _differences(page)])


def _values(page: ComparisonPage) -> Chart:
    """Every model's figure with its interval, and what it was in each repetition."""
    with Drawing("values", f"{page.measure} of each model with its interval", 4.6, _height(page.models)) as drawing:
        axes = drawing.axes
        for row, model in enumerate(page.models):
            axes.plot(model.repeated, np.full(len(model.repeated), row + 0.22), "|", color=MUTED, markersize=6)
            _bar(axes, row, model.value, NORMAL, filled=True)
        _name_rows(axes, [model.name for model in page.models])
        axes.set_xlabel(page.measure)
    return Chart(f"{page.measure} of each model", drawing.svg,
                 "The dot is the mean over repetitions, the line its interval: how far it may move with other patients of the "
                 "same kind and other seeds. Small strokes are the single repetitions.")


def _differences(page: ComparisonPage) -> Chart:
    """How every other model differs from the first."""
    first, others = page.models[0], page.models[1:]
    with Drawing("differences", f"Difference in {page.measure} to {first.name}", 4.6, _height(others)) as drawing:
        axes = drawing.axes
        axes.axvline(0, color=INK, linewidth=1, linestyle=DASHES[1])
        for row, model in enumerate(others):
            if model.difference is not None:
                _bar(axes, row, model.difference, ABNORMAL if model.apart else NORMAL, filled=model.apart)
        _name_rows(axes, [model.name for model in others])
        axes.set_xlabel(f"{page.measure} less that of {first.name}")
    return Chart(f"Better or worse than {first.name}?", drawing.svg,
                 "Both models were judged on the same patients in the same folds, which is why these intervals are narrower. "
                 "A full dot is told apart from no difference, as many models as there are; an open one is not.")


def _bar(axes: Axes, row: int, interval: Bounded, colour: str, *, filled: bool) -> None:
    value, low, high = interval
    axes.plot([low, high], [row, row], color=colour, linewidth=2)
    axes.plot(value, row, "o", color=colour, markersize=7.5, markerfacecolor=colour if filled else SURFACE, markeredgewidth=1.8)


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _height(models: Sequence[ComparedModel]) -> float:
    return 0.8 + 0.34 * len(models)
