"""How good slide scores and rankings of cells are, with intervals by bootstrap over patients."""

from milscope.metrics._binary import (
    SLIDE_METRICS,
    Levels,
    SlideScores,
    Thresholds,
    slide_metrics,
    thresholds,
    weighted_auc,
    weighted_slide_metrics,
)
from milscope.metrics._bootstrap import Bootstrap, Interval, Scores, bounds, intervals, joined, mean_of_defined, resample
from milscope.metrics._calibration import Reliability, bins_for, calibration_error, error_if_true, recalibration, reliability
from milscope.metrics._cells import DEPTHS, cell_metrics, found, mean_curve, mean_over_slides
from milscope.metrics._classes import (
    CLASS_METRICS,
    ORDINAL_METRICS,
    ClassScores,
    class_metrics,
    confusion,
    weighted_class_metrics,
)
from milscope.metrics._review import REVIEW_METRICS, Decisions, review_metrics
from milscope.metrics._survival import (
    SurvivalScores,
    c_index,
    survival_metrics,
    weighted_brier,
    weighted_c_index,
)

__all__ = [
    "CLASS_METRICS",
    "DEPTHS",
    "ORDINAL_METRICS",
    "REVIEW_METRICS",
    "SLIDE_METRICS",
    "Bootstrap",
    "ClassScores",
    "Decisions",
    "Interval",
    "Levels",
    "Reliability",
    "Scores",
    "SlideScores",
    "SurvivalScores",
    "Thresholds",
    "bins_for",
    "bounds",
    "c_index",
    "calibration_error",
    "cell_metrics",
    "class_metrics",
    "confusion",
    "error_if_true",
    "found",
    "intervals",
    "joined",
    "mean_curve",
    "mean_of_defined",
    "mean_over_slides",
    "recalibration",
    "reliability",
    "resample",
    "review_metrics",
    "slide_metrics",
    "survival_metrics",
    "thresholds",
    "weighted_auc",
    "weighted_brier",
    "weighted_c_index",
    "weighted_class_metrics",
    "weighted_slide_metrics",
]
