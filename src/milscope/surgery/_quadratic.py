"""What the rules that solve a quadratic programme share."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float

from milscope.surgery._base import Gramian, Weights


def on_processor(solve: Callable[[np.ndarray], np.ndarray], gramian: Gramian) -> Weights:
    """The weights that a solver finds, on the Gramian's device; not a number where the Gramian is not finite."""
    if not torch.isfinite(gramian).all():
        return torch.full_like(gramian[0], torch.nan)
    return torch.from_numpy(solve(gramian.cpu().numpy())).to(gramian)


def unit_factor(gramian: Float[np.ndarray, "task task"]) -> tuple[Float[np.ndarray, "row task"], Float[np.ndarray, " task"]]:
    """A matrix whose columns are the gradients' directions (their inner products are the cosines), and their lengths.

    The column of a zero gradient is zero.
    """
    lengths = np.sqrt(gramian.diagonal())
    safe = np.where(lengths > 0, lengths, 1)
    values, vectors = np.linalg.eigh(gramian / safe / safe[:, None])
    return np.sqrt(values.clip(0))[:, None] * vectors.T, lengths
