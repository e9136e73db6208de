"""Finding nuclei in a slide's image: small dark purple discs, by differences of Gaussians in one mixture of the channels."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import KDTree

from milscope.slides._images import DamagedError, Pixels
from milscope.slides._reader import SlideReader
from milscope.slides._tiling import find_glass, stained
from milscope.types import refuse

STAINS = {
    "papanicolaou": (-0.4, 1.0, -0.4),
    "haematoxylin-eosin": (1.0, 0.0, 0.0),
}
"""Weights of the optical densities in red, green and blue light, so that nuclei stand out.

Papanicolaou: chromatin is dark in green; cyan cytoplasm and the black-blue nuclei of leukocytes are darker in red,
orange cytoplasm is darker in blue. Fitted to CRIC's training patients (docs/find.md). Haematoxylin and eosin: eosin
takes away next to no red light; not measured.
"""
LEAST = 0.45
"""Least contrast of a nucleus, as a share of the slide's upper quartile; chosen on CRIC's training patients."""
NOISE = 0.015
"""What has less contrast than this, in the mixed density, is no nucleus on any slide."""
SPAN = 8
"""Images are searched at the scale at which a nucleus of the given diameter measures this many pixels."""
FEWEST = 4
"""A nucleus of fewer pixels of the image is not looked for."""
APART = 0.45
"""Two nuclei are never nearer than this, in nuclear diameters."""
FLOOR = 0.01
"""Least height of a peak, in the mixed density; below it is the noise of glass and camera."""
BLACK = 8
"""A pixel with no channel at this or above was not scanned; CRIC's darkest marked nucleus has 14."""
WINDOW = 1024
"""Most pixels a side that are searched at once."""
READ = 4096
"""Most pixels of level 0 that a side of a window spans, without its margin."""

_SIGMAS = tuple(SPAN / 4 * 1.6**power for power in (-1, 0, 1, 2, 3))
_MARGIN = int(3 * _SIGMAS[-1]) + 3
_DENSITY = -np.log10(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)

Plane = Float[np.ndarray, "height width"]


class Nuclei(NamedTuple):
    """Places in pixels of level 0, and how much each stands out, as a share of the slide's upper quartile."""

    x: Float[np.ndarray, " nucleus"]
    y: Float[np.ndarray, " nucleus"]
    contrast: Float[np.ndarray, " nucleus"]


def find_nuclei(
    reader: SlideReader, slide: str, *, diameter: float, mpp: float, stain: str = "papanicolaou", least: float = LEAST
) -> pd.DataFrame:
    """The nuclei of a slide as a cell table: `cell`, `x`, `y`, centres in pixels of level 0; whatever the slide's size.

    Args:
        reader: The slide's image.
        slide: Its name; a nucleus is called `<slide>:<x>,<y>`.
        diameter: Of a usual nucleus, in microns; those of 0.5 to 2 times this are found, large and evenly dark ones
            more than once.
        mpp: Microns per pixel of level 0.
        stain: Name of one of `STAINS`.
        least: Least contrast of a nucleus, as a share of the upper quartile of all that stands out on the slide; a lower
            one finds more nuclei and more that are none.

    Raises:
        InputError: If there is no such stain.
        DamagedError: If nothing is found, a nucleus is too few pixels wide, or the image cannot be read.
    """
    if stain not in STAINS:
        raise refuse("stain", f"one of {', '.join(STAINS)}", stain, "Choose one.")
    found = contrasts(reader, diameter=diameter, mpp=mpp, weights=STAINS[stain])
    places = pd.DataFrame({"x": found.x, "y": found.y})[found.contrast >= least].reset_index(drop=True)
    if not len(places):
        raise DamagedError(f"no nucleus of about {diameter:g} microns found; give a cell table, or cut grid tiles")
    places.insert(0, "cell", [f"{slide}:{x:.10g},{y:.10g}" for x, y in zip(places["x"], places["y"], strict=True)])
    return places


def contrasts(reader: SlideReader, *, diameter: float, mpp: float, weights: tuple[float, float, float]) -> Nuclei:
    r"""All that stands out like a nucleus, window by window, each thing once.

    $$ D = \sum_c w_c \, (-\log_{10} v_c), \quad B_k = G_{d/4 \cdot 1.6^k} * D, \quad
       C = \max(B_0 - B_2, \; B_1 - B_3) $$

    Candidates are the peaks of $B_{k-1} - B_k$ for k of 0, 1, 2; the smallest parts nuclei that touch. What counts is
    the contrast C there, of a whole nucleus of about d or 1.6 d. Of two nearer than 0.45 d the one of more contrast stays.
    Contrasts are shares of their upper quartile on this slide, so that a pale stain is judged like a dark one.

    Args:
        reader: The slide's image.
        diameter: Of a usual nucleus, in microns.
        mpp: Microns per pixel of level 0.
        weights: Of the optical densities in red, green and blue light.

    Raises:
        DamagedError: If a nucleus is too few pixels wide, or the image cannot be read.

    Source:
        Lindeberg, Feature detection with automatic scale selection, 1998: blobs as peaks of the Laplacian, here as
        differences of Gaussians.
    """
    if diameter / mpp < FEWEST:
        raise DamagedError(f"a nucleus of {diameter:g} microns is {diameter / mpp:.3g} pixels wide at {mpp:g} microns per "
                           f"pixel, fewer than {FEWEST}")
    grid = (max(1, round(reader.size[0] * mpp * SPAN / diameter)), max(1, round(reader.size[1] * mpp * SPAN / diameter)))
    step = np.array(reader.size) / grid
    parts = [np.empty((0, 3))]
    for place, size in _windows(reader, grid, max(step)):
        low = np.maximum(np.array(place) - _MARGIN, 0)
        high = np.minimum(np.array(place) + size + _MARGIN, grid)
        (left, top), (width, height) = low * step, (high - low) * step
        shape = (int(high[0] - low[0]), int(high[1] - low[1]))
        pixels = reader.region((float(left), float(top)), (float(width), float(height)), shape)
        peaks = _peaks(pixels, weights)
        peaks[:, :2] += low
        own = ((peaks[:, :2] >= np.array(place) - 1) & (peaks[:, :2] <= np.array(place) + size)).all(axis=1)
        parts.append(peaks[own])
    peaks = np.concatenate(parts)
    peaks = peaks[_strongest(peaks[:, :2], peaks[:, 2], APART * SPAN)]
    centres = np.round((peaks[:, :2] + 0.5) * step, 1)
    usual = np.quantile(peaks[:, 2], 0.75) if len(peaks) else 1.0
    return Nuclei(centres[:, 0], centres[:, 1], peaks[:, 2] / usual)


def _windows(reader: SlideReader, grid: tuple[int, int], step: float) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Place and size of the windows in which anything is stained, in pixels of the search."""
    side = max(1, min(WINDOW, int(READ / step)))
    if max(grid) <= side:  # an overview would cost as much as the search
        yield (0, 0), grid
        return
    blocks = (-(-grid[0] // SPAN), -(-grid[1] // SPAN))
    seen = reader.overview(blocks)
    every = max(1, max(blocks) // 512)
    glass = find_glass(seen[::every, ::every])
    for top in range(0, grid[1], side):
        for left in range(0, grid[0], side):
            part = [slice(max(0, start // SPAN - 1), (start + side) // SPAN + 2) for start in (top, left)]
            if stained(seen[part[0], part[1]], glass).any():
                yield (left, top), (min(side, grid[0] - left), min(side, grid[1] - top))


def _peaks(pixels: Pixels, weights: tuple[float, float, float]) -> Float[np.ndarray, "peak 3"]:
    """Column, row and contrast of what stands out."""
    density = _DENSITY[pixels] @ np.array(weights, dtype=np.float32)
    density[pixels.max(axis=2) < BLACK] = 0
    blurred = [gaussian_filter(density, sigma, truncate=3) for sigma in _SIGMAS]
    peak = np.zeros(density.shape, dtype=bool)
    for fine, coarse in pairwise(blurred[:4]):
        height = fine - coarse
        peak |= (height >= maximum_filter(height, 3)) & (height > FLOOR)
    contrast = np.maximum(blurred[1] - blurred[3], blurred[2] - blurred[4])
    peak &= contrast >= NOISE
    row, column = np.nonzero(peak)
    return np.stack([column, row, contrast[row, column]], axis=1).astype(np.float64)


def _strongest(
    places: Float[np.ndarray, "place 2"], strength: Float[np.ndarray, " place"], apart: float
) -> Int[np.ndarray, " kept"]:
    """Which places stay if the strongest goes first and drives away all that are nearer than `apart`."""
    rank = np.empty(len(places), dtype=np.int64)
    rank[np.lexsort((places[:, 0], places[:, 1], -strength))] = np.arange(len(places))
    pairs = KDTree(places).query_pairs(apart * (1 - 1e-9), output_type="ndarray")
    first = rank[pairs[:, 0]] < rank[pairs[:, 1]]
    strong, weak = np.where(first, pairs[:, 0], pairs[:, 1]), np.where(first, pairs[:, 1], pairs[:, 0])
    open_, kept = np.ones(len(places), dtype=bool), np.zeros(len(places), dtype=bool)
    while open_.any():  # each round settles the strongest of every neighbourhood
        beaten = np.zeros(len(places), dtype=bool)
        beaten[weak[open_[strong]]] = True
        winners = open_ & ~beaten
        kept |= winners
        open_ &= ~winners
        open_[weak[winners[strong]]] = False
    return np.flatnonzero(kept)
