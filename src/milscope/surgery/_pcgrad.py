"""PCGrad: no objective may undo another one's step."""

from collections.abc import Iterable

import torch

from milscope.surgery._base import Gramian, Surgery, Weights, squared_lengths


class PCGrad(Surgery):
    r"""Every gradient is projected off each other one that it conflicts with, and what is left is added.

    $$ g = \sum_i g_i^{PC}, \quad g_i^{PC} \leftarrow g_i^{PC} - \frac{\min(0, g_i^{PC} \cdot g_j)}{|g_j|^2} g_j $$

    for every j other than i, in the order i + 1, i + 2, … that starts again at the first after the last. The paper draws
    an order anew in every step. A fixed one makes every process of a distributed run, and a run that was killed and
    resumed, take the same step without having to agree on a draw; a cyclic one leaves no objective always the last. Two
    gradients have one order only. The last one projected off is surely not in conflict any more, earlier ones may be.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, 2020, algorithm 1, through the Gramian.
    """

    def __init__(self) -> None:
        super().__init__(keep_length=False)

    def combination(self, gramian: Gramian) -> Weights:
        """The weights of the sum of all projected gradients."""
        return cyclic_projections(gramian)


def cyclic_projections(gramian: Gramian) -> Weights:
    """The weights of the sum of all gradients, each projected off those that follow it, in a circle."""
    tasks = len(gramian)
    circle = range(tasks)
    return torch.stack([projected(gramian, i, [(i + k) % tasks for k in circle[1:]]) for i in circle]).sum(0)


def projected(gramian: Gramian, task: int, others: Iterable[int]) -> Weights:
    """The weights of one gradient after it was projected off the others that it conflicts with, one after the other."""
    squared = squared_lengths(gramian)
    weights = torch.zeros_like(squared)
    weights[task] = 1
    for other in others:
        weights[other] -= (weights @ gramian[:, other]).clamp_max(0) / squared[other]
    return weights
