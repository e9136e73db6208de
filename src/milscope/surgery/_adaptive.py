"""Adaptive gradient surgery: no objective may undo another, and the step keeps its length."""

import torch

from milscope.surgery._base import Gramian, Surgery, Weights
from milscope.surgery._pcgrad import cyclic_projections, projected


class AdaptiveSurgery(Surgery):
    r"""Two gradients in conflict are each projected off the other, added, and rescaled to the length of their sum.

    $$ g = s \, (c_1 g_1 + c_2 g_2), \quad c_i = 1 - \frac{\min(0, g_1 \cdot g_2)}{|g_i|^2}, \quad
       s = \frac{|g_1 + g_2|}{|c_1 g_1 + c_2 g_2|} $$

    The order of the two does not matter. Agreeing gradients give the plain sum, and so do conflicting gradients of
    equal length: the method acts through their imbalance only. A zero gradient is ignored. More than two are projected as
    in `PCGrad`, in its order.

    Args:
        rescale_bound: The most the step may be lengthened by; None as published.

    Source:
        SLAM-AGS (arXiv 2511.14639), for two. The authors' code flattens and copies both gradients; the Gramian gives the
        same, save for what is left of gradients that cancel to `CANCELLED`: it is lengthened no further.
    """

    def __init__(self, *, rescale_bound: float | None = None) -> None:
        super().__init__(rescale_bound=rescale_bound)

    def combination(self, gramian: Gramian) -> Weights:
        """The weights of the sum of all projected gradients."""
        return cyclic_projections(gramian)


class OneWaySurgery(Surgery):
    r"""Only the second gradient is projected, off the first: the first objective is never held back.

    $$ g = s \, (c_1 g_1 + g_2), \quad c_1 = 1 - \frac{\min(0, g_1 \cdot g_2)}{|g_1|^2} $$

    More than two stand in order of priority: each is projected off all earlier originals, the most important one last,
    so that nothing is left that conflicts with the first.

    Args:
        rescale_bound: The most the step may be lengthened by; None for no bound.
        keep_length: Whether the step is rescaled to the length of the plain sum. Without it the first objective makes
            its full step even when the gradients nearly cancel.

    Source:
        A published summary of SLAM-AGS describes the projection this way; the paper's code is two-way.
    """

    def combination(self, gramian: Gramian) -> Weights:
        """The weights of the sum of all gradients, each projected off the more important ones."""
        return torch.stack([projected(gramian, i, reversed(range(i))) for i in range(len(gramian))]).sum(0)
