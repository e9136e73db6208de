"""Adaptive gradient surgery: neither of two objectives may undo the other."""

import torch

from milscope.surgery._base import Gramian, Surgery, Weights


class AdaptiveSurgery(Surgery):
    r"""Two gradients in conflict are each projected off the other, added, and rescaled to the length of their sum.

    $$ g = s \, (c_1 g_1 + c_2 g_2), \quad c_i = 1 - \frac{\min(0, g_1 \cdot g_2)}{|g_i|^2}, \quad
       s = \frac{|g_1 + g_2|}{|c_1 g_1 + c_2 g_2|} $$

    The order of the two does not matter. Agreeing gradients give the plain sum, and so do conflicting gradients of
    equal length: the method acts through their imbalance only. A zero gradient is ignored.

    Args:
        rescale_bound: The most the step may be lengthened by; None as published.

    Source:
        SLAM-AGS (arXiv 2511.14639). The authors' code flattens and copies both gradients; the Gramian gives the same.
    """

    def __init__(self, *, rescale_bound: float | None = None) -> None:
        super().__init__(rescale_bound=rescale_bound)

    def combination(self, gramian: Gramian) -> Weights:
        """The closed form of the two-way projection."""
        return 1 - gramian[0, 1].clamp_max(0) / _squared_lengths(gramian)


class OneWaySurgery(Surgery):
    r"""Only the second gradient is projected, off the first: the first objective is never held back.

    $$ g = s \, (c_1 g_1 + g_2), \quad c_1 = 1 - \frac{\min(0, g_1 \cdot g_2)}{|g_1|^2} $$

    Args:
        rescale_bound: The most the step may be lengthened by; None for no bound.
        keep_length: Whether the step is rescaled to the length of the plain sum. Without it the first objective makes
            its full step even when both gradients nearly cancel.

    Source:
        A published summary of SLAM-AGS describes the projection this way; the paper's code is two-way.
    """

    def combination(self, gramian: Gramian) -> Weights:
        """The closed form of the one-way projection."""
        weights = torch.ones_like(gramian[0])
        weights[0] -= gramian[0, 1].clamp_max(0) / _squared_lengths(gramian)[0]
        return weights


def _squared_lengths(gramian: Gramian) -> Weights:
    """Squared lengths of the gradients; one for a zero gradient, which conflicts with nothing."""
    squared = gramian.diagonal()
    return torch.where(squared > 0, squared, torch.ones_like(squared))
