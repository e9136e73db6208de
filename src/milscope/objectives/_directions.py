"""Where projections point, which is all that losses of cosines look at."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def directions(projections: Float[Tensor, "view cell projection"]) -> Float[Tensor, "view*cell projection"]:
    """All views of all cells as unit vectors, first views first, at least in float32: bf16 is too coarse for cosines."""
    wide = projections.to(torch.promote_types(projections.dtype, torch.float32))
    return functional.normalize(wide.flatten(0, 1), dim=1)
