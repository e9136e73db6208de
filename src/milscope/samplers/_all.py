"""All rows, exactly."""

from milscope.samplers._base import Sampler


class AllRows(Sampler):
    """All rows are seen and learned from: the exact gradient of the slide's loss."""
