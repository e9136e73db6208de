"""What a sampler decides in a step, for one slide; and drawing without replacement."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milscope.configs import EndToEndConfig
from milscope.types import refuse


class Sampler:
    """Which rows a slide consists of in a step, and which of those the encoder learns from; as it stands, all and all.

    A row is one cell as seen at one scale. Rows that are seen and not learned from count in the loss as they are, without
    a gradient of theirs.
    """

    whole: ClassVar[bool] = True
    """Whether a slide consists of all its rows in every step, whatever the budget."""
    learns_all: ClassVar[bool] = True
    """Whether the encoder learns from all rows that are seen, so that nobody need ask `learned`."""

    @classmethod
    def of(cls, config: EndToEndConfig, budget: int) -> "Sampler":
        """The sampler with what the settings say; see `make_sampler`."""
        del config, budget
        return cls()

    def seen(self, rows: Sequence[int], chance: torch.Generator) -> Int[Tensor, " seen"]:
        """The rows that the slide consists of in this step, ascending.

        Args:
            rows: How many rows the slide has at each scale; they are numbered scale by scale, in one go.
            chance: Where random numbers come from.
        """
        del chance
        return torch.arange(sum(rows))

    def learned(self, attention: Float[Tensor, " seen"], chance: torch.Generator) -> Int[Tensor, " learned"]:
        """Places, among the rows that are seen, of those that the encoder learns from, ascending.

        Args:
            attention: What the aggregator gave to each row that is seen, on any device.
            chance: Where random numbers come from.
        """
        del chance
        return torch.arange(len(attention))


def drawn(count: int, most: int, chance: torch.Generator) -> Int[Tensor, " drawn"]:
    """So many of the numbers below `count`, each as likely as any other, ascending; all of them if there are no more."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=chance)[:most].sort().values


def at_least_one(budget: int) -> int:
    """The budget.

    Raises:
        InputError: If it is less than one row.
    """
    if budget < 1:
        raise refuse("budget", "at least 1 cell", budget, "Ask for more, or use `--sampler all`.")
    return budget
