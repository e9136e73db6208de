"""Order cells by the oddest small spot of each, seen by its colour against the rest of the same cell."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional

from milscope.ranking._bodies import cell_masks, densities, quantiles, shrunk
from milscope.ranking._seen import Seen
from milscope.types import refuse

SPOT = 4
"""Side of a spot, pixels at 64 a side."""
SPOTS = 2
"""Oddest spots whose mean is the score."""
CHUNK = 256
MOST = 200_000
"""Most spots of normal cells that say what is usual."""


def local(seen: Seen) -> Float[np.ndarray, " cell"]:
    r"""The mean of the two greatest Mahalanobis distances of a cell's spots from the spots of normal slides' cells.

    A spot is the mean optical density of a square in red, green and blue light, less the cell's own median; what lies near
    the cell's edge is left out. Nothing is learned but the mean and covariance of normal spots. It finds inclusions, and
    nothing that is marked by its shape.

    Args:
        seen: Cells and slide labels; only pixels are looked at.

    Raises:
        InputError: If there is no normal slide to learn from.
    """
    if not seen.normal.any():
        raise refuse("slides", "at least one normal one to learn from", 0, "Add slides, or divide them otherwise.")
    parts = range(0, len(seen.slide), CHUNK)
    spots = np.concatenate([_spots(np.asarray(seen.pixels[start : start + CHUNK])) for start in parts])
    usual = spots[seen.normal].reshape(-1, 3)
    usual = usual[:: -(-len(usual) // MOST)]
    covariance = np.cov(usual.T)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance + 1e-3 * np.eye(3) * np.trace(covariance) / 3 + 1e-12 * np.eye(3)))
    odd = np.square((spots - usual.mean(0)) @ whiten).sum(2)
    return np.sort(odd, axis=1)[:, -SPOTS:].mean(1)


def _spots(pixels: UInt8[np.ndarray, "cell side side 3"]) -> Float[np.ndarray, "cell spot 3"]:
    density, inner = densities(pixels), shrunk(cell_masks(pixels), 2)
    median = quantiles(density, inner)[:, :, 1, None, None]
    side = max(1, round(SPOT * pixels.shape[1] / 64))
    means = functional.avg_pool2d(torch.from_numpy(np.where(inner[:, None], density - median, 0)), side, max(1, side // 2))
    return means.flatten(2).transpose(1, 2).numpy().astype(np.float64)
