"""Slides of unequal size as one packed tensor with offsets: no padding, no masks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Bags(NamedTuple):
    """The cells of several slides, one slide after the other.

    >>> bags = Bags(torch.arange(4.0)[:, None], torch.tensor([0, 3, 4]))
    >>> bags.n_slides, bags.lengths.tolist(), bags.owner.tolist()
    (2, [3, 1], [0, 0, 0, 1])
    """

    features: Float[Tensor, "cell feature"]
    """One row per cell."""
    offsets: Int[Tensor, " slide+1"]
    """Slide i holds the rows `offsets[i]` to `offsets[i + 1]`; the first offset is 0, the last the number of cells."""

    @property
    def n_slides(self) -> int:
        """How many slides there are."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[Tensor, " slide"]:
        """How many cells each slide has."""
        return self.offsets.diff()

    @property
    def owner(self) -> Int[Tensor, " cell"]:
        """The number of the slide that each cell belongs to."""
        slides = torch.arange(self.n_slides, device=self.offsets.device)
        return slides.repeat_interleave(self.lengths, output_size=len(self.features))

    def select(self, slides: Sequence[int] | Int[Tensor, " selected"]) -> "Bags":
        """Those slides only, in that order; a slide may be asked for twice."""
        slides = torch.as_tensor(slides, dtype=torch.int64, device=self.offsets.device)
        lengths = self.lengths[slides]
        offsets = _offsets(lengths)
        moved = (self.offsets[slides] - offsets[:-1]).repeat_interleave(lengths)
        rows = torch.arange(len(moved), device=moved.device) + moved
        return type(self)(self.features.index_select(0, rows), offsets)


def concatenate(parts: Sequence[Bags]) -> Bags:
    """The slides of all parts, one part after the other."""
    return Bags(torch.cat([part.features for part in parts]), _offsets(torch.cat([part.lengths for part in parts])))


def cells_alone(features: Float[Tensor, "cell feature"]) -> Bags:
    """Each cell as a slide of its own."""
    return Bags(features, torch.arange(len(features) + 1, device=features.device))


def _offsets(lengths: Int[Tensor, " slide"]) -> Int[Tensor, " slide+1"]:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
