"""How the gradients of several objectives on shared parameters become one step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Gramian = Float[Tensor, "task task"]
Weights = Float[Tensor, " task"]


class Conflict(NamedTuple):
    """What the first two gradients had to do with each other in one step."""

    cosine: Float[Tensor, ""]
    """Cosine between the two; negative is a conflict."""
    length_ratio: Float[Tensor, ""]
    """Length of the first over the length of the second."""
    rescale: Float[Tensor, ""]
    """What the combination was multiplied by to keep the length of the plain sum."""


class Surgery(ABC):
    """A rule that joins gradients, through their inner products only.

    The step is a linear combination of the gradients whose weights follow from the Gramian, so no gradient is ever
    flattened or copied.

    Args:
        keep_length: Whether the step is rescaled to the length of the plain sum.
        rescale_bound: The most it may be lengthened by. Two gradients that nearly cancel leave a remainder that is
            otherwise amplified without limit (18 times at length ratio 10 and cosine -0.999). None: no bound.
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
        products = gramian(gradients)
        weights, rescale = self.weights(products)
        joined = [_weighted_sum(parts, weights) for parts in zip(*gradients, strict=True)]
        lengths = products.diagonal()[:2].sqrt()
        tiny = torch.finfo(products.dtype).tiny
        cosine = products[0, 1] / lengths.prod().clamp_min(tiny)
        return joined, Conflict(cosine, lengths[0] / lengths[1].clamp_min(tiny), rescale)

    def weights(self, gramian: Gramian) -> tuple[Weights, Float[Tensor, ""]]:
        """The weight of each gradient in the step, and the rescaling they contain."""
        weights = self.combination(gramian)
        rescale = torch.ones_like(weights[0])
        if self.keep_length:
            length = (weights @ gramian @ weights).clamp_min(0).sqrt()
            rescale = torch.where(length > 0, gramian.sum().clamp_min(0).sqrt() / length, rescale)
            if self.rescale_bound is not None:
                rescale = rescale.clamp_max(self.rescale_bound)
        return weights * rescale, rescale


def gramian(gradients: Sequence[Sequence[Tensor]]) -> Gramian:
    """The inner products of all pairs of gradients, summed over the parameters in float64."""
    tasks = len(gradients)
    products = torch.empty(tasks, tasks, dtype=torch.float64, device=gradients[0][0].device)
    for i in range(tasks):
        for j in range(i, tasks):
            parts = [torch.dot(a.flatten(), b.flatten()) for a, b in zip(gradients[i], gradients[j], strict=True)]
            products[i, j] = products[j, i] = torch.stack(parts).sum(dtype=torch.float64)
    return products


def _weighted_sum(parts: Sequence[Tensor], weights: Weights) -> Tensor:
    total = parts[0] * weights[0].to(parts[0].dtype)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total.add_(part * weight.to(part.dtype))
    return total
