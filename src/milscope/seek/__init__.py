"""The stage `seek`: cells ranked by what learns from slide labels, slides by their highest cells."""

from milscope.seek._seek import Sought, seek

__all__ = ["Sought", "seek"]
