"""MGDA: the shortest mean of the gradients."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import nnls

from milscope.surgery._base import Gramian, Surgery, Weights
from milscope.surgery._quadratic import on_processor, unit_factor


class MGDA(Surgery):
    r"""The convex combination of the gradients that is shortest.

    $$ g = \sum_i w_i g_i, \quad w = \operatorname{argmin} \{ w^T J J^T w : w \ge 0, \; \textstyle\sum_i w_i = 1 \} $$

    It improves every objective at the same rate (those it uses; others faster) and is zero where no step can improve all:
    also where one gradient is zero, which therefore stops the training of all. The order does not matter. Short gradients
    count the most. For two objectives a closed form; for more, non-negative least squares on the processor.

    Source:
        Désidéri, Multiple-gradient descent algorithm for multiobjective optimization, 2012; Sener and Koltun, Multi-Task
        Learning as Multi-Objective Optimization, 2018, equation 3. Theirs is an iteration of Frank and Wolfe; this
        is exact.
    """

    def __init__(self) -> None:
        super().__init__(keep_length=False)

    def combination(self, gramian: Gramian) -> Weights:
        """The weights of the point of the gradients' convex hull that is nearest to zero."""
        if len(gramian) == 1:
            return torch.ones_like(gramian[0])
        if len(gramian) == 2:
            across = gramian.diagonal().flip(0) - gramian[0, 1]
            apart = across.sum()
            return torch.where(apart > 0, (across / apart).clamp(0, 1), 0.5)
        return on_processor(nearest_to_zero, gramian)


def nearest_to_zero(gramian: Float[np.ndarray, "task task"]) -> Float[np.ndarray, " task"]:
    """The weights of the shortest convex combination, for any number of gradients.

    Minimising |F x|² + (Σ x − 1)² over x ≥ 0, with FᵀF the Gramian, gives x = s w with the w that is looked for: at a
    fixed w the best s = 1 / (1 + |F w|²) leaves |F w|² / (1 + |F w|²), which grows with |F w|. F has unit columns here
    and the shortest gradient is the unit of length, so that gradients of any lengths are solved alike.
    """
    factor, lengths = unit_factor(gramian)
    if not lengths.all():
        weights = (lengths == 0).astype(np.float64)
    else:
        shares = lengths.min() / lengths
        weights = nnls(np.vstack([factor, shares]), np.append(np.zeros(len(factor)), 1))[0] * shares
    return weights / weights.sum()
