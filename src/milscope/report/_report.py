"""The stage that turns a run's directory into its pages."""

from pathlib import Path
from typing import NamedTuple

from milscope.configs import ReportConfig
from milscope.progress import progress
from milscope.report._gather import gather
from milscope.report._page import PAGE, write_pages
from milscope.store import Stage
from milscope.types import refuse

KIND = "report"


class Reported(NamedTuple):
    """Where the pages are, and the first of them."""

    directory: Path
    page: Path


def report(run: str | Path, out: str | Path | None = None, config: ReportConfig | None = None) -> Reported:
    """A folder with everything a run found: it needs no network, no server, nothing outside, and no JavaScript to be read.

    Whatever the run does not hold (no truth, no evaluation, no pretraining) leaves its section out, with a sentence.

    Args:
        run: A run's directory, with `slides.csv` and the artifacts of its stages.
        out: The folder of the pages; by default `report` in the run.
        config: What the pages show.

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
                stage.summary.update(write_pages(gathered, config, stage.work, advance))
    return Reported(out, out / PAGE)
