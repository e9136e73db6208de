"""The rows of slides, each a cell as seen at one scale, and their views."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from milscope.augment import Draw, Views, centre
from milscope.checkpoints import seeded
from milscope.configs import EndToEndConfig
from milscope.store import CellStore, Pixels, windows

Numbers = Int[Tensor, " row"]


class Rows:
    """All rows there are: decoded cells, slide by slide, within a slide scale by scale.

    Args:
        store: The cells.
        slides: Whose, in this order; a slide is spoken of by its place among them.
        config: The settings.
        like: What views are made like: a weight of the encoder, of its type and on its device.
        size: Side of a view, pixels.
        work: Where decoded cells are kept.
    """

    def __init__(self, store: CellStore, slides: Sequence[str], config: EndToEndConfig, *, like: Tensor, size: int,
                 work: Path) -> None:
        self.size, self.config, self.device, self.kind = size, config, like.device, like.dtype
        self.side = math.ceil(size * config.margin)
        self.views = Views(size, colour=config.colour, stain=config.stain, orientations=config.orientations,
                           resize=config.resize)
        looks = windows(config.scales, config.windows)
        self.at_scale = [sum(look.share == share for look in looks) for share in dict.fromkeys(look.share for look in looks)]
        self.cells = [store.count(slide) for slide in slides]
        self.pixels = Pixels(store, slides, size=self.side, cache=work / "pixels.npy", budget=config.cache, windows=looks)

    def of(self, slide: int) -> list[int]:
        """How many rows the slide has at each scale."""
        return [windows * self.cells[slide] for windows in self.at_scale]

    def count(self, slide: int) -> int:
        """How many rows the slide has."""
        return sum(self.of(slide))

    def numbers(self, slide: int, seen: Numbers) -> Numbers:
        """The numbers, among all rows, of some rows of a slide."""
        return int(self.pixels.starts[slide]) + seen

    def all_of(self, slides: Sequence[int]) -> Numbers:
        """The numbers of all rows of some slides, one slide after the other."""
        return torch.cat([self.numbers(slide, torch.arange(self.count(slide))) for slide in slides])

    def some_of(self, slides: Sequence[int], most: int, chance: torch.Generator) -> Numbers:
        """The numbers of so many of their rows, drawn by chance, in no order."""
        numbers = self.all_of(slides)
        return numbers[torch.randperm(len(numbers), generator=chance)[:most]]

    def middles(self, numbers: Numbers) -> Float[Tensor, "row 3 size size"]:
        """The views without chance."""
        return self._ready(centre(self._read(numbers), self.size))

    def draw(self, rows: int, *seed: int) -> Draw:
        """The chance in the views of so many rows."""
        return self.views.draw(rows, self.side, seeded(*seed))

    def views_of(self, numbers: Numbers, draw: Draw) -> Float[Tensor, "row 3 size size"]:
        """One random view of each row, as drawn."""
        return self._ready(self.views.apply(self._read(numbers), draw))

    def _read(self, numbers: Numbers) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.pixels[numbers.numpy()])).to(self.device)

    def _ready(self, views: Tensor) -> Tensor:
        return views.to(self.kind, memory_format=torch.channels_last)


class Seen(NamedTuple):
    """What a step looks at: the rows of its slides one slide after the other, and the chance in their views."""

    numbers: Numbers
    lengths: list[int]
    """Rows of each slide."""
    draw: Draw


def joined(draws: Sequence[Draw]) -> Draw:
    """The chance of several slides, one after the other."""
    return Draw(*(torch.cat(parts) for parts in zip(*draws, strict=True)))
