"""What became of every slide: kept one by one while `tile` is at work, and together when it is done."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from milscope.store import fingerprint, write_text
from milscope.tile._sources import Job
from milscope.types import refuse

COLUMNS = ("slide", "cells", "skipped", "width", "height", "mpp", "file")
PICTURES = ("thumbnails", "kept")
RECORDS = "records.json"


@dataclass(frozen=True)
class Record:
    """What became of one slide.

    Attributes:
        stamp: Of all that went into it.
        cells: How many are stored; 0 if the slide failed.
        skipped: How many were left out.
        width: Of its image, in pixels of level 0; None for crops.
        height: Likewise.
        mpp: Microns per pixel of level 0, None if unknown.
        file: Where it came from.
        failures: Cell and reason of all that was left out; the cell is "" where the whole slide failed.
        mended: Whether it failed once and was then tried again with success.
    """

    stamp: str
    cells: int = 0
    skipped: int = 0
    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    file: str = ""
    failures: list[list[str]] = field(default_factory=list)
    mended: bool = False

    @classmethod
    def failed(cls, job: Job, reason: str) -> "Record":
        """The record of a slide of which nothing is kept."""
        return cls(job.stamp, file=job.source, failures=[["", reason]])

    def write(self, work: Path, slide: str) -> None:
        """Writes it, whole or not at all."""
        write_text(work / "records" / f"{slide}.json", json.dumps(asdict(self)), contested=True)


class Records:
    """The records of all slides; those that are there already are not made again.

    Args:
        jobs: The slides that are wanted.
        work: The directory where `tile` is at work.
        earlier: A finished artifact made with the same settings, from which unchanged slides are taken; None if there is none.
        retry: Whether slides that failed are tried again, though nothing about them has changed.
    """

    def __init__(self, jobs: Sequence[Job], work: Path, earlier: Path | None, *, retry: bool) -> None:
        self.jobs, self.work = list(jobs), work
        for folder in ("records", *PICTURES):
            (work / folder).mkdir(exist_ok=True)
        self._done: dict[str, Record] = {}
        self._failed_before: set[str] = set()
        known = _read(earlier / RECORDS) if earlier else {}
        for job in jobs:
            here = _read_one(work / "records" / f"{job.slide}.json")
            record = here or known.get(job.slide)
            if record is None or record.stamp != job.stamp:
                continue
            if retry and not record.cells:
                self._failed_before.add(job.slide)
            elif here or not record.cells or _take_over(earlier, work, job.slide):
                self._done[job.slide] = record
        self.missing = [job for job in jobs if job.slide not in self._done]

    def add(self, job: Job, record: Record) -> None:
        """Keeps a finished slide's record."""
        mended = job.slide in self._failed_before and record.cells > 0
        self._done[job.slide] = replace(record, mended=mended)
        self._done[job.slide].write(self.work, job.slide)

    def finish(self) -> dict[str, Any]:
        """Writes the tables and tidies up; gives the summary.

        Raises:
            InputError: If not one slide is good.
        """
        records = {job.slide: self._done[job.slide] for job in self.jobs}
        failures = [(slide, *failure) for slide, record in records.items() for failure in record.failures]
        good = {slide: record for slide, record in records.items() if record.cells}
        if not good:
            slide, _, reason = failures[0]
            raise refuse("slides", "readable, at least one", f"{len(records)} that are not; the first, {slide}: {reason}",
                         "Mend or replace them.")
        rows = [{"slide": slide} | asdict(record) for slide, record in good.items()]
        pd.DataFrame(rows, columns=COLUMNS).to_csv(self.work / "slides.csv", index=False)
        pd.DataFrame(failures, columns=["slide", "cell", "reason"]).to_csv(self.work / "failures.csv", index=False)
        write_text(self.work / RECORDS, json.dumps({slide: asdict(record) for slide, record in records.items()}))
        self._tidy(good)
        mended = sorted(slide for slide, record in good.items() if record.mended)
        summary = {"slides": len(good), "cells": sum(record.cells for record in good.values()), "failures": len(failures)}
        return summary | ({"mended": fingerprint(mended)} if mended else {})

    def _tidy(self, good: dict[str, Record]) -> None:
        """Removes what was begun and not finished, and what belongs to slides that are no longer wanted."""
        shutil.rmtree(self.work / "records")
        for path in [*self.work.glob("*.arrow"), *(path for folder in PICTURES for path in (self.work / folder).iterdir())]:
            if path.stem not in good:
                path.unlink()
        for folder in PICTURES:
            if not any((self.work / folder).iterdir()):
                (self.work / folder).rmdir()


def _read(path: Path) -> dict[str, Record]:
    try:
        return {slide: Record(**values) for slide, values in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # of another version: the slides are tiled again
        return {}


def _read_one(path: Path) -> Record | None:
    try:
        return Record(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _take_over(earlier: Path | None, work: Path, slide: str) -> bool:
    """Takes a slide's files from an artifact; they are shared, as nobody changes them. False if they are not there."""
    if earlier is None or not (earlier / f"{slide}.arrow").exists():
        return False
    for name in (f"{slide}.arrow", *(f"{folder}/{slide}.jpg" for folder in PICTURES)):
        if (earlier / name).exists():
            (work / name).unlink(missing_ok=True)
            try:
                os.link(earlier / name, work / name)
            except OSError:  # a file system without links
                shutil.copyfile(earlier / name, work / name)
    return True
