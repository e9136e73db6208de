"""The stage that turns a run's directory into its page."""

from pathlib import Path
from typing import NamedTuple

from milscope.configs import ReportConfig
from milscope.progress import progress
from milscope.report._gather import gather
from milscope.report._page import render
from milscope.store import Stage
from milscope.types import refuse

KIND = "report"
PAGE = "index.html"


class Reported(NamedTuple):
    """Where the page is."""

    directory: Path
    page: Path


def report(run: str | Path, out: str | Path | None = None, config: ReportConfig | None = None) -> Reported:
    """One HTML file with everything a run found: it needs no network, no other file and no JavaScript to be read.

    Whatever the run does not hold (no truth, no evaluation, no pretraining) leaves its section out, with a sentence.

    Args:
        run: A run's directory, with `slides.csv` and the artifacts of its stages.
        out: The page's directory; by default `report` in the run.
        config: What the page shows.

    Raises:
        InputError: If there is no run, an artifact in it is damaged, or `out` cannot be written.
    """
    config = config or ReportConfig()
    for name in ("slides", "cells"):
        if getattr(config, name) < 0:
            raise refuse(name, "0 or more", getattr(config, name), "Ask for a number of them.")
    run = Path(run)
    out = Path(out) if out else run / "report"
    gathered = gather(run)
    with Stage(out, KIND, config, gathered.fingerprints) as stage:
        if not stage.done:
            with progress("report", min(config.slides, len(gathered.slides)), "slides") as advance:
                page = render(gathered, config, advance)
            (stage.work / PAGE).write_text(page, encoding="utf-8")
            stage.summary["bytes"] = len(page.encode())
    return Reported(out, out / PAGE)
