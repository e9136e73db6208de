"""The page's parts, put into its template."""

import base64
import hashlib
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from milscope.configs import STAGES, ReportConfig
from milscope.report import _charts as charts
from milscope.report import _words as words
from milscope.report._cards import cards
from milscope.report._charts import Chart
from milscope.report._gather import Gathered, known
from milscope.report._learning import pretraining, training
from milscope.report._read import failures, findings, kept_pictures
from milscope.report._tasks import confused, measured
from milscope.types import SPLITS

PACKAGES = ("milscope", "torch", "timm", "numpy", "pandas", "scikit-learn", "pyarrow", "openslide-python")


class Setting(NamedTuple):
    """One setting of a stage."""

    name: str
    value: str
    meaning: str


def render(run: Gathered, config: ReportConfig, advance: Callable[[int], None]) -> str:
    """The page as HTML text; `advance(1)` after each slide that is shown with its cells."""
    folder = files("milscope.report")
    script = folder.joinpath("page.js").read_text(encoding="utf-8").strip()
    environment = jinja2.Environment(loader=jinja2.PackageLoader("milscope.report", "."), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": words.number, "percent": words.percent, "count": words.count, "score": words.score}
    environment.tests["known"] = known
    return environment.get_template("page.html.j2").render(
        title=config.title or run.run.resolve().name,
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        run=run,
        made=min((manifest.created for manifest in run.manifests.values()), default=""),
        words=words,
        split_words=words.SPLIT_WORDS,
        figures=list(_figures(run)),
        warnings=list(words.warnings(run)),
        result_charts=list(_result_charts(run)),
        confusion=run.curves.get("confusion") or {},
        measured=list(measured(run)),
        confused=list(confused(run)),
        cards=list(cards(run, config, advance)),
        kept=list(kept_pictures(run)),
        failures=failures(run),
        findings=findings(run),
        threshold=_threshold(run),
        rank_by=run.manifests["retrieve"].config.get("rank", "attention") if "retrieve" in run.manifests else "",
        recalls=_recalls(run),
        confidence=run.manifests["evaluate"].config.get("confidence") if "evaluate" in run.manifests else None,
        splits=_splits(run.slides),
        pretraining=list(pretraining(run.pretraining)),
        training=list(training(run.training)),
        stages={stage: list(_settings(run, stage)) for stage in run.manifests},
        packages=list(_packages()),
    )


def _figures(run: Gathered) -> Iterator[tuple[str, str, str]]:
    """The few numbers at the top: value, what it counts, detail."""
    slides = run.slides
    yield f"{len(slides):,}", "slides", words.count(slides["patient"].nunique(), "patient")
    if slides["cells"].notna().any():
        yield f"{int(slides['cells'].sum()):,}", "cells", f"{slides['cells'].median():,.0f} on the median slide"
    for name, metric in run.slide_metrics().items():
        if name in ("auc", "sensitivity", "specificity") and known(metric.get("value")):
            title = f"{words.METRICS[name][0]} of test slides"
            yield words.number(metric["value"]), title, words.interval(metric, words.number)
    found = words.first_recall(run)
    if found:
        yield (words.percent(found[1]["value"]), f"of abnormal cells in the first {found[0]}",
               words.interval(found[1], words.percent))


def _result_charts(run: Gathered) -> Iterator[Chart]:
    confusion, test = run.curves.get("confusion") or {}, words.judged(run)
    roc, precision_recall = run.curves.get("roc"), run.curves.get("precision_recall")
    if len(test):
        parts = [test.loc[test["label"] == label, "probability"].tolist() for label in (0, 1)]
        yield Chart("Scores of the test slides", charts.scores(*parts, _threshold(run)),
                    "Abnormal slides are drawn above the line, normal ones below. The better they are told apart, the less "
                    "the two overlap. Slides to the right of the dashed line are called abnormal.")
    if roc:
        yield Chart("Finding abnormal slides", charts.roc(roc, _operating(confusion)),
                    "Lowering the threshold finds more abnormal slides (up) but also calls more normal ones abnormal "
                    "(right). A good model bends to the upper left corner.")
    if precision_recall:
        yield Chart("Trusting a call", charts.precision_recall(precision_recall),
                    "The more of the abnormal slides are to be found (right), the more false calls come with them (down). "
                    "The share depends on how common abnormal slides are here.")
    calibration = run.curves.get("calibration")
    if calibration and any(map(known, calibration["share"])):
        yield Chart("Believing a probability", charts.calibration(calibration),
                    "Slides are put into groups of like probability. Of slides at 30 %, three of ten should be abnormal: dots "
                    "on the dashed line are as good as their word, above it the probability was too low, below too high. "
                    "With few slides the intervals are wide and the dots jump.")
    depth = run.curves.get("recall_at")
    if depth and any(map(known, depth["value"])):
        sizes = test.loc[(test["label"] == 1) & (test["cells"] > 0), "cells"]
        yield Chart("Finding the abnormal cells", charts.recall_at(depth, float((1 / sizes).mean()) if len(sizes) else None),
                    "Someone who looks at the first k cells of an abnormal slide has seen this share of its abnormal "
                    "cells. The dashed line is what looking at random cells would show.")


def _recalls(run: Gathered) -> list[str]:
    """The column of each slide's recall that the headline speaks of, if cells were judged."""
    found = words.first_recall(run)
    name = f"recall_at_{found[0]}" if found else ""
    return [name] if name in run.slides else []


def _operating(confusion: dict[str, int]) -> tuple[float, float] | None:
    try:
        positives = confusion["true_positive"] + confusion["false_negative"]
        negatives = confusion["false_positive"] + confusion["true_negative"]
        return confusion["false_positive"] / negatives, confusion["true_positive"] / positives
    except (KeyError, ZeroDivisionError):
        return None


def _threshold(run: Gathered) -> float:
    predict = run.manifests.get("predict")
    said = (predict.summary.get("threshold", predict.config.get("threshold")) if predict else None)
    return float(said) if known(said) else 0.5


def _splits(slides: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for split in (*SPLITS, ""):
        part = slides[slides["split"] == split]
        if len(part):
            rows.append({
                "split": words.SPLIT_WORDS[split], "patients": part["patient"].nunique(), "slides": len(part),
                "abnormal_patients": part.loc[part["label"] == 1, "patient"].nunique(),
                "abnormal": int((part["label"] == 1).sum()), "normal": int((part["label"] == 0).sum()),
                "unlabelled": int(part["label"].isna().sum()), "cells": int(part["cells"].sum()),
            })
    return rows


def _settings(run: Gathered, stage: str) -> Iterator[Setting]:
    fields = getattr(STAGES.get(stage), "__dataclass_fields__", {})
    for name, value in run.manifests[stage].config.items():
        meaning = fields[name].metadata.get("meaning", "") if name in fields else ""
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        yield Setting(name, "–" if value in (None, "", {}, []) else shown, meaning)


def _packages() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
