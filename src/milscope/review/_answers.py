"""What is told of a run and a slide, and what a verdict does, as plain values for JSON."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from milscope.review._images import missing
from milscope.review._run import PLACES, Asked, Judged, ReviewedRun, finite
from milscope.review._store import VERDICTS, Verdict, VerdictStore, now

NAME = 60
"""Most characters of a reviewer's name."""


class Unanswered(ValueError):
    """What cannot be answered: an HTTP status, and a sentence for the page."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


def told_run(run: ReviewedRun, store: VerdictStore, task: Asked, reviewer: str) -> dict[str, Any]:
    """The slides in a task's order of suspicion, how far a reviewer is, and where they stopped."""
    own = store.standing(task.name, reviewer=reviewer) if reviewer else []
    ranks = run.ranks([judged(verdict) for verdict in own], task)
    here = [(verdict, rank) for verdict, rank in zip(own, ranks, strict=True) if rank is not None]
    counts = Counter(verdict.slide for verdict, _ in here)
    abnormal = Counter(verdict.slide for verdict, _ in here if verdict.verdict == "abnormal")
    place = {"index": run.number(here[-1][0].slide), "rank": here[-1][1]} if here else None
    slides = []
    for row in run.listed(task).to_dict("records"):
        slide, image = row["slide"], run.image(row["slide"])
        label, called = finite(row["label"], 0), finite(row["called"], 0)
        slides.append({
            "index": run.number(slide), "slide": slide, "patient": row["patient"], "split": row["split"],
            "label": None if label is None else int(label), "probability": finite(row["probability"], 6),
            "called": None if called is None else int(called), "decision": row["decision"], "cells": row["cells"],
            "image": image.file is not None, "mpp": image.mpp, "judged": counts[slide], "abnormal": abnormal[slide],
        })
    return {
        "title": run.title, "tasks": [{"name": each.name, "sought": each.sought} for each in run.tasks], "task": task.name,
        "reviewer": reviewer, "reviewers": store.reviewers(), "verdicts": list(VERDICTS), "slides": slides, "place": place,
        "elsewhere": len(own) - len(here), "comparable": run.comparable,
    }


def told_slide(run: ReviewedRun, store: VerdictStore, slide: str, task: Asked, reviewer: str) -> dict[str, Any]:
    """The ranked cells of a slide by column; what others said only of cells that the reviewer has judged."""
    table, image = run.cells(slide, task), run.image(slide)
    verdicts: list[str | None] = [None] * len(table)
    others: list[dict[str, str] | None] = [None] * len(table)
    given = store.standing(task.name, slide=slide)
    for verdict, rank in zip(given, run.ranks([judged(each) for each in given], task), strict=True):
        if rank is not None and verdict.reviewer == reviewer:
            verdicts[rank - 1] = verdict.verdict
        elif rank is not None:
            others[rank - 1] = {**(others[rank - 1] or {}), verdict.reviewer: str(verdict.verdict)}
    return {
        "index": run.number(slide), "slide": slide, "size": image.size, "mpp": image.mpp, "image": image.file is not None,
        "overview": image.thumbnail is not None, "missing": missing(image),
        "cells": {
            "rank": list(range(1, len(table) + 1)), "name": table["cell"].to_pylist(), "score": _scores(table),
            **{name: _places(table, name) for name in PLACES}, "verdict": verdicts,
            "others": [said if own else None for said, own in zip(others, verdicts, strict=True)],
        },
    }


def told_verdict(run: ReviewedRun, store: VerdictStore, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps a verdict; the answer is given only once it is on the disk.

    Raises:
        Unanswered: If the request is not of the right form, or the cell at this rank is not the one that was meant.
    """
    task, reviewer, said = _task(run, asked), _reviewer(asked), asked.get("verdict")
    if said is not None and said not in VERDICTS:
        raise Unanswered(400, f"`verdict` should be one of {', '.join(VERDICTS)}, or null.")
    slide, rank = _slide(run, asked), asked.get("rank")
    table = run.cells(slide, task)
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= len(table):
        raise Unanswered(404, "There is no cell of this rank.")
    cell = table["cell"][rank - 1].as_py()
    if asked.get("cell", cell) != cell:
        raise Unanswered(409, "Another cell has this rank. Load the page again.")
    places = [finite(table[name][rank - 1].as_py(), 3) for name in PLACES]
    store.keep(Verdict(now(), reviewer, task.name, slide, cell, said, *places))
    return {"cell": cell, "verdict": said, **_standing(run, store, slide, task, (reviewer, cell if said else ""))}


def told_undo(run: ReviewedRun, store: VerdictStore, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Takes back the last thing a reviewer said of a cell that is ranked.

    Raises:
        Unanswered: If there is nothing to take back.
    """
    task, reviewer = _task(run, asked), _reviewer(asked)
    undone = store.undo(reviewer, task.name, lambda verdict: run.ranks([judged(verdict)], task) != [None])
    if undone is None:
        raise Unanswered(409, "There is no verdict of yours to take back.")
    verdict, left = undone
    [rank] = run.ranks([judged(verdict)], task)
    return {"index": run.number(verdict.slide), "rank": rank, "cell": verdict.cell, "verdict": left, "undone": verdict.verdict,
            **_standing(run, store, verdict.slide, task, (reviewer, verdict.cell if left else ""))}


def judged(verdict: Verdict) -> Judged:
    """The cell that a verdict is about."""
    return Judged(verdict.slide, verdict.cell, verdict.x, verdict.y)


def _standing(run: ReviewedRun, store: VerdictStore, slide: str, task: Asked, seen: tuple[str, str]) -> dict[str, Any]:
    """How far the reviewer is with a slide, and what others said of the cell that they have just judged."""
    reviewer, cell = seen
    given = store.standing(task.name, slide=slide)
    ranks = run.ranks([judged(verdict) for verdict in given], task)
    own = [each for each, rank in zip(given, ranks, strict=True) if rank is not None and each.reviewer == reviewer]
    others = {each.reviewer: each.verdict for each in given if cell and each.cell == cell and each.reviewer != reviewer}
    return {"judged": len(own), "abnormal": sum(each.verdict == "abnormal" for each in own), "others": others or None}


def _task(run: ReviewedRun, asked: Mapping[str, Any]) -> Asked:
    name = asked.get("task") or ""
    task = run.task(name) if isinstance(name, str) else None
    if task is None:
        raise Unanswered(404, "There is no such task.")
    return task


def _slide(run: ReviewedRun, asked: Mapping[str, Any]) -> str:
    index = asked.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(run.slides):
        raise Unanswered(404, "There is no such slide.")
    return run.slides[index]


def _reviewer(asked: Mapping[str, Any]) -> str:
    name = asked.get("reviewer")
    given = name.strip() if isinstance(name, str) else ""
    if not given or len(given) > NAME or not given.isprintable():
        raise Unanswered(400, f"`reviewer` should be a name of 1 to {NAME} characters.")
    return given


def _places(table: pa.Table, name: str) -> list[float | None]:
    """Slide pixels, to a tenth."""
    values = np.round(table[name].to_numpy().astype(float), 1)
    return values.tolist() if np.isfinite(values).all() else [finite(value, 1) for value in values]


def _scores(table: pa.Table) -> list[float]:
    """Six digits are more than a person compares, and keep the answer small."""
    return [float(f"{value:.6g}") for value in table["score"].to_pylist()]
