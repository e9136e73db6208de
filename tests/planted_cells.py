"""Cells on which learned rankings are tried: Gaussian ones, and on positive slides a few that are shifted."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from milscope.ranking import Seen


class Planted(NamedTuple):
    """What a ranking may see, and which cells are abnormal."""

    seen: Seen
    abnormal: Bool[np.ndarray, " cell"]


def planted(*, slides: int = 12, new: int = 4, cells: int = 60, width: int = 6, shift: float = 6.0, rate: float = 0.05,
            seed: int = 0) -> Planted:
    """Slides in turn normal and positive; the last `new` of them without a label; the first cells of positive ones abnormal."""
    random = np.random.default_rng(seed)
    positive = np.arange(slides) % 2 == 1
    features = random.normal(size=(slides, cells, width)).astype(np.float32)
    abnormal = positive[:, None] & (np.arange(cells) < max(1, round(rate * cells)))
    features[abnormal, :2] += shift
    label = np.where(np.arange(slides) < slides - new, positive.astype(float), np.nan)
    return Planted(Seen(np.zeros((slides * cells, 0, 0, 3), np.uint8), features.reshape(-1, width),
                        np.repeat(np.arange(slides), cells), label, seed), abnormal.reshape(-1))
