"""Convolutions on maps of a few pixels: their weight gradient as one matrix product, which on processors is much faster.

Cells are small, so the last stages of an encoder look at maps of 4 x 4 or 2 x 2 pixels. There oneDNN's bfloat16 weight
gradient takes four to five times as long as unfolding the map and multiplying; on large maps it is the other way round.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

MOST_ROWS = 4096
"""Pixels of all cells' output maps up to which unfolding pays."""


def quicken(network: nn.Module) -> None:
    """Changes the plain convolutions of a network in place so that training in bfloat16 on a processor is faster.

    Results differ by the rounding of bfloat16 only; names and weights stay, and so does everything elsewhere.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv


class SmallMapConv(nn.Conv2d):
    """A convolution that takes the fast way where it is the faster one."""

    def forward(self, input: Float[Tensor, "cell channel height width"]) -> Float[Tensor, "cell out h w"]:
        """The convolution, as of `nn.Conv2d`."""
        rows = len(input) * _sides(self, input)
        if rows > MOST_ROWS or not (torch.is_grad_enabled() and _in_bfloat16(input)):
            return super().forward(input)
        return _Convolution.apply(input.bfloat16(), self.weight.bfloat16(), self.stride, self.padding)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, cells: Tensor, weight: Tensor, stride: tuple[int, int],  # noqa: ANN401
                padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(cells, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(cells, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # noqa: ANN401
        (gradient,), (cells, weight) = gradients, ctx.saved_tensors
        of_cells = of_weight = None
        if ctx.needs_input_grad[0]:
            of_cells = torch.ops.aten.convolution_backward(
                gradient, cells, weight, None, ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(cells, gradient, weight, ctx.stride, ctx.padding)
        return of_cells, of_weight, None, None


def _weight_gradient(cells: Tensor, gradient: Tensor, weight: Tensor, stride: tuple[int, int],
                     padding: tuple[int, int]) -> Tensor:
    """Output gradients times unfolded input; a window's row of pixels is contiguous in channels-last order."""
    out, channels, height, width = weight.shape
    (down, right), (above, beside) = stride, padding
    padded = functional.pad(cells.permute(0, 2, 3, 1), (0, 0, beside, beside, above, above)).contiguous()
    steps = padded.stride()
    windows = padded.as_strided((len(cells), *gradient.shape[2:], height, width * channels),
                                (steps[0], down * steps[1], right * steps[2], steps[1], 1))
    rows = windows.reshape(-1, height * width * channels)
    product = gradient.permute(0, 2, 3, 1).reshape(-1, out).T @ rows
    return product.view(out, height, width, channels).permute(0, 3, 1, 2)


def _is_plain(layer: nn.Conv2d) -> bool:
    return (layer.bias is None and layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str))


def _sides(layer: nn.Conv2d, cells: Tensor) -> int:
    """Pixels of one cell's output map."""
    pixels = 1
    for side, kernel, stride, padding in zip(cells.shape[2:], layer.kernel_size, layer.stride, layer.padding, strict=True):
        pixels *= (side + 2 * int(padding) - kernel) // stride + 1
    return pixels


def _in_bfloat16(cells: Tensor) -> bool:
    return cells.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
