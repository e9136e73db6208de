"""How much memory training end to end takes, and how many cells at a time a given memory has room for."""

from milscope.memory._need import LOOKED
from milscope.memory._plan import Plan, bytes_of, plan_memory

__all__ = ["LOOKED", "Plan", "bytes_of", "plan_memory"]
