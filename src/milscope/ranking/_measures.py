"""Plain measures of cells that need no training: what a cytologist would name, and what marks a small part of a cell."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from milscope.ranking._bodies import BLACK, bodies, brightest, cell_masks, densities, outlines, quantiles, shrunk

CHUNK = 32
"""Cells measured at a time by a thread."""
WINDOWS = (3, 6, 12)
"""Sides of the squares of which the darkest and the lightest are told, pixels at 64 a side."""
BANDS = (3, 5, 9)
"""Sides of the squares against whose mean finer structure is seen, pixels at 64 a side."""
RINGS = 6

Measures = Mapping[str, Float[np.ndarray, "cell _"]]


def measure_cells(pixels: UInt8[np.ndarray, "cell side side 3"]) -> Measures:
    """Groups of measures of each cell; none depends on which way round it lies, nearly.

    `outline` (of the cell), `body` (outline and colour of what lies in the middle, often the nucleus), `chromatin` (its
    texture), `radial` (colour by distance from the middle), and, of the cell and of the whole crop, `extremes` (the darkest and
    lightest spots of three sizes in grey and two colours, each against the median of the same cell, so that stain matters
    little), `texture` (structure of three sizes) and `colour`.

    Args:
        pixels: The cells; 64 pixels a side is what the sizes are meant for.
    """
    parts = [pixels[start : start + CHUNK] for start in range(0, len(pixels), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        measured = list(threads.map(_measure, parts))
    return {name: np.nan_to_num(np.concatenate([part[name] for part in measured])).astype(np.float32) for name in measured[0]}


def _measure(pixels: UInt8[np.ndarray, "cell side side 3"]) -> dict[str, np.ndarray]:
    density, cell = densities(pixels), cell_masks(pixels)
    inner = shrunk(cell, 2)
    thin = ~np.any(inner, axis=(1, 2))
    inner[thin] = cell[thin]
    whole = np.ones_like(cell)
    median = np.median(density.reshape(*density.shape[:2], -1), 2)[..., None, None]
    blotted = ~cell & (brightest(pixels) < BLACK)
    body = bodies(np.where(blotted[:, None], median, density))
    found = {"outline": outlines(cell), **_body(density, body, cell)}
    for name, region in (("cell", inner), ("crop", whole)):
        found |= {f"{group} of the {name}": values for group, values in _inside(density, region).items()}
    return found | {"radial": _radial(density - median)}


def _inside(density: Float[np.ndarray, "cell 3 side side"], region: Bool[np.ndarray, "cell side side"]
            ) -> dict[str, np.ndarray]:
    """Extremes, texture and colour of a region."""
    found = quantiles(density, region)
    light, middle, dark = (found[:, :, place] for place in range(3))
    own = torch.from_numpy(np.where(region[:, None], density - middle[:, :, None, None], np.float32(0)))
    maps = torch.stack([own.mean(1), own[:, 0] - own[:, 1], own[:, 2] - own[:, 1]], 1)
    inside = torch.from_numpy(region.astype(np.float32))[:, None]
    scale = density.shape[-1] / 64
    extremes = []
    for window in (max(1, round(side * scale)) for side in WINDOWS):
        spots = functional.avg_pool2d(maps, window, max(1, window // 2)).flatten(2)
        extremes += [spots.topk(2, 2).values[:, :, 1], -(-spots).topk(2, 2).values[:, :, 1]]  # not the one pixel of dirt
    texture, finer = [], maps
    for band in (2 * max(1, round(side * scale / 2)) + 1 if scale != 1 else side for side in BANDS):
        coarser = _box(maps, band)
        detail, finer = (finer - coarser) * inside, coarser
        texture += [torch.log(detail.square().sum((2, 3)) / (inside.sum((2, 3)) + 1) + 1e-5),
                    torch.log(detail.abs().flatten(2).topk(9, 2).values.mean(2) + 1e-3)]
    return {"extremes": torch.cat(extremes, 1).numpy(), "texture": torch.cat(texture, 1).numpy(),
            "colour": np.concatenate([middle, dark - middle, light - middle], 1)}


def _body(density: Float[np.ndarray, "cell 3 side side"], body: Bool[np.ndarray, "cell side side"],
          cell: Bool[np.ndarray, "cell side side"]) -> dict[str, np.ndarray]:
    """Outline and colour of the body in the middle, beside what surrounds it; and the texture in it."""
    around = ~shrunk(~body, 4) & shrunk(~body, 1)
    mean, spread = _mean_and_spread(density, body)
    beside, _ = _mean_and_spread(density, around)
    share = np.log((body.sum((1, 2)) + 1) / (cell.sum((1, 2)) + 1))
    core, grey = shrunk(body, 1), torch.from_numpy(density.mean(1, keepdims=True))
    grain = [np.log(((grey - _box(grey, band)).numpy()[:, 0] ** 2 * core).sum((1, 2)) / (core.sum((1, 2)) + 1) + 1e-5)
             for band in BANDS]
    return {"body": np.column_stack([outlines(body), share, mean, mean - beside]),
            "chromatin": np.column_stack([*grain, np.log(spread + 0.01), spread / (np.abs(mean - beside) + 0.05),
                                          np.log(mean + 0.05)])}


def _radial(density: Float[np.ndarray, "cell 3 side side"]) -> np.ndarray:
    """Mean and deviation in rings around the middle."""
    side = density.shape[-1]
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    away = np.hypot(down, right) / (side / 2) * RINGS
    within = [(away >= ring) & (away < ring + 1) for ring in range(RINGS)]
    rings = [density[:, :, ring] for ring in within if ring.any()]  # at 8 pixels a side the innermost is empty
    return np.concatenate([part for ring in rings for part in (ring.mean(2), ring.std(2))], 1)


def _mean_and_spread(density: Float[np.ndarray, "cell 3 side side"], region: Bool[np.ndarray, "cell side side"]
                     ) -> tuple[Float[np.ndarray, "cell 3"], Float[np.ndarray, "cell 3"]]:
    inside = region.reshape(len(region), -1, 1).astype(np.float32)
    values = density.reshape(*density.shape[:2], -1)
    count = inside.sum(1) + 1e-3
    mean = (values @ inside)[:, :, 0] / count
    return mean, np.sqrt(np.clip((values**2 @ inside)[:, :, 0] / count - mean**2, 0, None))


def _box(maps: Float[Tensor, "cell channel side side"], band: int) -> Float[Tensor, "cell channel side side"]:
    """The mean over squares, by sums of two, four, eight in a row, put together: four additions for a side of 9."""
    maps = functional.pad(maps, (band // 2,) * 4, mode="replicate")
    for axis in (3, 2):
        places, run, width, start, total = maps.shape[axis] - band + 1, maps, 1, 0, torch.zeros(())
        while width <= band:
            if band & width:
                total, start = total + run.narrow(axis, start, places), start + width
            if 2 * width <= band:
                last = run.shape[axis] - width
                run = run.narrow(axis, 0, last) + run.narrow(axis, width, last)
            width *= 2
        maps = total
    return maps / band**2
