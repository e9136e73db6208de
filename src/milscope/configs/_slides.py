"""The settings of the stages that make slides and cells ready."""

from dataclasses import dataclass

from milscope.configs._setting import setting


@dataclass(frozen=True)
class SynthConfig:
    """What rendered slides look like."""

    slides: int = setting(40, "number of slides, one per patient")
    cells: int = setting(200, "cells per slide")
    prevalence: float = setting(0.5, "share of slides that are abnormal")
    rate: float = setting(0.05, "witness rate: share of abnormal cells on an abnormal slide")
    candida: float = setting(0.0, "share of slides with candida, a second column of labels; 0: no such column")
    clue: float = setting(0.0, "share of slides with clue cells, a further column of labels; 0: no such column")
    witness: str = setting("squamous", "what is abnormal: squamous cells of three grades; or, among smaller cells, one thing: "
                           "inclusion, size of the nucleus, chromatin, outline or colour of the cell; mixed: any of these",
                           choices=("squamous", "inclusion", "nucleus", "chromatin", "outline", "colour", "mixed"))
    alone: bool = setting(False, "every cell in a square of 48 microns of its own: no crop shows a neighbour")
    spread: float = setting(1.0, "how much stain and light differ from slide to slide; 0: not at all, for slides drawn anew "
                            "from the cells of many")
    mpp: float = setting(0.5, "scale of the rendered slides, microns per pixel")
    seed: int = setting(0, "same seed, same slides")
    crops: bool = setting(False, "write a folder of cell crops per slide instead of slide images")
    workers: int = setting(0, "processes; 0 means one per core", identity=False)


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided."""

    validation: float = setting(0.2, "share of patients on which models are chosen")
    test: float = setting(0.2, "share of patients on which nothing is chosen and everything is measured")
    seed: int = setting(0, "same seed, same division")


@dataclass(frozen=True)
class TileConfig:
    """How slides become cells."""

    size: int = setting(64, "side of a crop or tile, pixels at the working scale")
    mpp: float | None = setting(None, "working scale, microns per pixel; empty: the image's own pixels")
    slide_mpp: float | None = setting(None, "scale of slides that do not tell theirs, microns per pixel")
    find: str = setting("tiles", "what is cut from images without a cell table: tiles of a grid, or nuclei that are found",
                        choices=("tiles", "nuclei"))
    overlap: int = setting(0, "tiles only: pixels that neighbours share")
    foreground: float = setting(0.1, "tiles only: least share of a tile that must be stained")
    nucleus: float = setting(8.0, "nuclei only: typical diameter, microns")
    stain: str = setting("papanicolaou", "nuclei only: how the slides are stained",
                         choices=("papanicolaou", "haematoxylin-eosin"))
    contrast: float = setting(0.45, "nuclei only: least contrast, as a share of the upper quartile of all that stands out")
    quality: int = setting(95, "JPEG quality of crops cut from images; 100 stores PNG, without loss")
    retry_failed: bool = setting(False, "try slides again that failed before", identity=False)
    limit: float = setting(1800.0, "longest time for a slide, seconds; then it counts as failed. 0: any time", identity=False)
    workers: int = setting(0, "processes; 0 means one per core; 1 without a limit works in milscope's own", identity=False)
    executor: str = setting("processes", "who does the slides: processes of this machine, or a Ray cluster", identity=False,
                            choices=("processes", "ray"))
    address: str = setting("", "of the Ray cluster; empty: the one this machine belongs to, else a local one", identity=False)


@dataclass(frozen=True)
class CheckConfig:
    """What is looked for before training."""

    task: str = setting("", "columns of labels, with commas; empty: all columns of yes and no")
    about: tuple[str, ...] = setting((), "more columns that say how slides were made; names such as site or scanner are known")
    few: int = setting(10, "slides with fewer cells are named")
    alike: float = setting(0.95, "how alike two pictures must be to be near-duplicates; 1: the same")
    draws: int = setting(1000, "bootstrap draws of patients, and shuffles of the labels")
    seed: int = setting(0, "same seed, same intervals")
    workers: int = setting(0, "processes; 0 means one per core", identity=False)
