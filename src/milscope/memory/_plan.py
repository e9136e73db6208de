"""How many cells are encoded at a time, and how many of a slide get gradients, so that a given memory holds."""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from milscope.aggregators import Aggregator
from milscope.configs import EndToEndConfig
from milscope.devices import choose_precision
from milscope.encoders import Encoder
from milscope.memory._need import Need, measured_need
from milscope.samplers import SAMPLERS
from milscope.types import refuse

UNITS: Mapping[str, float] = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
LEAST = 16
"""Rows that are encoded at a time are a multiple of this."""
MOST: Mapping[str, int] = {"cpu": 512, "cuda": 4096}
"""Rows above which encoding more at a time gains nothing, where a step has no one graph anyhow."""


class Plan(NamedTuple):
    """How encoder and slide model are trained within a memory."""

    chunk: int
    """Most rows that are encoded at a time."""
    budget: int
    """Rows of a slide that get gradients in a step; 0 where all do."""
    precision: torch.dtype
    """Arithmetic of the networks' products; float32: that of their weights."""
    expected: float
    """Most memory that is expected to be taken, bytes."""
    said: str
    """All of it in a line."""


class Steps(NamedTuple):
    """The largest step of a training."""

    need: Need
    config: EndToEndConfig
    rows: Sequence[int]
    """Of each slide, descending."""
    together: int
    """Most rows that the slide model takes at a time, but for a slide that has more."""
    device: str

    def seen(self, budget: int) -> list[int]:
        """Rows of each slide that the step looks at."""
        largest, rounded_up = self.rows[: self.config.batch], len(self.config.scales) - 1
        if SAMPLERS[self.config.sampler].whole:
            return list(largest)
        return [min(rows, budget + rounded_up) for rows in largest]

    def expected(self, chunk: int, budget: int) -> float:
        """The most memory that is taken, bytes."""
        seen, learns_all = self.seen(budget), SAMPLERS[self.config.sampler].learns_all
        together = min(sum(seen), max(self.together, *seen))
        return self.need.of(chunk, sum(seen), together, one_graph=learns_all and sum(seen) <= chunk)

    def whole(self, budget: int) -> int:
        """The chunk that takes all rows of the step."""
        return -(-sum(self.seen(budget)) // LEAST) * LEAST

    def chunk(self, room: float, budget: int) -> int:
        """The best chunk for which there is room: the whole step's one graph, else the largest that is of use; 0: none."""
        if self.config.chunk:
            return self.config.chunk if self.expected(self.config.chunk, budget) <= room else 0
        whole = self.whole(budget)
        if SAMPLERS[self.config.sampler].learns_all and self.expected(whole, budget) <= room:
            return whole
        sizes = range(LEAST, min(whole, MOST[self.device]) + 1, LEAST)
        return LEAST * bisect_left(sizes, True, key=lambda size: self.expected(size, budget) > room)

    def budget(self, room: float) -> int:
        """The largest budget whose rows have one graph, or where all rows are looked at, whose rows are one chunk; 0: none."""
        if SAMPLERS[self.config.sampler].whole:
            return self.chunk(room, 1) // min(self.config.batch, len(self.rows))
        most = self.config.chunk or self.whole(self.rows[0])

        def too_large(budget: int) -> bool:
            return sum(self.seen(budget)) > most or self.expected(min(most, self.whole(budget)), budget) > room

        return bisect_left(range(1, self.rows[0] + 1), True, key=too_large)


def bytes_of(memory: str) -> float:
    """The number of bytes that is written so.

    >>> bytes_of("6GB"), bytes_of("1.5 GiB")
    (6000000000.0, 1610612736.0)

    Raises:
        InputError: If it is not a number above 0 with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", memory)
    if not found or found[2].lower() not in UNITS or float(found[1]) == 0:
        raise refuse("memory", "a number with kB, MB, GB, TB, MiB, GiB or TiB", f"`{memory}`", "Write it as 6GB.")
    return float(found[1]) * UNITS[found[2].lower()]


def plan_memory(config: EndToEndConfig, encoder: Encoder, aggregator: Aggregator, *, side: int, rows: Sequence[int],
                device: torch.device, together: int = 32_768) -> Plan:
    """How many rows are encoded at a time, and how many of a slide get gradients, so that the memory holds.

    What a row takes is measured: both networks compute a few rows, forward and backward, while the tensors that there are at
    each moment are counted; nothing of the networks changes. To that comes what is there already, and what training adds.
    Files that are mapped into memory (programs, decoded cells) are not counted.

    Args:
        config: The settings.
        encoder: On its device, in the type in which it is trained; its optimizer is not made yet.
        aggregator: Likewise.
        side: Of a decoded cell, pixels.
        rows: How many rows each slide has, at all scales together.
        device: Where it is computed.
        together: Most rows that the slide model takes at a time, but for a slide that has more.

    Raises:
        InputError: If the memory does not suffice.
    """
    room, exhaustive = bytes_of(config.memory), config.sampler == "all"
    precision = torch.float32 if config.precision == "float64" else choose_precision(config.precision, device)
    need = measured_need(config, encoder, aggregator, side=side, precision=precision)
    steps = Steps(need, config, sorted(rows, reverse=True), together, device.type)
    budget = 0 if exhaustive else config.budget or steps.budget(room)
    chunk = steps.chunk(room, budget) if budget or exhaustive else 0
    if not chunk:
        size, words = config.chunk or LEAST, " a `chunk` that is smaller," if config.chunk else ""
        least = math.ceil(steps.expected(size, budget or 1) / 1e7) / 100
        raise refuse("memory", f"{least:.2f}GB or more, for {size} cells at a time", config.memory,
                     f"Give more, or take{words} a smaller encoder, `size` or `batch`.")
    expected = steps.expected(chunk, budget)
    return Plan(chunk, budget, precision, expected, _said(steps, chunk, budget, precision=precision))


def _said(steps: Steps, chunk: int, budget: int, *, precision: torch.dtype) -> str:
    rows, need = sum(steps.seen(budget)), steps.need
    gradients = f"{budget} cells a slide" if budget else "all cells"
    way = "at once" if SAMPLERS[steps.config.sampler].learns_all and rows <= chunk else f"in chunks of {chunk}"
    kind = steps.config.precision if steps.config.precision == "float64" else str(precision).removeprefix("torch.")
    each = (need.learning.of(chunk) - need.learning.of(chunk - 1)) / 1e6
    expected, room = steps.expected(chunk, budget) / 1e9, bytes_of(steps.config.memory) / 1e9
    return (f"gradients of {gradients}, {way}, {kind}: {expected:.2f} of {room:.2f} GB, {need.there / 1e9:.2f} GB of it "
            f"whatever the cells, {each:.2f} MB a cell")
