"""The rows that are attended to, and some by chance."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milscope.configs import EndToEndConfig
from milscope.samplers._base import Sampler, at_least_one, drawn
from milscope.types import refuse


class AttentionGuided(Sampler):
    """A slide is all its rows; the encoder learns from those with the highest attention, and from some of the others by chance.

    The loss is that of the whole slide; its gradient is cut to some rows, those that are attended to most, and is not
    made up for the others: a part of the exact one, not an estimate of it.

    Args:
        budget: Rows a slide and step that the encoder learns from.
        explore: Share of them that is drawn by chance, between 0 and 1.

    Raises:
        InputError: If the budget is less than one row, or the share not between 0 and 1.
    """

    learns_all: ClassVar[bool] = False

    def __init__(self, budget: int, explore: float = 0.5) -> None:
        if not 0 <= explore <= 1:
            raise refuse("explore", "between 0 and 1", explore, "0.5 is usual.")
        self.budget, self.explore = at_least_one(budget), explore

    @classmethod
    def of(cls, config: EndToEndConfig, budget: int) -> "AttentionGuided":
        """See `Sampler.of`."""
        return cls(budget, config.explore)

    def learned(self, attention: Float[Tensor, " seen"], chance: torch.Generator) -> Int[Tensor, " learned"]:
        """See `Sampler.learned`."""
        order = attention.detach().cpu().argsort(descending=True, stable=True)
        by_chance = round(self.budget * self.explore)
        first = max(0, self.budget - by_chance)
        others = order[first:]
        return torch.cat([order[:first], others[drawn(len(others), by_chance, chance)]]).sort().values
