"""The audit before training: `milscope check`."""

from milscope.check._check import Checked, check

__all__ = ["Checked", "check"]
