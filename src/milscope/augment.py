"""Views of cells, a whole batch at a time, on the device: place, orientation, colour."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


class Views:
    """Random views: a crop, one of the eight rotations and flips, and a jitter of colour.

    Neither the size nor the focus of a cell is changed: both may be what marks it.

    Args:
        size: Side of a view, pixels; the stored cells must be at least as large.
        colour: Strength s of the jitter: brightness, contrast and saturation are scaled by 1 - s to 1 + s, and the
            hue turns by at most s of a full turn.

    Source:
        SLAM-AGS (arXiv 2511.14639): crop 224 of 250, flip, rotation by 90°, colour jitter 0.1. Theirs changes one image
        at a time with Pillow.
    """

    def __init__(self, size: int, *, colour: float = 0.1) -> None:
        self.size, self.colour = size, colour

    def __call__(self, cells: UInt8[Tensor, "cell side side 3"],
                 generator: torch.Generator) -> Float[Tensor, "cell 3 size size"]:
        """One random view of each cell, colours between 0 and 1.

        Args:
            cells: Decoded cells on any device.
            generator: On the processor; same state, same views.
        """
        draw = _Draw.sample(len(cells), cells.shape[1] - self.size, generator).to(cells.device)
        views = _crop(cells, draw, self.size)
        if self.colour > 0:
            matrix = colour_matrices(len(cells), self.colour, generator).to(cells.device)
            return _recolour(views, matrix).permute(0, 3, 1, 2)
        return (views.float() / 255).permute(0, 3, 1, 2)


def centre(cells: UInt8[Tensor, "cell side side 3"], size: int) -> Float[Tensor, "cell 3 size size"]:
    """The one view without chance: the middle of each cell, as used to encode it."""
    margin = (cells.shape[1] - size) // 2
    middle = cells[:, margin : margin + size, margin : margin + size]
    return (middle.float() / 255).permute(0, 3, 1, 2)


class _Draw(NamedTuple):
    offset: Int[Tensor, "cell 2"]
    flip: Int[Tensor, "cell 2"]
    turn: Int[Tensor, " cell"]

    @classmethod
    def sample(cls, cells: int, room: int, generator: torch.Generator) -> "_Draw":
        return cls(torch.randint(room + 1, (cells, 2), generator=generator),
                   torch.randint(2, (cells, 2), generator=generator),
                   torch.randint(2, (cells,), generator=generator))

    def to(self, device: torch.device) -> "_Draw":
        return _Draw(*(part.to(device) for part in self))


def _crop(cells: UInt8[Tensor, "cell side side 3"], draw: _Draw, size: int) -> UInt8[Tensor, "cell size size 3"]:
    """Crops, flips and transposes by reading each pixel from its place: one gather for the whole batch."""
    side = cells.shape[1]
    along = torch.arange(size, device=cells.device)
    places = torch.where(draw.flip[..., None] == 1, size - 1 - along, along) + draw.offset[..., None]
    rows, columns = places[:, 0, :, None], places[:, 1, None, :]
    straight = rows * side + columns
    turned = places[:, 0, None, :] * side + places[:, 1, :, None]
    place = torch.where(draw.turn[:, None, None] == 1, turned, straight).flatten(1)
    pixels = cells.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, 3))
    return pixels.view(len(cells), size, size, 3)


def colour_matrices(cells: int, strength: float, generator: torch.Generator) -> Float[Tensor, "cell 3 4"]:
    """Per cell, what its colour becomes: a 3x3 matrix, and how much of the cell's mean grey is added.

    Brightness, saturation and hue are linear in the colour; contrast scales the distance from the mean grey.
    """
    def factor() -> Float[Tensor, "cell 1 1"]:
        return 1 + strength * (2 * torch.rand(cells, 1, 1, generator=generator) - 1)

    brightness, saturation, contrast = factor(), factor(), factor()
    angle = 2 * math.pi * strength * (2 * torch.rand(cells, 1, 1, generator=generator) - 1)
    identity, grey = torch.eye(3), torch.tensor(LUMA).expand(3, 3)
    axis = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = angle.cos() * identity + angle.sin() * cross + (1 - angle.cos()) * axis
    matrix = brightness * hue @ (saturation * identity + (1 - saturation) * grey)
    return torch.cat([contrast * matrix, (1 - contrast) * brightness * torch.ones(3, 1)], dim=2)


def _recolour(views: UInt8[Tensor, "cell size size 3"], matrix: Float[Tensor, "cell 3 4"]) -> Float[Tensor, "cell size size 3"]:
    pixels = views.flatten(1, 2).float() / 255
    grey = (pixels.mean(1) * pixels.new_tensor(LUMA)).sum(1)
    shift = matrix[:, :, 3] * grey[:, None]
    recoloured = torch.baddbmm(shift[:, None], pixels, matrix[:, :, :3].mT)
    return recoloured.clamp_(0, 1).view(views.shape)
