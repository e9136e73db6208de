"""Review: people judge the ranked cells of a run on a page of their own machine; their verdicts become a table."""

from milscope.review._review import open_verdicts, review
from milscope.review._store import VERDICTS
from milscope.review._table import Tabled, verdicts

__all__ = ["VERDICTS", "Tabled", "open_verdicts", "review", "verdicts"]
