"""What all pages of a report have in common: the templates' words, and the style and script beside them."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from milscope.configs import ReportConfig
from milscope.heat import legend
from milscope.report import _words as words
from milscope.report._gather import Gathered, known
from milscope.report._heated import over_run

ASSETS = {"page.css": ("page.css", "report.css"), "list.js": ("list.js",), "slide.js": ("slide.js",)}
"""Files beside the pages, and of what they are put together."""


def environment(run: Gathered, config: ReportConfig, tasks: int) -> jinja2.Environment:
    """The templates of a run's pages."""
    made = jinja2.Environment(loader=jinja2.PackageLoader("milscope.report", "."), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"number": words.number, "percent": words.percent, "count": words.count, "score": words.score}
    made.tests["known"] = known
    evaluated = run.manifests.get("evaluate")
    by = ranked_by(run)
    shared: dict[str, Any] = {
        "run": run, "words": words, "split_words": words.SPLIT_WORDS, "ranks": words.ranks(run), "several": tasks > 1,
        "rank_by": by, "over_run": over_run(by),
        "confidence": evaluated.config.get("confidence") if evaluated else None,
        "legend": legend(), "title": config.title or run.run.resolve().name,
        "made": min((manifest.created for manifest in run.manifests.values()), default="")}
    made.globals.update(shared)
    return made


def ranked_by(run: Gathered) -> str:
    """What cells are ranked by; "" if they are not."""
    retrieved = run.manifests.get("retrieve")
    return str(retrieved.config.get("rank", "attention")) if retrieved else ""


def write_assets(folder: Path) -> None:
    """Style and scripts, as files beside the pages."""
    own = files("milscope.report")
    folder.mkdir(exist_ok=True)
    for name, parts in ASSETS.items():
        (folder / name).write_text("".join(own.joinpath(part).read_text(encoding="utf-8") for part in parts), encoding="utf-8")
