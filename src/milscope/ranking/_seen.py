"""What a ranking may read that learns from slide labels: cells of slides, and the slides' labels."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8


class Seen(NamedTuple):
    """Cells of all slides, slide after slide, and what is known of each slide.

    Attributes:
        pixels: The cells, square; may be a memory map.
        features: What an encoder makes of them; no columns if there is none.
        slide: The number of each cell's slide, rising.
        label: 1 for a positive slide to learn from, 0 for a normal one; NaN for slides that are only to be scored.
        seed: Same seed, same scores.
    """

    pixels: UInt8[np.ndarray, "cell side side 3"]
    features: Float[np.ndarray, "cell feature"]
    slide: Int[np.ndarray, " cell"]
    label: Float[np.ndarray, " slide"]
    seed: int

    @property
    def normal(self) -> Bool[np.ndarray, " cell"]:
        """Whether a cell lies on a normal slide to learn from: all such cells are normal."""
        return (self.label == 0)[self.slide]

    @property
    def positive(self) -> Bool[np.ndarray, " cell"]:
        """Whether a cell lies on a positive slide to learn from: few such cells are abnormal."""
        return (self.label == 1)[self.slide]


Learned = Callable[[Seen], Float[np.ndarray, " cell"]]
"""Cells in, a score for each out: higher is more suspicious, comparable between slides."""
