"""The verb `synth`: renders slides with known cells, to try milscope on and to measure it with."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import simplejpeg

from milscope.configs import SynthConfig
from milscope.progress import progress
from milscope.slides import SmearPlan, plan_smear, render_smear, write_pyramid
from milscope.store import Stage
from milscope.types import Microns, MicronsPerPixel, refuse

CROP: Microns = Microns(48.0)
"""Side of a cell crop."""
CROP_QUALITY = 95


class Synthesised(NamedTuple):
    """Rendered slides: their directory and how many there are of each thing."""

    directory: Path
    slides: int
    abnormal: int
    cells: int
    witnesses: int
    """Abnormal cells."""
    candida: int = 0
    clue: int = 0


FINDINGS = ("candida", "clue")
"""What slides can show beside abnormal cells, each a column of labels if asked for."""


def synth(out: Path | str, config: SynthConfig = SynthConfig()) -> Synthesised:  # noqa: B008
    """Renders slides of cervical smears, half of them (`prevalence`) with a few abnormal cells (`rate`).

    Writes `slides.csv` (slide, file, patient, abnormal), `slides/<slide>.tiff`, `cells.csv` (slide, x, y: what a detector
    finds, in full-resolution pixels), and `truth/cells.csv` (slide, x, y, abnormal, kind). With `config.crops` a crop per
    cell, `cells/<slide>/<name>.jpg`, stands in place of image and place. Neither names nor order tell the truth. With
    `config.candida` or `config.clue`, so many slides, whether abnormal or not, show that finding in as many cells, tables
    have a column of it, and every slide holds some normal things that look like it. With another `config.witness` than
    `squamous` cells are smaller and whole in their crop, and `kind` of an abnormal cell says what is abnormal of it.

    Args:
        out: The directory to make. If it was made with the same settings before, nothing is done.
        config: How many slides and cells, how many abnormal, at which scale.

    Raises:
        InputError: If a setting is out of range, or `out` holds something else or cannot be written.
    """
    _check(config)
    with Stage(Path(out), "slides", config, inputs={}) as stage:
        if not stage.done:
            jobs = _jobs(config, stage.work)
            with progress("synth", len(jobs), "slides") as advance:
                for _ in _paint_all(jobs, config.workers):
                    advance(1)
            _write_tables(jobs, stage.work)
            stage.summary.update(
                slides=len(jobs), abnormal=sum(job.abnormal for job in jobs), cells=config.cells * len(jobs),
                witnesses=sum(job.witnesses for job in jobs),
                **{name: sum(job.findings.get(name, 0) > 0 for job in jobs) for name in _asked(config)},
            )
    return Synthesised(Path(out), **stage.manifest.summary)


class _Job(NamedTuple):
    """One slide to render: everything a process must know."""

    name: str
    patient: str
    index: int
    abnormal: bool
    witnesses: int
    findings: dict[str, int]
    config: SynthConfig
    directory: Path

    def plan(self) -> SmearPlan:
        seed = np.random.SeedSequence(self.config.seed, spawn_key=(self.index, 0))
        return plan_smear(self.config.cells, self.witnesses, MicronsPerPixel(self.config.mpp), seed, self.findings or None,
                          witness=self.config.witness, alone=CROP if self.config.alone else Microns(0.0))

    def paint(self) -> None:
        """Writes the slide, or its crops, whole or not at all; what an interrupted run has finished stays."""
        target = self.directory / (f"cells/{self.name}" if self.config.crops else f"slides/{self.name}.tiff")
        if target.exists():
            return
        plan, mpp = self.plan(), MicronsPerPixel(self.config.mpp)
        image = render_smear(plan, mpp, np.random.SeedSequence(self.config.seed, spawn_key=(self.index, 1)),
                             self.config.spread)
        if not self.config.crops:
            write_pyramid(target, image, mpp)
            return
        partial = target.with_name(f".{self.name}.partial")
        partial.mkdir(exist_ok=True)
        half = round(CROP / mpp / 2)
        for (x, y), name in zip(plan.places, _crop_names(self.config.cells), strict=True):
            crop = np.ascontiguousarray(image[y - half : y + half, x - half : x + half])
            jpeg = simplejpeg.encode_jpeg(crop, CROP_QUALITY, colorspace="RGB", colorsubsampling="444")
            (partial / name).write_bytes(jpeg)
        partial.rename(target)


def _check(config: SynthConfig) -> None:
    for name, good, rule in (
        ("slides", config.slides >= 2, "at least 2, one normal and one abnormal"),
        ("cells", config.cells >= 10, "at least 10"),
        ("prevalence", 0 < config.prevalence < 1, "above 0 and below 1"),
        ("rate", 0 < config.rate <= 1, "above 0 and at most 1"),
        ("candida", 0 <= config.candida < 1, "0, for none, or more, and below 1"),
        ("clue", 0 <= config.clue < 1, "0, for none, or more, and below 1"),
        ("spread", 0 <= config.spread <= 2, "from 0 to 2"),
        ("mpp", 0.1 <= config.mpp <= 2, "from 0.1 to 2 microns per pixel"),
        ("seed", config.seed >= 0, "0 or more"),
        ("workers", config.workers >= 0, "0, for one per core, or more"),
    ):
        if not good:
            raise refuse(name, rule, getattr(config, name), "Correct it.")
    if config.rate * config.cells < 0.5:
        raise refuse("rate", f"at least {0.5 / config.cells:g} with {config.cells} cells, so that there is a witness",
                     config.rate, "Ask for more cells or a higher rate.")
    witnesses = SynthConfig.__dataclass_fields__["witness"].metadata["choices"]
    if config.witness not in witnesses:
        raise refuse("witness", f"one of {', '.join(witnesses)}", config.witness, "Choose one.")
    if config.witness != "squamous" and _asked(config):
        raise refuse("witness", f"squamous on slides with {_asked(config)[0]}", config.witness, "Leave out one of the two.")
    findings = 1 + len(_asked(config))
    if findings * _witnesses(config) > config.cells:
        raise refuse("rate", f"at most {1 / findings:.3g} with {findings} findings, which no cell shows two of",
                     config.rate, "Ask for a lower rate or fewer findings.")


def _asked(config: SynthConfig) -> list[str]:
    """The findings that slides are to show."""
    return [name for name in FINDINGS if getattr(config, name)]


def _witnesses(config: SynthConfig) -> int:
    """Cells of a positive slide that show its finding."""
    return int(np.floor(config.rate * config.cells + 0.5))


def _shown(config: SynthConfig, share: float, *key: int) -> set[int]:
    """Which slides show a finding: exactly the share, at least one, at most all but one."""
    count = int(np.clip(np.floor(config.slides * share + 0.5), 1, config.slides - 1))
    rng = np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(config.slides, 0, *key)))
    return set(rng.permutation(config.slides)[:count].tolist())


def _jobs(config: SynthConfig, directory: Path) -> list[_Job]:
    (directory / ("cells" if config.crops else "slides")).mkdir(exist_ok=True)
    abnormal = _shown(config, config.prevalence, 0)
    shown = {name: _shown(config, getattr(config, name), 1 + FINDINGS.index(name)) for name in _asked(config)}
    witnesses = _witnesses(config)
    digits = max(len(str(config.slides)), 3)
    return [
        _Job(f"slide-{i + 1:0{digits}}", f"patient-{i + 1:0{digits}}", i, i in abnormal, witnesses * (i in abnormal),
             {name: witnesses * (i in slides) for name, slides in shown.items()}, config, directory)
        for i in range(config.slides)
    ]


def _paint_all(jobs: list[_Job], workers: int) -> Iterator[None]:
    """Renders every slide; how many processes do it changes nothing in the result."""
    workers = min(workers or _cores(), len(jobs))
    if workers == 1:
        yield from map(_Job.paint, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_Job.paint, jobs)


def _cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write_tables(jobs: list[_Job], directory: Path) -> None:
    truth = pd.concat([_truth(job) for job in jobs], ignore_index=True)
    slides = pd.DataFrame({
        "slide": [job.name for job in jobs],
        "file": [f"slides/{job.name}.tiff" for job in jobs],
        "patient": [job.patient for job in jobs],
        "abnormal": [int(job.abnormal) for job in jobs],
        **{name: [int(job.findings[name] > 0) for job in jobs] for name in jobs[0].findings},
    })
    if jobs[0].config.crops:
        slides = slides.drop(columns="file")
    else:
        truth[["slide", "x", "y"]].to_csv(directory / "cells.csv", index=False)
    slides.to_csv(directory / "slides.csv", index=False)
    (directory / "truth").mkdir(exist_ok=True)
    truth.to_csv(directory / "truth" / "cells.csv", index=False)


def _truth(job: _Job) -> pd.DataFrame:
    plan = job.plan()
    if job.config.crops:
        where = {"cell": [f"{job.name}/{name}" for name in _crop_names(job.config.cells)]}
    else:
        where = {"x": plan.places[:, 0], "y": plan.places[:, 1]}
    shown = {name: np.array([kind == name for kind in plan.kinds], int) for name in job.findings}
    return pd.DataFrame({"slide": job.name, **where, "abnormal": np.array(plan.abnormal, int), **shown, "kind": plan.kinds})


def _crop_names(cells: int) -> list[str]:
    return [f"{i + 1:0{max(len(str(cells)), 4)}}.jpg" for i in range(cells)]
