"""Features made ready for training: standardised, in the arithmetic of the training, in one file that is mapped."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from milscope.progress import progress
from milscope.store._bags import Bags
from milscope.store._features import read_features
from milscope.types import refuse

ROWS = 65_536
"""Cells at a time in float64."""


class Scale(NamedTuple):
    """Mean and standard deviation of each feature; a feature that does not vary keeps its size (1)."""

    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]


def measure_scale(parts: Iterable[Float[Tensor, "_ feature"]]) -> Scale:
    """The scale of cells that come in parts, in float64.

    Source:
        Chan, Golub, LeVeque, Algorithms for computing the sample variance, 1983, equation 1.5.
    """
    cells, mean, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for part in parts:
        for rows in part.split(ROWS):
            if len(rows):
                exact = rows.double()
                there = exact.mean(0)
                apart = there - mean
                total = cells + len(rows)
                squares = squares + (exact - there).square().sum(0) + apart.square() * (cells * len(rows) / total)
                mean = mean + apart * (len(rows) / total)
                cells = total
    deviation = (squares / max(1, cells)).sqrt()
    return Scale(mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0))


class Packed(NamedTuple):
    """The cells of slides, standardised and mapped from one file: memory is taken by what is in use only."""

    bags: Bags
    slides: list[str]
    scale: Scale
    empty: list[str]
    """Slides without cells, which are left out."""


def pack_features(directory: Path, slides: Sequence[str], path: Path, precision: torch.dtype, scale: Scale | None = None,
                  ) -> Packed:
    """Reads the features of slides twice: for their scale, and to write them standardised.

    Args:
        directory: A `features` artifact.
        slides: Names of slides that have features.
        path: The file to write; it belongs to the packed features as long as they are used.
        precision: float32, or bfloat16 for half the room.
        scale: By which they are standardised; None: their own.

    Raises:
        InputError: If a feature is not finite, or slides differ in width.
    """
    lengths: dict[str, int] = {}
    with progress("read", 2 * len(slides), "slides") as advance:
        def finite() -> Iterable[Tensor]:
            for slide in slides:
                features = _finite(directory, slide)
                lengths[slide] = len(features)
                yield features
                advance(1)

        own = measure_scale(finite())
        scale = scale or own
        mean, deviation = scale.mean.float(), scale.deviation.float()
        with path.open("wb") as file:
            for slide in slides:
                features = ((read_features(directory, [slide]).features - mean) / deviation).to(precision)
                file.write(features.view(torch.uint8).numpy().data)
                advance(1)
    kept = [slide for slide in slides if lengths[slide]]
    offsets = torch.tensor([0, *(lengths[slide] for slide in kept)]).cumsum(0)
    size = int(offsets[-1]) * len(mean)
    flat = torch.from_file(str(path), shared=True, size=size, dtype=precision) if size else torch.empty(0, dtype=precision)
    return Packed(Bags(flat.view(-1, len(mean)), offsets), kept, scale, [slide for slide in slides if not lengths[slide]])


def _finite(directory: Path, slide: str) -> Float[Tensor, "cell feature"]:
    features = read_features(directory, [slide]).features
    wrong = ~torch.isfinite(features).all(1)
    if wrong.any():
        raise refuse("features", "finite", f"nan or inf in {int(wrong.sum())} cells, first in slide `{slide}`",
                     "Encode that slide again.")
    return features
