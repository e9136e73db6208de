"""Measure: how well slides are told apart and cells ordered, on patients nothing was learned from."""

from milscope.evaluate._evaluate import Evaluated, evaluate

__all__ = ["Evaluated", "evaluate"]
