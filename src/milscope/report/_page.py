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
from milscope.report import _words as words
from milscope.report._gather import Gathered, known
from milscope.report._learning import pretraining, training
from milscope.report._questions import FIGURES, Question, overview, questions, said
from milscope.report._read import failures, findings, kept_pictures
from milscope.report._sections import figures, sections
from milscope.report._taught import pairs
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
    retrieved, evaluated = run.manifests.get("retrieve"), run.manifests.get("evaluate")
    shared: dict[str, Any] = {"split_words": words.SPLIT_WORDS, "ranks": words.ranks(run),
                              "rank_by": retrieved.config.get("rank", "attention") if retrieved else "",
                              "confidence": evaluated.config.get("confidence") if evaluated else None}
    environment.globals.update(shared)
    asked = questions(run)
    return environment.get_template("page.html.j2").render(
        title=config.title or run.run.resolve().name,
        style=Markup(folder.joinpath("page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        run=run,
        made=min((manifest.created for manifest in run.manifests.values()), default=""),
        words=words,
        headline=words.headline(run) if len(asked) == 1 else [words.looked_at(run, [each.name for each in asked]),
                                                              *map(said, asked)],
        figures=list(figures(asked)),
        warnings=list(words.warnings(run)),
        sections=sections(asked, config, advance),
        overview=overview(asked) if len(asked) > 1 else [],
        overview_names=list(FIGURES.values()),
        pairs=pairs(run),
        kept=list(kept_pictures(run)),
        failures=failures(run),
        findings=findings(run),
        splits=_splits(run.slides),
        labels=_labels(asked),
        pretraining=list(pretraining(run.pretraining)),
        training=list(training(run.training)),
        teaching=list(training(run.teaching, "teacher")),
        stages={stage: list(_settings(run, stage)) for stage in run.manifests},
        packages=list(_packages()),
    )


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


def _labels(asked: list[Question]) -> list[tuple[str, list[tuple[int, int, int]]]]:
    """Of several tasks how many slides of each part are positive, negative and without a label; [] for a single one."""
    if len(asked) == 1:
        return []
    rows = []
    for split in (*SPLITS, ""):
        parts = [question.run.slides[question.run.slides["split"] == split] for question in asked]
        if len(parts[0]):
            rows.append((words.SPLIT_WORDS[split], [(int((part["label"] == 1).sum()), int((part["label"] == 0).sum()),
                                                     int(part["label"].isna().sum())) for part in parts]))
    return rows


def _settings(run: Gathered, stage: str) -> Iterator[Setting]:
    fields = getattr(STAGES.get(stage.removesuffix("-teacher")), "__dataclass_fields__", {})
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
