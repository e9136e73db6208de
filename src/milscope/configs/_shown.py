"""The settings of what a person gets: the page, the review, heat maps, files for other programs."""

from dataclasses import dataclass

from milscope.configs._results import LEARNED
from milscope.configs._setting import setting


@dataclass(frozen=True)
class ReportConfig:
    """What the pages show."""

    title: str = setting("", "title of the pages; empty: the name of the run")
    slides: int = setting(1000, "most slides with a page of their own; all are listed")
    cells: int = setting(200, "most cells shown per slide")


@dataclass(frozen=True)
class ReviewConfig:
    """How a run is put before reviewers."""

    reviewer: str = setting("", "name under which verdicts are kept; empty: the page asks")
    port: int = setting(0, "port on this machine; 0: any that is free")
    open: bool = setting(True, "open the page in the browser")


@dataclass(frozen=True)
class VerdictsConfig:
    """Which verdicts become a table of cells."""

    task: str = setting("", "task of the verdicts; empty: the main one")
    reviewer: str = setting("", "only those of this reviewer; empty: what most of them say")


@dataclass(frozen=True)
class HeatmapConfig:
    """How scores of cells become pictures of slides."""

    task: str = setting("", "task whose scores are drawn; empty: the main one")
    rank: str = setting("evidence", "scores that are drawn", choices=("evidence", "attention", "gradient", "routing", *LEARNED))
    among: str = setting("auto", "cells among which a score is rare or not: of all slides, or of its own; auto: of all where "
                         "scores can be compared", choices=("auto", "slide", "cohort"))
    mpp: float = setting(8.0, "resolution of the full-size picture, microns per pixel; finer for small cells and slides")


@dataclass(frozen=True)
class ExportCellsConfig:
    """In which forms ranked cells are written for other programs."""

    to: tuple[str, ...] = setting(("qupath", "csv"), "which: qupath, tissuumaps, csv, parquet, crops")
    k: int = setting(0, "most cells per slide; 0: all that are ranked")
    task: str = setting("", "task whose cells are written; empty: the main one")
