"""The verdicts on a run as a table of cells, one row a cell: what `retrieve --labels` and `train --cell-labels` read."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.configs import VerdictsConfig
from milscope.review._answers import judged
from milscope.review._review import STORE, open_verdicts
from milscope.review._run import PLACES, ReviewedRun
from milscope.review._store import Verdict
from milscope.store import temporary_name, unwritable
from milscope.types import refuse

COLUMNS = ("slide", "cell", "x", "y", "width", "height", "verdict", "label", "reviewers", "agreement", "at")
LABELS = {"abnormal": 1, "normal": 0, "artefact": 0}
"""What a verdict says of the cell for learning; one who is unsure says nothing."""


class Tabled(NamedTuple):
    """The table, how many cells of how many slides are in it, and what there is to know about them."""

    table: Path
    slides: int
    cells: int
    warnings: list[str]


def verdicts(run: str | Path, out: str | Path, config: VerdictsConfig | None = None) -> Tabled:
    """Writes one row for each judged cell: what most reviewers say of it; where they are divided, `unsure`.

    The last verdict of a reviewer on a cell counts. Cells that are no longer ranked keep their row.

    Args:
        run: The run's directory.
        out: The table, .csv or .parquet.
        config: Settings; the defaults of `VerdictsConfig` if None.

    Raises:
        InputError: If nobody judged a cell in this task, or the table cannot be written.
    """
    config, out = config or VerdictsConfig(), Path(out)
    if out.suffix not in (".csv", ".parquet"):
        raise refuse("out", "a file that ends in .csv or .parquet", out.name, "Give such a name.")
    reviewed = ReviewedRun(Path(run))
    task = reviewed.task(config.task)
    if task is None:
        raise refuse("task", "one of " + ", ".join(each.name for each in reviewed.tasks), config.task, "Choose one.")
    if not (reviewed.directory / STORE).exists():
        raise refuse("run", "one whose cells were judged", f"no {STORE} in {run}", "Run `milscope review` first.")
    store = open_verdicts(reviewed)
    try:
        given = store.standing(task.name, reviewer=config.reviewer or None)
        known = store.reviewers()
    finally:
        store.close()
    if config.reviewer and config.reviewer not in known:
        raise refuse("reviewer", "one of " + ", ".join(known), config.reviewer, "Choose one.")
    if not given:
        raise refuse("run", f"one whose cells were judged for `{task.name}`", "no verdict that stands",
                     "Run `milscope review` first.")
    frame = tabled(given)
    _write(frame, out)
    gone = len({(each.slide, each.cell) for each, rank in zip(given, reviewed.ranks([judged(each) for each in given], task),
                                                               strict=True) if rank is None})
    said = [f"{gone} of {len(frame)} judged cells are no longer ranked; they are in the table all the same."] if gone else []
    return Tabled(out, int(frame["slide"].nunique()), len(frame), said)


def tabled(given: list[Verdict]) -> pd.DataFrame:
    """One row a cell of what reviewers say of it, in the order of slides and names.

    `reviewers` is their number, `agreement` the share of them who say what is said most often, `at` the time of the last.
    """
    cells: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in given:
        cells.setdefault((verdict.slide, verdict.cell), []).append(verdict)
    rows = []
    for (slide, cell), said in sorted(cells.items()):
        (first, most), *rest = Counter(each.verdict for each in said).most_common(2)
        agreed = first if not rest or rest[0][1] < most else "unsure"
        last = max(said, key=lambda each: each.at)
        rows.append((slide, cell, last.x, last.y, last.width, last.height, agreed, LABELS.get(agreed or ""), len(said),
                     round(most / len(said), 3), last.at))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"label": "Int64", **dict.fromkeys(PLACES, "float64")})


def _write(frame: pd.DataFrame, out: Path) -> None:
    """The table whole or not at all."""
    temporary = temporary_name(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise unwritable(out, error) from error
