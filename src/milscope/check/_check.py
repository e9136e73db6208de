"""The stage `check`: what is wrong with slides, cells and labels, told before anything is learned from them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from milscope.check._attributes import about_columns, gather_attributes, known, varies
from milscope.check._cells import Cells, look_at_cells, look_at_thumbnails
from milscope.check._confounding import Told, judge_attributes
from milscope.check._coverage import count_classes, found_images, judge_cells, judge_classes, judge_files
from milscope.check._duplicates import duplicate_table, group_cells, judge_copies, judge_duplicates
from milscope.check._files import Header, found_files, read_headers, same_files
from milscope.check._finding import Finding, some
from milscope.check._pictures import alike
from milscope.check._table import Loaded, load_table
from milscope.check._words import SIGNS, as_markdown, as_text
from milscope.configs import CheckConfig
from milscope.metrics import Bootstrap
from milscope.slides import tasks
from milscope.store import CellStore, Stage, fingerprint, fingerprint_files, json_values, write_text
from milscope.types import refuse

CHECKS = ("slide table", "patients", "splits", "classes", "files", "cells", "duplicate slides", "duplicate cells", "shortcuts")
"""What is checked, in the order in which it is told."""
DUPLICATES = ("group", "kind", "slide", "cell", "patient", "split")


class _Seen(NamedTuple):
    """What was looked at beside the table: the headers of the images, the cells, and those that are there twice."""

    headers: dict[str, Header]
    store: CellStore | None
    tiled: list[str]
    """The slides of the table that have cells."""
    cells: Cells | None
    duplicates: pd.DataFrame


class Checked(NamedTuple):
    """What `check` found: where it is written (None if nowhere), how much was looked at, what to do, and the text to show."""

    directory: Path | None
    slides: int
    cells: int | None
    mend: int
    """Findings to be mended before training."""
    warnings: tuple[str, ...]
    """A line for each finding to mend or to look at, the gravest first."""
    text: str


def check(slides: Path | str | pd.DataFrame, out: Path | str | None = None, *, cells: Path | str | None = None,
          images: Path | str | None = None, config: CheckConfig | None = None) -> Checked:
    """Looks for what would spoil training or its measurement: in the table, the files, the cells and the labels.

    The table is read leniently: what other stages refuse, such as a patient in two splits, is told with everything
    else. Of images only headers are read. Nothing is changed.

    Args:
        slides: The slide table, see `read_slides`.
        out: The artifact's directory; None: nothing is written.
        cells: The `cells` artifact of these slides, to look at cells and thumbnails, too.
        images: Folder of slide images, for slides without a `file`.
        config: Settings.

    Raises:
        InputError: If there is no table with slides, no such folder, no such column, or no artifact of cells.
    """
    config = config or CheckConfig()
    _validate(config)
    loaded = load_table(slides)
    judged, about = _columns(loaded.table, config)
    store = CellStore(cells) if cells else None
    files = _files(loaded.table, found_images(Path(images) if images else None), store)
    looked_for = bool(images) or bool((loaded.table["file"] != "").any()) or bool(files)
    look = partial(_audit, loaded, store, files, config, judged=judged, about=about, looked_for=looked_for)
    if out is None:
        return _checked(None, look()[0])
    inputs = {"slides": fingerprint([loaded.table.to_csv(index=False), loaded.findings, looked_for]),
              "files": fingerprint_files([Path(file) for file in files.values()])}
    with Stage(Path(out), "audit", config, inputs | ({"cells": store.manifest.fingerprint} if store else {})) as stage:
        if not stage.done:
            audit, duplicates = look()
            duplicates.to_csv(stage.work / "duplicates.csv", index=False)
            write_text(stage.work / "audit.json", json.dumps(json_values(audit), indent=1, allow_nan=False))
            write_text(stage.work / "audit.md", as_markdown(audit))
            stage.summary.update({name: audit[name] for name in ("slides", "patients", "cells", "mend", "warnings")})
    return _checked(Path(out), json.loads((Path(out) / "audit.json").read_text()))


def _validate(config: CheckConfig) -> None:
    for name, rule, good in (("few", "0 or more", config.few >= 0), ("alike", "above 0.5, at most 1", 0.5 < config.alike <= 1),
                             ("draws", "at least 100", config.draws >= 100), ("workers", "0 or more", config.workers >= 0)):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")


def _columns(table: pd.DataFrame, config: CheckConfig) -> tuple[list[str], list[str]]:
    """The columns of labels, and those that say how slides were made."""
    asked = [name.strip() for name in config.task.split(",") if name.strip()]
    for name, columns in (("task", asked), ("about", list(config.about))):
        for column in columns:
            if column not in table:
                raise refuse(name, "columns of the slide table", f"`{column}`", f"There is: {', '.join(table.columns)}.")
    about = [column for column in about_columns(table, config.about) if column not in asked]
    return asked or [column for column in tasks(table) if column not in about], about


def _files(table: pd.DataFrame, known: Mapping[str, list[Path]], store: CellStore | None) -> dict[str, str]:
    """Slide → its image: of the table, of the folder, or where `tile` found it."""
    given = dict(zip(table["slide"], table["file"], strict=True))
    if store is not None:
        made = pd.read_csv(store.directory / "slides.csv", dtype=str, keep_default_na=False)
        of_crops = store.manifest.summary.get("slides") and not (made["width"] != "").any()
        tiled = {} if of_crops else dict(zip(made["slide"], made["file"], strict=True))
        given = {slide: file or ("" if slide in known else tiled.get(slide, "")) for slide, file in given.items()}
    return found_files(list(table["slide"]), given, known)


def _audit(loaded: Loaded, store: CellStore | None, files: Mapping[str, str], config: CheckConfig, *, judged: Sequence[str],
           about: Sequence[str], looked_for: bool) -> tuple[dict[str, Any], pd.DataFrame]:
    """Everything that was found as plain values, and the table of duplicate cells."""
    table = loaded.table
    seen = _look(table, store, files, config)
    findings = list(loaded.findings)
    findings += judge_files(table, files, seen.headers, looked_for, crops=store is not None)
    findings += [*_of_cells(table, seen, config), *_of_copies(table, seen, files, config)]
    counts = count_classes(table, judged)
    findings += judge_classes(counts) if judged else [_NO_TASK]
    told, attributes = [], gather_attributes(table, about, seen.headers, store, seen.cells)
    for task, labels in _questions(table, judged):
        mine = judge_attributes(task, labels, list(table["patient"]), attributes, Bootstrap(config.draws, seed=config.seed))
        findings += _of_attributes(task, mine)
        told += mine
    findings.sort(key=lambda finding: (list(SIGNS).index(finding.level), CHECKS.index(finding.check)))
    return {
        "slides": len(table), "patients": int(table["patient"].nunique()),
        "cells": None if seen.cells is None else len(seen.cells.owner),
        "mend": sum(finding.level == "mend" for finding in findings),
        "warnings": [f"{finding.check}: {finding.sentence}" for finding in findings if finding.level in ("mend", "look")],
        "findings": [finding._asdict() for finding in findings],
        "classes": [each._asdict() for each in counts],
        "told_by": [{**each._asdict(), "warns": each.warns} for each in told],
        "same": [each.name for each in attributes if known(each) and not varies(each)],
        "unknown": [each.name for each in attributes if not known(each)],
    }, seen.duplicates


def _look(table: pd.DataFrame, store: CellStore | None, files: Mapping[str, str], config: CheckConfig) -> _Seen:
    headers = read_headers(files, config.workers)
    there = set(store.slides) if store is not None else set()
    tiled = [slide for slide in table["slide"] if slide in there]
    none = pd.DataFrame(columns=list(DUPLICATES))
    if store is None or not tiled:
        return _Seen(headers, store, tiled, None, none)
    cells = look_at_cells(store, tiled, config.workers)
    if not cells.slides:
        return _Seen(headers, store, tiled, cells, none)
    names = {slide: store.table(slide)["cell"].to_pylist() for slide in cells.slides}
    return _Seen(headers, store, tiled, cells, duplicate_table(cells, group_cells(cells, config.alike), names, table))


_NO_TASK = Finding("open", "classes", "No column of yes and no (0 and 1).", "Name the columns of labels with `--task`.")


def _of_cells(table: pd.DataFrame, seen: _Seen, config: CheckConfig) -> Iterator[Finding]:
    """What is wrong with the cells."""
    if seen.store is None:
        yield Finding("open", "cells", "Cells were not looked at.", "Run `milscope tile`, and give what it made as `--cells`.")
        return
    yield from judge_cells(table, seen.store, config.few, seen.cells.lost if seen.cells else {})
    if seen.cells is not None and seen.cells.slides:
        yield from judge_duplicates(seen.duplicates, seen.cells, table)


def _of_copies(table: pd.DataFrame, seen: _Seen, files: Mapping[str, str], config: CheckConfig) -> Iterator[Finding]:
    """Which slides are copies of others."""
    shown, marks = look_at_thumbnails(seen.store, seen.tiled) if seen.store is not None else ([], None)
    groups = pd.Series(shown).groupby(alike(marks, config.alike)) if marks is not None and shown else ()
    pairs = [pair for _, slides in groups for pair in combinations(slides, 2)]
    counts = {slide: seen.store.count(slide) for slide in seen.tiled} if seen.store is not None else {}
    copies = list(judge_copies(seen.duplicates, pairs, same_files(files), counts, table))
    by = [name for name, there in (("files", files), ("cells", seen.tiled), ("thumbnails", shown)) if there]
    if not copies and by:
        copies.append(Finding("fine", "duplicate slides", f"None, by their {some(by)}."))
    yield from copies


def _questions(table: pd.DataFrame, judged: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Every question of yes and no: the yes/no tasks, and each class of the others against the rest."""
    for task in judged:
        if is_numeric_dtype(table[task]):
            yield task, table[task].to_numpy(dtype=float)
            continue
        given = table[task] != ""
        classes = sorted(set(table[task][given]))
        for label in classes if 2 <= len(classes) <= 10 else []:
            yield f"{task}: {label}", np.where(given, (table[task] == label).astype(float), math.nan)


def _of_attributes(task: str, told: Sequence[Told]) -> Iterator[Finding]:
    check = "shortcuts"
    if not told:
        yield Finding("open", check, f"Nothing could be compared for `{task}`: too few patients of a class, or nothing differs "
                      "between slides.")
    for family, says, action in (
        ("made", "How slides were made tells", "A model can learn this in place of the disease: mix the classes anew, or test "
                                               "where it does not hold (`milscope crossvalidate --site`)."),
        ("looks", "Slides as a whole tell", "It may be the disease, or how slides were chosen, stained or photographed: "
                                            "someone who knows the slides should say which."),
    ):
        found = sorted((each for each in told if each.family == family and each.warns), key=lambda each: -each.auc)
        if found:
            parts = [f"{each.attribute} (AUC {each.auc:.2f}{', ' + each.detail if each.detail else ''})" for each in found]
            yield Finding("look", check, f"{says} `{task}` without a look at single cells: {some(parts, 5)}.", action,
                          tuple(each.attribute for each in found))
    if told and not any(each.warns for each in told):
        best = max(told, key=lambda each: each.auc)
        yield Finding("fine", check, f"Nothing but the cells tells `{task}`; the most telling is {best.attribute}, AUC "
                      f"{best.auc:.2f} ({best.low:.2f} to {best.high:.2f}).")


def _checked(directory: Path | None, audit: Mapping[str, Any]) -> Checked:
    return Checked(directory, audit["slides"], audit["cells"], audit["mend"], tuple(audit["warnings"]), as_text(audit))
