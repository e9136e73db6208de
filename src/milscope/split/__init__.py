"""The stage `split`: patients are divided into training, validation and test, once or in folds."""

from milscope.split._outside import read_splits, write_splits
from milscope.split._split import folds, rotations, split

__all__ = ["folds", "read_splits", "rotations", "split", "write_splits"]
