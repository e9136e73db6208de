"""The settings of the stages from the model to the page."""

from dataclasses import dataclass

from milscope.configs._learning import EncodeConfig
from milscope.configs._setting import as_in, setting
from milscope.configs._slides import TileConfig

LEARNED = ("seek", "local", "mahalanobis", "neighbours", "svdd", "density", "pu", "selfpaced")
"""The rankings that `seek` learns from slide labels."""


@dataclass(frozen=True)
class SeekConfig:
    """How cells are ranked by what learns from slide labels, and slides by their highest cells."""

    task: str = setting("", "label column to learn from; empty: the only one")
    rankings: tuple[str, ...] = setting(("seek",), "what ranks the cells; the first tells the slides apart")
    size: int = setting(64, "side of a cell for rankings that look at its pixels")
    threshold: float = setting(0.5, "probability from which a slide is called positive")
    seed: int = setting(0, "same seed, same scores")
    cache: float = setting(16.0, "most space for decoded cells, GB on disk", identity=False)


@dataclass(frozen=True)
class PredictConfig:
    """How slides are scored."""

    threshold: float | None = setting(None, "probability from which a slide is called positive; empty: the model's, else 0.5")
    precision: str = setting("float32", "arithmetic; auto is faster where the processor has bfloat16, and as exact as that",
                             choices=("auto", "float32", "bfloat16"))
    gradient: bool = setting(False, "a third score of cells: gradient times input, at three times the cost")
    executor: str = as_in(EncodeConfig, "executor")
    workers: int = as_in(EncodeConfig, "workers")
    limit: float = as_in(EncodeConfig, "limit")
    address: str = as_in(TileConfig, "address")


@dataclass(frozen=True)
class RetrieveConfig:
    """Which cells are put before a person."""

    k: int = setting(400, "cells per slide; a smaller slide gives all it has")
    rank: str = setting("evidence", "what orders the cells", choices=(
        "evidence", "attention", "gradient", "routing", *LEARNED))
    labels_task: str = setting("", "with verdicts on cells: the task that they are of; empty: the main one")
    reach: int = setting(2000, "with verdicts on cells: most cells of a slide that are looked at, the first by `rank`; the "
                         "others follow as they were")


@dataclass(frozen=True)
class EvaluateConfig:
    """How results are measured."""

    transductive: bool = setting(False, "also judge patients that the encoder or model was trained on (said on the report)")
    truth_column: str = setting("", "column of the cell truth; empty: the task's name, else the only candidate")
    truth_normal: str = setting("0", "value of that column which means a normal cell; any other is a witness")
    draws: int = setting(1000, "bootstrap draws over patients")
    confidence: float = setting(0.95, "coverage of the intervals")
    at_specificity: float = setting(0.9, "specificity at which the sensitivity is also told")
    at_sensitivity: float = setting(0.95, "sensitivity at which the specificity is also told")
    seed: int = setting(0, "same seed, same intervals")
