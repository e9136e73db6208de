"""Comparison: several slide models on the same patients, with what can be told apart and what cannot."""

from milscope.compare._compare import Compared, compare

__all__ = ["Compared", "compare"]
