"""UPGrad: a step that hinders no objective, and favours each as much as that allows."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from milscope.surgery._base import Gramian, Surgery, Weights
from milscope.surgery._pcgrad import cyclic_projections
from milscope.surgery._quadratic import on_processor, unit_factor


class UPGrad(Surgery):
    r"""The mean over the objectives of their gradients, each moved as little as it takes to conflict with none.

    $$ g = \frac{1}{m} \sum_i \operatorname{argmin}_x \{ |x - g_i|^2 : x \cdot g_j \ge 0 \;\forall j \}
         = \frac{1}{m} \sum_i J^T v_i, \quad v_i = \operatorname{argmin}_{v \ge e_i} v^T J J^T v $$

    No objective is worse off after a small step. The order does not matter. For two objectives it is half of `PCGrad`;
    for more, each projection is solved as non-negative least squares, on the processor.

    Source:
        Quinton and Rey, Jacobian Descent for Multi-Objective Optimization, 2024, equation 3 and proposition 1.
    """

    def __init__(self) -> None:
        super().__init__(keep_length=False)

    def combination(self, gramian: Gramian) -> Weights:
        """The mean of the weights of the projections on the dual cone."""
        if len(gramian) <= 2:
            return cyclic_projections(gramian) / len(gramian)
        return on_processor(dual_cone, gramian)


def dual_cone(gramian: Float[np.ndarray, "task task"]) -> Float[np.ndarray, " task"]:
    """The mean of the weights that project each gradient on the dual cone, for any number of gradients.

    With v = e_i + p, p ≥ 0 minimises |F p + F e_i|² for any F with FᵀF the Gramian; F has unit columns here, so that
    gradients of any lengths are solved alike.
    """
    factor, lengths = unit_factor(gramian)
    safe = np.where(lengths > 0, lengths, 1)
    pushes = np.stack([nnls(factor, -factor[:, i])[0] * length for i, length in enumerate(lengths)])
    return (1 + (pushes / safe).sum(0)) / len(gramian)
