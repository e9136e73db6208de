"""The report: a folder of pages that shows a person what a run found, and how far to trust it."""

from milscope.report._charts import DASHES, INK, MUTED, SERIES, SURFACE, Chart, Drawing
from milscope.report._comparison import ComparedModel, ComparisonPage, comparison_page
from milscope.report._images import Picture, crop
from milscope.report._report import Reported, report

__all__ = [
    "DASHES",
    "INK",
    "MUTED",
    "SERIES",
    "SURFACE",
    "Chart",
    "ComparedModel",
    "ComparisonPage",
    "Drawing",
    "Picture",
    "Reported",
    "comparison_page",
    "crop",
    "report",
]
