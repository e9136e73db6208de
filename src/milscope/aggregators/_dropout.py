"""Dropout at a fifth of the cost: the embedding of every cell is dropped from, and torch draws one number after the other."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

STEPS = 256
"""Chances are rounded to this part: a random byte decides."""
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
EVERY_NUMBER = -(2**63)


class Dropout(nn.Dropout):
    """torch's dropout; on processors eight chances are drawn at once, and dropped values are blanked bit by bit.

    The share that is dropped is rounded to 1/256; what is kept is scaled by it, so that means stay the same.
    """

    def forward(self, input: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The values in prediction; in training some of them are 0, the others larger."""
        level = round(self.p * STEPS)
        if not self.training or level in (0, STEPS) or input.device.type != "cpu" or input.dtype not in BITS:
            return super().forward(input)
        return _Blank.apply(input.contiguous(), level)


class _Blank(torch.autograd.Function):
    """Scaled values, some of them blanked; the gradient goes the same way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, level: int) -> Tensor:  # noqa: ANN401
        kept, ctx.scale = _kept(values, level), STEPS / (STEPS - level)
        ctx.save_for_backward(kept)
        return _blanked(values, ctx.scale, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _blanked(gradient.contiguous(), ctx.scale, ctx.saved_tensors[0]), None


def _kept(values: Float[Tensor, "*shape"], level: int) -> Shaped[Tensor, "*shape"]:
    """All bits set where a value is kept, none where it is dropped, in integers of the values' size."""
    bytes_of = torch.empty(-(-values.numel() // 8), dtype=torch.int64).random_(EVERY_NUMBER, None).view(torch.uint8)
    return (bytes_of[: values.numel()] >= level).to(BITS[values.dtype]).neg_().view(values.shape)


def _blanked(values: Float[Tensor, "*shape"], scale: float, kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    scaled = values * scale
    scaled.view(kept.dtype).bitwise_and_(kept)
    return scaled
