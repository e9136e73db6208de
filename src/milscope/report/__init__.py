"""The page: one self-contained HTML file that shows a person what a run found, and how far to trust it."""

from milscope.report._comparison import ComparedModel, ComparisonPage, comparison_page
from milscope.report._report import Reported, report

__all__ = ["ComparedModel", "ComparisonPage", "Reported", "comparison_page", "report"]
