"""Which cells of a slide were kept, drawn on a small picture of it."""

import numpy as np
from jaxtyping import Bool, Float

from milscope.slides._images import Pixels

VEIL = 0.6
"""How far what was not kept fades towards grey."""
GREY = 235
LINE = (213, 94, 0)
"""Vermilion: told from stains of haematoxylin and eosin, and by eyes that do not tell red from green."""
APART = 7
"""From this side on, in pixels of the picture, every cell has its own frame; smaller ones are framed together."""


def mark_cells(picture: Pixels, slide: tuple[int, int], cells: Float[np.ndarray, "cell 4"]) -> Pixels:
    """The picture with the cells framed and the rest faded.

    Args:
        picture: The whole slide, small.
        slide: Width and height of the slide, in pixels of level 0.
        cells: Centre x and y, width and height of every cell, in pixels of level 0.
    """
    height, width = picture.shape[:2]
    scale = np.array([width / slide[0], height / slide[1]])
    half = cells[:, 2:] * scale / 2
    low = np.clip(np.floor(cells[:, :2] * scale - half + 0.5), 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.floor(cells[:, :2] * scale + half + 0.5), low + 1, [width, height]).astype(int)
    inside = _covered(low, high, (height, width))
    edge = inside & ~_eroded(inside)
    apart = (high - low).min(axis=1) >= APART
    for (left, top), (right, bottom) in zip(low[apart], high[apart], strict=True):
        edge[top, left:right] = edge[bottom - 1, left:right] = True
        edge[top:bottom, left] = edge[top:bottom, right - 1] = True
    marked = np.where(inside[..., None], picture, picture + (GREY - picture.astype(float)) * VEIL).astype(np.uint8)
    marked[edge] = LINE
    return marked


def _covered(low: np.ndarray, high: np.ndarray, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """The pixels that lie in any of the rectangles: corners are counted up and down, and summed along both axes."""
    corners = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    for x, y, sign in ((low[:, 0], low[:, 1], 1), (high[:, 0], high[:, 1], 1), (low[:, 0], high[:, 1], -1),
                       (high[:, 0], low[:, 1], -1)):
        np.add.at(corners, (y, x), sign)
    return corners.cumsum(0).cumsum(1)[:-1, :-1] > 0


def _eroded(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The pixels whose four neighbours are in the mask too; beyond the picture nothing is."""
    wide = np.pad(mask, 1)
    return mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
