"""How the gradients of several objectives on shared parameters become one step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Gramian = Float[Tensor, "task task"]
Weights = Float[Tensor, " task"]

CANCELLED = 1e-4
"""Gradients that leave less than this share of their lengths after surgery have cancelled: what is left is rounding."""
SAFE_LENGTHS = (1e-12, 1e18)
"""Lengths of gradients whose inner products float32 holds."""


class Conflict(NamedTuple):
    """What the gradients had to do with each other in one step; all are 1 where there is only one."""

    cosine: Float[Tensor, ""]
    """Cosine between the two, the smallest of all pairs; negative is a conflict, 0 if a gradient is zero."""
    length_ratio: Float[Tensor, ""]
    """Length of the first over that of the second; of more than two, longest over shortest. 1 if a gradient is zero."""
    rescale: Float[Tensor, ""]
    """What the combination was multiplied by to keep the length of the plain sum."""


class Surgery(ABC):
    """A rule that joins gradients, through their inner products only.

    The step is a linear combination of the gradients whose weights follow from the Gramian, so no gradient is ever
    flattened or copied. Any number of objectives; one is trained as without surgery.

    Args:
        keep_length: Whether the step is rescaled to the length of the plain sum.
        rescale_bound: The most it may be lengthened by. Two gradients that nearly cancel leave a remainder that is
            otherwise amplified (18 times at length ratio 10 and cosine -0.999, and up to `1 / CANCELLED`). None: no
            bound.
    """

    def __init__(self, *, keep_length: bool = True, rescale_bound: float | None = None) -> None:
        self.keep_length = keep_length
        self.rescale_bound = rescale_bound

    @abstractmethod
    def combination(self, gramian: Gramian) -> Weights:
        """The weight of each gradient before any rescaling."""

    def __call__(self, gradients: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], Conflict]:
        """The joined gradient of each parameter, and the telemetry of the conflict.

        Args:
            gradients: Per task, the gradient of each shared parameter, in the same order.
        """
        if len(gradients) == 1:
            one = torch.ones((), dtype=torch.float64, device=gradients[0][0].device)
            return list(gradients[0]), Conflict(one, one, one)
        products = gramian(gradients)
        weights, rescale = self.weights(products)
        joined = [_weighted_sum(parts, weights) for parts in zip(*gradients, strict=True)]
        return joined, Conflict(_smallest_cosine(products), _length_ratio(products), rescale)

    def weights(self, gramian: Gramian) -> tuple[Weights, Float[Tensor, ""]]:
        """The weight of each gradient in the step, and the rescaling they contain."""
        weights = self.combination(gramian)
        rescale = torch.ones_like(weights[0])
        if self.keep_length:
            length = (weights @ gramian @ weights).clamp_min(0).sqrt()
            parts = weights.abs() @ gramian.diagonal().sqrt()
            whole = gramian.sum().clamp_min(0).sqrt()
            rescale = torch.where(parts > 0, whole / torch.maximum(length, CANCELLED * parts), rescale)
            if self.rescale_bound is not None:
                rescale = rescale.clamp_max(self.rescale_bound)
        return weights * rescale, rescale


def gramian(gradients: Sequence[Sequence[Tensor]]) -> Gramian:
    """The inner products of all pairs of gradients, in float64.

    Each parameter's are taken in its own type, at least float32, and summed in float64. Gradients whose lengths leave
    `SAFE_LENGTHS` are taken in float64 throughout; so is everything on an accelerator, where asking would make it wait.
    """
    if gradients[0][0].device.type != "cpu":
        return _products(gradients, torch.float64)
    products = _products(gradients, torch.float32)
    shortest, longest = SAFE_LENGTHS
    squared = products.diagonal()
    safe = (squared > shortest**2) & (squared < longest**2)
    return products if safe.all() else _products(gradients, torch.float64)


def squared_lengths(gramian: Gramian) -> Weights:
    """Squared lengths of the gradients; one for a zero gradient, which conflicts with nothing."""
    squared = gramian.diagonal()
    return torch.where(squared > 0, squared, torch.ones_like(squared))


def _products(gradients: Sequence[Sequence[Tensor]], least: torch.dtype) -> Gramian:
    tasks = len(gradients)
    pairs = [(i, j) for i in range(tasks) for j in range(i, tasks)]
    of_parameters: list[list[Tensor]] = [[] for _ in pairs]
    for parts in zip(*gradients, strict=True):
        lines = _lines(parts, least)
        for found, (i, j) in zip(of_parameters, pairs, strict=True):
            found.append(torch.dot(lines[i], lines[j]))
    products = torch.empty(tasks, tasks, dtype=torch.float64, device=gradients[0][0].device)
    for (i, j), found in zip(pairs, of_parameters, strict=True):
        products[i, j] = products[j, i] = torch.stack(found).sum(dtype=torch.float64)
    return products


def _lines(parts: Sequence[Tensor], least: torch.dtype) -> list[Float[Tensor, " element"]]:
    """One parameter's gradients as vectors, in one order of elements, without a copy where they share a memory format."""
    if all(part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last) for part in parts):
        parts = [part.permute(0, 2, 3, 1) for part in parts]
    return [part.reshape(-1).to(torch.promote_types(part.dtype, least)) for part in parts]


def _weighted_sum(parts: Sequence[Tensor], weights: Weights) -> Tensor:
    """The step of one parameter; weights that its type cannot hold (length ratios of 1e38) are cut to the largest it can."""
    largest = torch.finfo(parts[0].dtype).max
    factors = weights.clamp(-largest, largest).to(parts[0].dtype)
    total = parts[0] * factors[0]
    for part, factor in zip(parts[1:], factors[1:], strict=True):
        total.addcmul_(part, factor)
    return total


def _smallest_cosine(products: Gramian) -> Float[Tensor, ""]:
    lengths = squared_lengths(products).sqrt()
    pairs = [products[i, j] / (lengths[i] * lengths[j]) for i, j in combinations(range(len(products)), 2)]
    return torch.stack(pairs).min().clamp(-1, 1)


def _length_ratio(products: Gramian) -> Float[Tensor, ""]:
    squared = products.diagonal()
    first, second = squared if len(squared) == 2 else (squared.max(), squared.min())
    return torch.where((first > 0) & (second > 0), first / second, torch.ones_like(first)).sqrt()
