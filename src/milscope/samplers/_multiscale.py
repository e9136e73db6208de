"""Some rows by chance at each scale."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from milscope.configs import EndToEndConfig
from milscope.samplers._base import Sampler, at_least_one, drawn
from milscope.types import refuse


class MultiScale(Sampler):
    r"""A slide is a fixed share of the budget at each scale, by chance.

    $$ s_j = \lceil s \, \sigma_j \rceil, \qquad \sigma_1 : \sigma_j = r : 1 $$

    Rounding up may take one row more a scale than the budget; a scale with fewer rows than its share gives all it has, and
    the others no more for it.

    Args:
        budget: s, rows a slide and step.
        ratio: r, rows at the first scale for each one at another.

    Raises:
        InputError: If the budget is less than one row, or the ratio not above 0.

    Source:
        Tang et al., Revisiting End-to-End Learning with Slide-level Supervision in Computational Pathology, arXiv
        2506.02408, 2025, multi-scale random patch sampling.
    """

    whole: ClassVar[bool] = False

    def __init__(self, budget: int, ratio: float = 4.0) -> None:
        if not 0 < ratio < math.inf:
            raise refuse("scale_ratio", "above 0", ratio, "4 is usual.")
        self.budget, self.ratio = at_least_one(budget), ratio

    @classmethod
    def of(cls, config: EndToEndConfig, budget: int) -> "MultiScale":
        """See `Sampler.of`.

        Raises:
            InputError: If the settings have one scale only.
        """
        if len(config.scales) < 2:
            raise refuse("sampler", "random where there is one scale", "`multi-scale`", "Give `--scales 1,0.5`, or use random.")
        return cls(budget, config.scale_ratio)

    def seen(self, rows: Sequence[int], chance: torch.Generator) -> Int[Tensor, " seen"]:
        """See `Sampler.seen`."""
        parts = [drawn(count, share, chance) for count, share in zip(rows, self.shares(len(rows)), strict=True)]
        starts = [sum(rows[:scale]) for scale in range(len(rows))]
        return torch.cat([part + start for part, start in zip(parts, starts, strict=True)])

    def shares(self, scales: int) -> list[int]:
        """How many rows are drawn at each of so many scales, where there are enough."""
        weights = [self.ratio] + [1.0] * (scales - 1)
        return [math.ceil(self.budget * weight / sum(weights)) for weight in weights]
