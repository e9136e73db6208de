"""Some rows by chance."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from milscope.configs import EndToEndConfig
from milscope.samplers._base import Sampler, at_least_one, drawn


class RandomRows(Sampler):
    """A slide is so many of its rows by chance, each as likely as any other, at whichever scale.

    Args:
        budget: Rows a slide and step; a slide with fewer is all its rows.

    Raises:
        InputError: If the budget is less than one row.
    """

    whole: ClassVar[bool] = False

    def __init__(self, budget: int) -> None:
        self.budget = at_least_one(budget)

    @classmethod
    def of(cls, config: EndToEndConfig, budget: int) -> "RandomRows":
        """See `Sampler.of`."""
        del config
        return cls(budget)

    def seen(self, rows: Sequence[int], chance: torch.Generator) -> Int[Tensor, " seen"]:
        """See `Sampler.seen`."""
        return drawn(sum(rows), self.budget, chance)
