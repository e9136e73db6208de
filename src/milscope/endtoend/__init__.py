"""The stage `endtoend`: encoder and slide model learn together, from cells and slide labels."""

from milscope.endtoend._endtoend import EndToEnd, endtoend

__all__ = ["EndToEnd", "endtoend"]
