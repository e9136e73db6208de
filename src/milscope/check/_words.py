"""The audit in words: a short table for the terminal, and the same as Markdown."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from milscope.check._finding import count

WIDTH = 110
SIGNS = {"mend": "MEND", "look": "look", "open": "open", "fine": "ok"}
"""Levels, the gravest first, and how they are marked."""

Audit = Mapping[str, Any]
Row = Sequence[str]


def verdict(audit: Audit) -> str:
    """What was looked at, and how much is to be done, in one line."""
    levels = [finding["level"] for finding in audit["findings"]]
    parts = [f"{levels.count('mend')} to mend" if "mend" in levels else "Nothing to mend",
             f"{levels.count('look')} to look at" if "look" in levels else "nothing to look at"]
    cells = f", {count(audit['cells'], 'cell')}" if audit["cells"] is not None else ""
    return (f"{count(audit['slides'], 'slide')} of {count(audit['patients'], 'patient')}{cells}. " + ", ".join(parts) + ".")


def as_text(audit: Audit) -> str:
    """The audit as it is printed."""
    lines = [verdict(audit), ""]
    wide = max(len(finding["check"]) for finding in audit["findings"])
    for finding in audit["findings"]:
        start = f"{SIGNS[finding['level']]:>4}  {finding['check']:<{wide}}  "
        lines += textwrap.wrap(_sentence(finding), WIDTH, initial_indent=start, subsequent_indent=" " * len(start),
                               break_on_hyphens=False)
    for title, head, rows, note in _tables(audit):
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
        lines += ["", title, *("  " + "  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True)).rstrip()
                               for row in (head, *rows))]
        lines += textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines) + "\n"


def as_markdown(audit: Audit) -> str:
    """The audit as a page."""
    lines = ["# Audit before training", "", verdict(audit), "", "| | checked | found |", "|---|---|---|"]
    lines += [_row(SIGNS[finding["level"]], finding["check"], _sentence(finding)) for finding in audit["findings"]]
    for title, head, rows, note in _tables(audit):
        lines += ["", f"## {title}", "", _row(*head), "|" + "---|" * len(head), *(_row(*row) for row in rows), "", note]
    lines += ["", "MEND: before training. look: a person should. open: could not be checked. The names of all slides that are "
              "meant are in `audit.json`, every cell that is there more than once in `duplicates.csv`."]
    return "\n".join(lines) + "\n"


def _sentence(finding: Mapping[str, Any]) -> str:
    return f"{finding['says']} {finding['do']}".strip()


def _tables(audit: Audit) -> Iterable[tuple[str, Row, list[Row], str]]:
    """Title, head, rows, and what is said below."""
    if audit["classes"]:
        yield "Slides (patients) of each class", *_class_table(audit["classes"]), "A patient with slides of several classes " \
            "counts in each."
    for task in dict.fromkeys(each["task"] for each in audit["told_by"]):
        told = sorted((each for each in audit["told_by"] if each["task"] == task), key=lambda each: -each["auc"])
        rows = [(each["attribute"], f"{each['auc']:.2f}", f"{each['low']:.2f} to {each['high']:.2f}", f"{each['chance']:.2f}",
                 "yes" if each["warns"] else "a little" if each["auc"] > each["chance"] else "no", each["detail"])
                for each in told]
        head = ("what is known of a slide", "AUC", "95 % interval", "chance reaches", "tells it", "positive against negative")
        same = f" The same on all slides: {', '.join(audit['same'])}." if audit["same"] else ""
        unknown = f" Unknown: {', '.join(audit['unknown'])}." if audit["unknown"] else ""
        yield f"What tells `{task}` without a look at single cells", head, rows, (
            f"AUC 0.5: it tells nothing; 1: everything. On {told[0]['patients']} patients, each judged by what the others "
            f"show. Chance: what labels dealt out at random reach in one of twenty audits.{same}{unknown}")


def _class_table(counts: Sequence[Mapping[str, Any]]) -> tuple[Row, list[Row]]:
    splits = list(dict.fromkeys(each["split"] for each in counts))
    found = {(each["task"], each["label"], each["split"]): f"{each['slides']:,} ({each['patients']:,})" for each in counts}
    rows: list[Row] = [(task, label or "unknown", *(found.get((task, label, split), "0 (0)") for split in splits))
            for task, label in dict.fromkeys((each["task"], each["label"]) for each in counts)]
    return ("task", "class", *(split or ("no split" if len(splits) > 1 else "all") for split in splits)), rows


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
