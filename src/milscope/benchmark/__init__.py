"""The benchmark of witness rates: slides of an exact rate, every method on the same, and what each of them reached."""

from milscope.benchmark._grid import Benchmarked, witness
from milscope.benchmark._measure import measure
from milscope.benchmark._page import PAGE, write_page
from milscope.benchmark._summary import Summary, summarise
from milscope.benchmark._tables import write_tables

__all__ = ["PAGE", "Benchmarked", "Summary", "measure", "summarise", "witness", "write_page", "write_tables"]
