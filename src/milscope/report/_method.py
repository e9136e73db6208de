"""The second page: what was read, who was in it, how encoder and model learned, with which settings and versions."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from milscope.card import card_of
from milscope.configs import STAGES
from milscope.report import _words as words
from milscope.report._gather import Gathered
from milscope.report._learning import pretraining, training
from milscope.report._questions import Question, overview
from milscope.report._read import failures, findings, kept_pictures
from milscope.store import read_manifest
from milscope.types import SPLITS

PACKAGES = ("milscope", "torch", "timm", "numpy", "pandas", "scikit-learn", "pyarrow", "openslide-python")
KEPT = "kept"
"""Folder of the slides as they were cut."""


class Setting(NamedTuple):
    """One setting of a stage."""

    name: str
    value: str
    meaning: str


def render_method(asked: list[Question], templates: jinja2.Environment, folder: Path) -> str:
    """The page as HTML text; the pictures of slides as they were cut are written beside it, into `folder`/kept."""
    run = asked[0].run
    (folder / KEPT).mkdir(exist_ok=True)
    return templates.get_template("method.html.j2").render(
        overview=overview(asked) if len(asked) > 1 else [],
        kept=list(kept_pictures(run, folder / KEPT)),
        failures=failures(run),
        findings=findings(run),
        splits=splits(run),
        labels=_labels(asked),
        pretraining=list(pretraining(run.pretraining)),
        training=list(training(run.training)),
        teaching=list(training(run.teaching, "teacher")),
        card=_card(run),
        stages={stage: list(_settings(run, stage)) for stage in run.manifests},
        packages=list(_packages()),
    )


def splits(run: Gathered) -> list[dict[str, Any]]:
    """Patients, slides and cells of each part."""
    rows, slides = [], run.slides
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


def _card(run: Gathered) -> Markup:
    """The model's card; its headings stand below that of their section, and what it holds cannot become markup."""
    if run.learned.relative_to(run.run).parts[0] not in run.manifests or not run.record:
        return Markup()
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(card_of(run.record, read_manifest(run.learned, "model")).partition("\n")[2])  # without its title
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


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
