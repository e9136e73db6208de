"""Packed slides as few dense tensors: those of equal length that follow each other lie in one."""

from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from milscope.store import Bags


class Runs(NamedTuple):
    """Which slides are computed at once, for steps that look at a slide as a whole.

    >>> import torch
    >>> runs = runs_of(Bags(torch.arange(8.0)[:, None], torch.tensor([0, 3, 6, 8])))
    >>> [tuple(part.shape) for part in cells_by_run(torch.arange(8.0), runs)]
    [(2, 3), (1, 2)]
    """

    slides: list[int]
    """The number of slides of each run."""
    lengths: list[int]
    """The number of cells of each of its slides."""
    owner: Int[Tensor, " cell"]
    """The number of the slide that each cell belongs to."""
    n_slides: int


def runs_of(bags: Bags) -> Runs:
    """The runs of these slides."""
    if bags.n_slides == 1:  # of unknown length, where it is exported
        return Runs([1], [bags.features.shape[0]], bags.owner, 1)
    found = [(len(list(same)), length) for length, same in groupby(bags.lengths.tolist())]
    return Runs([slides for slides, _ in found], [length for _, length in found], bags.owner, bags.n_slides)


def cells_by_run(packed: Shaped[Tensor, "cell *other"], runs: Runs) -> list[Tensor]:
    """What belongs to cells, a tensor (slide, cell, …) for each run."""
    shapes = list(zip(runs.slides, runs.lengths, strict=True))
    parts = [packed] if len(shapes) == 1 else packed.split([slides * length for slides, length in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]


def slides_by_run(values: Shaped[Tensor, "slide *other"], runs: Runs) -> list[Tensor]:
    """What belongs to slides, a tensor for each run."""
    return [values] if len(runs.slides) == 1 else list(values.split(runs.slides))


def content_keys(features: Float[Tensor, "cell feature"]) -> Float[Tensor, " cell"]:
    """The sum of each cell's features, so exact that cells lie in the same order wherever it is computed."""
    features = features.detach()
    return features.sum(1) if features.device.type == "mps" else features.double().sum(1)


def from_highest(
    scores: Float[Tensor, "slide cell column"], keys: Float[Tensor, "slide cell"]
) -> Int[Tensor, "slide cell column"]:
    """The places of a slide's cells from the highest score on; of equal ones the smaller key comes first."""
    by_key = _order(keys, descending=False)[:, :, None].expand_as(scores)
    return by_key.gather(1, _order(scores.gather(1, by_key), descending=True))


def _order(values: Float[Tensor, "slide cell *column"], *, descending: bool) -> Int[Tensor, "slide cell *column"]:
    """Of equal values the first comes first, as ONNX sorts anyway."""
    if torch.compiler.is_exporting():
        return values.argsort(1, descending)
    return values.argsort(dim=1, descending=descending, stable=True)


class Turn(NamedTuple):
    """The tasks that go through a block together, and whose experts change the cells meanwhile."""

    runs: Runs
    keys: Float[Tensor, " cell"]
    """What orders cells that are sent to an expert alike."""
    own: list[int]
    """Numbers of the tasks whose tokens go through."""
    others: list[int]
    """Numbers of further tasks whose experts change the cells."""
