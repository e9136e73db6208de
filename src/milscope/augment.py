"""Views of cells, a whole batch at a time, on the device: place, size, orientation, colour."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from milscope.types import refuse

LUMA = (0.299, 0.587, 0.114)
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and residue in red, green and blue (Ruifrok and Johnston, 2001)."""
DARKEST = 1 / 255


class Draw(NamedTuple):
    """The chance in the views of some cells: where (the upper left corner, pixels), how large, which way round, which colours.

    Corners are whole pixels where every crop shows all of its side, else fractions of them, too.
    """

    offset: Int[Tensor, "cell 2"] | Float[Tensor, "cell 2"]
    share: Float[Tensor, " cell"]
    flip: Int[Tensor, "cell 2"]
    turn: Int[Tensor, " cell"]
    colour: Float[Tensor, "cell 3 4"]
    stain: Float[Tensor, "cell 3 4"]

    def of(self, rows: slice | Int[Tensor, " row"], device: torch.device | str = "cpu") -> "Draw":
        """The chance of some of the cells, on their device."""
        return Draw(*(part[rows].to(device) for part in self))


class Views:
    """Random views: a crop, one of the eight rotations and flips, a jitter of stain and of colour.

    Neither the size (unless asked for) nor the focus of a cell is changed: both may be what marks it.

    Args:
        size: Side of a view, pixels; the stored cells must be at least as large.
        resize: Random resized crops: each shows a square of 1 - resize to all of `size`, uniformly, anywhere in the stored
            cell, brought to `size` (bilinear); its proportions stay. 0: crops are copied, pixel by pixel.
        colour: Strength s of the jitter: brightness, contrast and saturation are scaled by 1 - s to 1 + s, and the
            hue turns by at most s of a full turn.
        stain: Strength s of the jitter of stains: the amounts of haematoxylin, eosin and residue, as optical density,
            are scaled by 1 - s to 1 + s and shifted by -s/10 to s/10.
        orientations: Whether cells are turned and flipped.

    Raises:
        InputError: If `resize` is not from 0 to below 1.

    Source:
        SLAM-AGS (arXiv 2511.14639): crop 224 of 250, flip, rotation by 90°, colour jitter 0.1. Theirs changes one image
        at a time with Pillow. ABMILX (arXiv 2506.02408): flips and random resized crops, no colour jitter. Stains: Tellez
        et al., Whole-slide mitosis detection in H&E breast histology, 2018; their separation by Ruifrok and Johnston, 2001.
    """

    def __init__(self, size: int, *, colour: float = 0.1, stain: float = 0.0, orientations: bool = True,
                 resize: float = 0.0) -> None:
        if not 0 <= resize < 1:
            raise refuse("resize", "from 0 to below 1", resize, "Take 0.2, or 0 to keep the size of cells.")
        self.size, self.colour, self.stain, self.orientations, self.resize = size, colour, stain, orientations, resize

    def __call__(self, cells: UInt8[Tensor, "cell side side 3"],
                 generator: torch.Generator) -> Float[Tensor, "cell 3 size size"]:
        """One random view of each cell, colours between 0 and 1.

        Args:
            cells: Decoded cells on any device.
            generator: On the processor; same state, same views.
        """
        return self.apply(cells, self.draw(len(cells), cells.shape[1], generator))

    def draw(self, cells: int, side: int, generator: torch.Generator) -> Draw:
        """The chance for so many stored cells of that side: drawn for a whole batch, whoever then makes which view."""
        ways = 2 if self.orientations else 1
        if self.resize:
            share = 1 - self.resize * torch.rand(cells, generator=generator)
            offset = torch.rand(cells, 2, generator=generator) * (side - self.size * share)[:, None]
        else:
            share, offset = torch.ones(cells), torch.randint(side - self.size + 1, (cells, 2), generator=generator)
        return Draw(offset, share,
                    torch.randint(ways, (cells, 2), generator=generator), torch.randint(ways, (cells,), generator=generator),
                    colour_matrices(cells, self.colour, generator), stain_matrices(cells, self.stain, generator))

    def apply(self, cells: UInt8[Tensor, "cell side side 3"], draw: Draw) -> Float[Tensor, "cell 3 size size"]:
        """The views that were drawn, one of each cell."""
        draw = draw.of(slice(None), cells.device)
        views = _resized(cells, draw, self.size) if self.resize else _crop(cells, draw, self.size).float() / 255
        if not self.colour and not self.stain:
            return views.permute(0, 3, 1, 2)
        pixels = views.flatten(1, 2)
        if self.stain > 0:
            pixels = _restain(pixels, draw.stain)
        if self.colour > 0:
            pixels = _recolour(pixels, draw.colour)
        return pixels.view(views.shape).permute(0, 3, 1, 2)


def centre(cells: UInt8[Tensor, "cell side side 3"], size: int) -> Float[Tensor, "cell 3 size size"]:
    """The one view without chance: the middle of each cell, as used to encode it."""
    margin = (cells.shape[1] - size) // 2
    middle = cells[:, margin : margin + size, margin : margin + size]
    return (middle.float() / 255).permute(0, 3, 1, 2)


def _crop(cells: UInt8[Tensor, "cell side side 3"], draw: Draw, size: int) -> UInt8[Tensor, "cell size size 3"]:
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


def _resized(cells: UInt8[Tensor, "cell side side 3"], draw: Draw, size: int) -> Float[Tensor, "cell size size 3"]:
    """Crops of any size, flipped and transposed, brought to `size`: each pixel read between its four neighbours, in one go."""
    side = cells.shape[1]
    along = (torch.arange(size, device=cells.device) + 0.5) * draw.share[:, None]  # pixels from the crop's corner
    along = torch.where(draw.flip[..., None] == 1, along.flip(1)[:, None], along[:, None]) + draw.offset[..., None]
    down, across = (along * (2 / side) - 1).unbind(1)  # -1 and 1 are the edges of the stored cell
    turn = draw.turn[:, None, None] == 1
    rows = torch.where(turn, down[:, None, :], down[:, :, None])
    columns = torch.where(turn, across[:, :, None], across[:, None, :])
    grid = torch.stack([columns, rows], dim=3)
    views = F.grid_sample(cells.permute(0, 3, 1, 2).float() / 255, grid, padding_mode="border", align_corners=False)
    return views.clamp_(0, 1).permute(0, 2, 3, 1)


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


def stain_matrices(cells: int, strength: float, generator: torch.Generator) -> Float[Tensor, "cell 3 4"]:
    """Per cell, what its optical density becomes: a 3x3 matrix, and how much is added."""
    scale, shift = (2 * torch.rand(2, cells, 1, 3, generator=generator) - 1) * strength
    stains = torch.tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    matrix = torch.linalg.inv(stains) * (1 + scale) @ stains
    return torch.cat([matrix.mT, (shift / 10 @ stains).mT], dim=2)


def _restain(pixels: Float[Tensor, "cell pixel 3"], matrix: Float[Tensor, "cell 3 4"]) -> Float[Tensor, "cell pixel 3"]:
    density = pixels.clamp_min(DARKEST).log().neg_()
    return torch.baddbmm(matrix[:, None, :, 3], density, matrix[:, :, :3].mT).neg_().exp_().clamp_(0, 1)


def _recolour(pixels: Float[Tensor, "cell pixel 3"], matrix: Float[Tensor, "cell 3 4"]) -> Float[Tensor, "cell pixel 3"]:
    grey = (pixels.mean(1) * pixels.new_tensor(LUMA)).sum(1)
    shift = matrix[:, :, 3] * grey[:, None]
    return torch.baddbmm(shift[:, None], pixels, matrix[:, :, :3].mT).clamp_(0, 1)
