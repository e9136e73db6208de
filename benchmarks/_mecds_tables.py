"""The tables of `mecds_real.py`: means over divisions with intervals, and differences paired by division."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

STUDENT = "MECDS, AKD"
TITLES = {"rendered": "Rendered slides: three findings", "cric": "CRIC: three groups of grades"}
NAMES = {"balanced": "balanced", "all": "all", "AKD": "all, taught by the balanced one (AKD)",
         "KL": "all, taught by the balanced one (KL)"}
MAIN = [STUDENT, "MECDS, balanced", "MECDS, all",
        *(f"{model}, {how}" for model in ("MTDP", "shared attention", "ABMIL", "CLAM", "TransMIL", "MambaMIL")
          for how in ("balanced", "all"))]
ABLATED = [f"{model}, {how}" for model in ("MECDS", "MECDS without routing") for how in ("balanced", "all", "KL", "AKD")]
MANY = [STUDENT, "MECDS, balanced", "MECDS, all", "MECDS without routing, AKD", "MTDP, all", "shared attention, all"]
Rows = Sequence[dict[str, dict[str, Any]]]


def page(name: str, described: str, tasks: Sequence[str], rows: Rows) -> str:
    """All tables of a set; `rows` holds arm → figures for each division."""
    shares = [row[STUDENT]["tasks"] for row in rows if has(row, STUDENT)]
    counts = ", ".join(f"{np.mean([each[task]['positives'] for each in shares] or [np.nan]):.0f} `{task}`" for task in tasks)
    parts = [f"### {TITLES[name]}", described,
             f"Positive test slides of a division: {counts}. Mean over divisions ± half the 95 % interval of that mean "
             "(Student's t); a number in brackets says of how many divisions, where not of all "
             f"{len(rows)}. Sensitivity and specificity at the highest threshold at which 90 % of the positive validation "
             "slides are called: they are too few for an exact promise. Epochs are chosen by the mean validation AUC. "
             "Differences are paired by division, to the student.",
             "#### Models", *compared(tasks, rows), "#### Routing and distillation", *ablated(rows)]
    if any("extension" in arm for row in rows for arm in row):
        parts += ["#### A task added later", *extended(rows)]
    parts += ["#### Cells", *cells(tasks, rows), *failures(rows)]
    return "\n\n".join(parts)


def compared(tasks: Sequence[str], rows: Rows) -> Iterator[str]:
    """Each model on each task, and the mean over tasks beside the student's."""
    head = ["", "trained on", *(f"`{task}` AUC / sensitivity" for task in tasks), "mean AUC", "difference", "mean sensitivity",
            "difference", "mean specificity", "minutes"]
    lines = []
    for arm in MAIN:
        model, how = arm.split(", ")
        own = [f"{mean(rows, arm, 'AUC', [task])} / {mean(rows, arm, 'sensitivity', [task])}" for task in tasks]
        gaps = ["" if arm == STUDENT else gap(rows, arm, figure, tasks) for figure in ("AUC", "sensitivity")]
        title = {STUDENT: "**MECDS, student**", "MECDS, balanced": "MECDS, teacher"}.get(arm, model)
        lines.append([title, NAMES[how], *own, mean(rows, arm, "AUC", tasks), gaps[0], mean(rows, arm, "sensitivity", tasks),
                      gaps[1], mean(rows, arm, "specificity", tasks), minutes(rows, arm)])
    yield table(head, lines)


def ablated(rows: Rows) -> Iterator[str]:
    """Routing on and off, taught in three ways or not."""
    head = ["routing", "trained on", "mean AUC", "difference", "mean sensitivity", "difference", "mean specificity", "cell AUC"]
    lines = []
    for arm in ABLATED:
        model, how = arm.split(", ")
        gaps = ["" if arm == STUDENT else gap(rows, arm, figure, None) for figure in ("AUC", "sensitivity")]
        lines.append(["no" if "without" in model else "yes", NAMES[how], mean(rows, arm, "AUC"), gaps[0],
                      mean(rows, arm, "sensitivity"), gaps[1], mean(rows, arm, "specificity"), mean(rows, arm, "cell AUC")])
    yield table(head, lines)


def extended(rows: Rows) -> Iterator[str]:
    """Two tasks, then the third: the old ones before and after."""
    head = ["learned first", "added", "mode", "old tasks, AUC before", "after", "difference", "largest difference of a logit",
            "AUC of the added task", "its sensitivity"]
    lines = []
    for number in range(3):
        arm = f"extension {number}"
        own = [row[arm] for row in rows if has(row, arm)]
        if not own:
            continue
        old, new = own[0]["old"], own[0]["new"]
        before = np.array([[each["before"][task]["AUC"] for task in old] for each in own]).mean(1)
        for mode in ("strict", "shared"):
            after = np.array([[each[mode]["tasks"][task]["AUC"] for task in old] for each in own]).mean(1)
            added = [[each[mode]["tasks"][new][name] for each in own] for name in ("AUC", "sensitivity")]
            change = [told(before, len(rows)), told(after, len(rows)), told(after - before, len(rows), "+")]
            lines.append([", ".join(old), new, mode, *change, f"{max(each[mode]['moved'] for each in own):.2g}",
                          *(told(np.array(each), len(rows)) for each in added)])
    yield table(head, lines)


def cells(tasks: Sequence[str], rows: Rows) -> Iterator[str]:
    """How well models that answer all tasks find each task's cells, among those of its positive slides."""
    yield ("AUC of a task's cells among all of a positive test slide, mean over slides: by what the model says of a cell "
           "alone / by its attention / by its routing.")
    lines = [[arm, *(" / ".join(mean(rows, arm, figure, [task]) for figure in ("cell AUC", "attention AUC", "routing AUC"))
                     for task in tasks)] for arm in MANY]
    yield table(["", *(f"`{task}`" for task in tasks)], lines)


def failures(rows: Rows) -> Iterator[str]:
    """Arms that failed, with what was said."""
    found = [f"* {arm}, seed {seed}: {figures['error']}" for seed, row in enumerate(rows) for arm, figures in row.items()
             if "error" in figures]
    if found:
        yield "Not done:\n\n" + "\n".join(found)


def has(row: dict[str, dict[str, Any]], arm: str) -> bool:
    return arm in row and "error" not in row[arm]


def values(row: dict[str, dict[str, Any]], arm: str, figure: str, tasks: Sequence[str] | None = None) -> float:
    """The mean over tasks of a figure of a division."""
    own = row[arm]["tasks"]
    return float(np.mean([own[task].get(figure, np.nan) for task in tasks or own]))


def mean(rows: Rows, arm: str, figure: str, tasks: Sequence[str] | None = None) -> str:
    return told(np.array([values(row, arm, figure, tasks) for row in rows if has(row, arm)]), len(rows))


def gap(rows: Rows, arm: str, figure: str, tasks: Sequence[str] | None) -> str:
    both = [row for row in rows if has(row, arm) and has(row, STUDENT)]
    gaps = [values(row, arm, figure, tasks) - values(row, STUDENT, figure, tasks) for row in both]
    return told(np.array(gaps), len(rows), "+")


def minutes(rows: Rows, arm: str) -> str:
    own = [row[arm]["minutes"] for row in rows if has(row, arm)]
    return f"{np.mean(own):.1f}" if own else ""


def told(found: np.ndarray, divisions: int, sign: str = "") -> str:
    """Mean, half its interval, and of how many divisions if not of all."""
    if not len(found) or np.isnan(found).all():
        return "–"
    few = "" if len(found) == divisions else f" [{len(found)}]"
    if len(found) < 2:
        return f"{found.mean():{sign}.3f}{few}"
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5
    return f"{found.mean():{sign}.3f} ± {half:.3f}{few}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(["| " + " | ".join(each) + " |" for each in (head, ["---"] * len(head), *lines)])
