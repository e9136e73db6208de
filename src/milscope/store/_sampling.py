"""The order in which cells are seen: every cell once an epoch, positive and negative slides in every step."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Step(NamedTuple):
    """The cells of one training step, of all processes together, as row numbers."""

    positive: Int[np.ndarray, " positive"]
    negative: Int[np.ndarray, " negative"]


class HalvesSampler:
    """Shuffles cells of positive and of negative slides apart and deals both evenly over the steps of an epoch.

    Every cell comes once an epoch; in every step the two halves keep the ratio of their sizes. An epoch's order follows
    from the seed and the epoch alone, so that training can go on at any step, with any number of processes.

    Args:
        positive: Rows of the cells of positive slides.
        negative: Rows of the cells of negative slides.
        batch: Cells a step, both halves together; steps may hold a few less, or more where a half is so small that it
            could not give two cells to every step.
        seed: Same seed, same order.
    """

    def __init__(self, positive: Int[np.ndarray, " p"], negative: Int[np.ndarray, " n"], *, batch: int, seed: int) -> None:
        self.halves = (positive, negative)
        wanted = -(-(len(positive) + len(negative)) // batch)
        self.steps = max(1, min(wanted, min(len(positive), len(negative)) // 2))
        self.seed = seed

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """The steps of an epoch, from step `start` on."""
        generator = np.random.default_rng([self.seed, epoch])
        dealt = [np.array_split(generator.permutation(half), self.steps) for half in self.halves]
        for step in range(start, self.steps):
            yield Step(*(half[step] for half in dealt))
