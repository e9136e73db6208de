"""Draws single cells of a Papanicolaou smear as optical densities, so that what overlaps multiplies in light."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

from milscope.slides._drawn_shapes import draw_outline, polar, texture, warped
from milscope.types import Microns, MicronsPerPixel

DYES = {
    "haematoxylin": (0.95, 1.0, 0.60),  # nuclei: dark blue violet
    "light green": (1.0, 0.40, 0.34),   # cyanophilic cytoplasm
    "eosin": (0.10, 0.80, 0.52),        # eosinophilic cytoplasm
    "orange": (0.08, 0.52, 1.0),        # keratin
}
"""Optical density of each dye in red, green and blue light, at amount 1."""

REACH: Microns = Microns(64.0)
"""No cell is drawn further from its place than this."""
WINDOW: Microns = Microns(22.0)
"""Half the side of the square in which cytoplasm makes up for the darkness of the nucleus."""
USUAL = 26.0
"""Light that an ordinary nucleus takes away, square microns at optical density 1 of haematoxylin."""

Density = Float[np.ndarray, "3 side side"]
Plane = Float[np.ndarray, "side side"]


class Squamous(NamedTuple):
    """What a kind of squamous cell looks like; ranges are (least, most)."""

    radius: tuple[float, float]             # of the cytoplasm, microns
    nucleus: tuple[float, float]            # diameter, microns
    darkness: tuple[float, float]           # optical density of the nucleus
    irregularity: tuple[float, float]       # of the nuclear outline, share of its radius
    chromatin: float                        # depth of the chromatin texture, share of the darkness
    coarseness: float                       # grain of the chromatin, microns
    orange: float                           # share of cells with eosinophilic or keratinised cytoplasm
    corners: tuple[int, int] = (5, 8)       # of the outline
    sharpness: float = 13.0                 # of the corners
    length: tuple[float, float] = (1.0, 1.35)  # over width
    halo: float = 0.1                       # share of cells with a clearing around the nucleus
    two: float = 0.03                       # share of cells with two nuclei
    folded: bool = False
    decayed: bool = False
    tint: tuple[float, float, float, float] | None = None  # shares of the dyes in the cytoplasm, in place of `orange`
    warped: bool = False                    # an outline that ordinary cells do not have
    body: tuple[float, float] | None = None  # diameter of an inclusion in the cytoplasm, microns
    hollow: bool = False                    # the inclusion is empty, a vacuole
    even: bool = False                      # the chromatin takes as much light as if it had no texture


KINDS = {
    "superficial": Squamous((21, 28), (4.4, 6.0), (0.9, 1.25), (0.02, 0.05), 0.10, 0.5, 0.72, halo=0.03,
                            two=0.01),
    "intermediate": Squamous((18, 27), (6.8, 9.2), (0.48, 0.85), (0.02, 0.05), 0.22, 0.6, 0.35, two=0.05),
    "parabasal": Squamous((9, 14), (7.8, 10.4), (0.38, 0.66), (0.01, 0.04), 0.18, 0.6, 0.2, (7, 10), 5.0, (1.0, 1.2),
                          halo=0.03),
    "folded": Squamous((20, 28), (6.5, 9.2), (0.5, 0.85), (0.02, 0.05), 0.22, 0.6, 0.5, folded=True),
    "degenerated": Squamous((14, 24), (7, 11), (0.3, 0.7), (0.05, 0.12), 0.12, 1.0, 0.4, decayed=True),
    "low-grade": Squamous((19, 28), (11.8, 15.5), (0.78, 1.15), (0.05, 0.12), 0.38, 0.75, 0.45, halo=0.5, two=0.15),
    "high-grade": Squamous((9.5, 14), (10.8, 14), (0.85, 1.25), (0.08, 0.16), 0.44, 0.75, 0.2, (7, 10), 5.0, (1.0, 1.4),
                           halo=0.0),
    "keratinising": Squamous((18, 27), (10.5, 14.5), (1.0, 1.4), (0.09, 0.17), 0.34, 0.8, 0.85, (4, 6), 9.0, (1.3, 2.4),
                             halo=0.0),
}
"""The squamous cells, normal ones first."""


class Optics(NamedTuple):
    """How one slide was stained and focused."""

    mpp: MicronsPerPixel
    dyes: Float[np.ndarray, "4 3"]
    blur: Microns


def draw_squamous(kind: Squamous, optics: Optics, rng: np.random.Generator) -> Density:
    """A squamous cell whose nucleus lies in the middle of the square.

    The mean colour of a cell must not tell its kind: each gets a colour drawn without regard to it, and its cytoplasm
    is as much paler as its nucleus takes more light than an ordinary one.
    """
    mpp = optics.mpp
    side = 2 * int(REACH / mpp) + 1
    blur = np.hypot(optics.blur, rng.exponential(0.25)) / mpp
    nucleus = _nuclei(kind, mpp, rng)
    thickness = _cytoplasm(kind, mpp, rng)
    if kind.body is not None:
        nucleus, thickness = _included(nucleus, thickness, rng.uniform(*kind.body) / 2, mpp, rng, hollow=kind.hollow)
    low, high = _extent(thickness)
    thickness = gaussian_filter(thickness[low:high, low:high], blur, truncate=3, mode="constant")
    half, middle = len(nucleus) // 2, side // 2 - low
    smooth = gaussian_filter(nucleus, blur * (1.8 if kind.decayed else 1.0), truncate=3, mode="constant")
    stained = smooth[None] * optics.dyes[0][:, None, None]
    colour = _colour(kind, optics, rng)
    taken = (1 - np.exp(-stained)).sum((1, 2)) * mpp**2
    window = int(WINDOW / mpp)
    seen = thickness[max(middle - window, 0) : middle + window, max(middle - window, 0) : middle + window]
    paler = (taken - USUAL * optics.dyes[0]) / max(float(seen.sum()) * mpp**2, 150.0)
    colour = np.maximum(colour - paler, 0.2 * colour)
    density = thickness[None] * colour[:, None, None]
    density[:, middle - half : middle + half + 1, middle - half : middle + half + 1] += stained
    return density


def draw_neutrophils(count: int, optics: Optics, rng: np.random.Generator) -> Density:
    """A cluster of neutrophils around the middle: lobed dark small nuclei in pale cytoplasm."""
    mpp = optics.mpp
    half = int((9 + 4 * np.sqrt(count)) / mpp)
    lobes, body = np.zeros((2, 2 * half + 1, 2 * half + 1), np.float32)
    centres = rng.normal(0, 2.6 * np.sqrt(count - 1) + 1e-6, (count, 2)).clip(-half * mpp + 8, half * mpp - 8)
    for centre in centres:
        _disc(body, centre, rng.uniform(4.5, 6.0), rng.uniform(0.5, 1.0), mpp)
        start, darkness = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.2)
        for lobe in range(rng.integers(2, 5)):
            angle = start + lobe * rng.uniform(1.1, 1.6)
            place = centre + 1.9 * np.array([np.sin(angle), np.cos(angle)])
            _disc(lobes, place, rng.uniform(1.2, 1.9), darkness, mpp)
    blur = np.hypot(optics.blur, rng.exponential(0.25)) / mpp
    lobes = gaussian_filter(np.minimum(lobes, 1.3), blur, truncate=3, mode="constant")
    body = gaussian_filter(np.minimum(body, 1.2), blur, truncate=3, mode="constant")
    tint = rng.uniform(0.06, 0.2) * optics.dyes[1] + rng.uniform(0, 0.08) * optics.dyes[2]
    return body[None] * tint[:, None, None] + lobes[None] * optics.dyes[0][:, None, None]


def draw_debris(optics: Optics, rng: np.random.Generator) -> Density:
    """A clump of bacteria and mucus around the middle."""
    mpp = optics.mpp
    half = int(24 / mpp)
    spread, count = rng.uniform(4, 8), rng.integers(100, 420)
    bins = (np.arange(2 * half + 2) - half - 0.5) * mpp
    rods = np.histogram2d(*rng.normal(0, spread, (2, count)), bins=(bins, bins))[0].astype(np.float32)
    rods = gaussian_filter(rods, np.hypot(0.35, optics.blur) / mpp, truncate=3, mode="constant") * (0.6 / mpp**2)
    grid = np.hypot(*np.ogrid[-half : half + 1, -half : half + 1]) * mpp
    cloud = np.clip(1.2 - grid / (2.2 * spread), 0, 1) * np.clip(0.6 + 0.5 * texture(3.0, mpp, grid.shape, rng), 0, None)
    tint = rng.dirichlet([1.2, 1.5, 0.6, 0.3]).astype(np.float32) @ optics.dyes
    rod_colour = (0.8 * optics.dyes[0] + 0.2 * optics.dyes[1])[:, None, None]
    return np.minimum(rods, 1.2)[None] * rod_colour + (rng.uniform(0.15, 0.6) * tint)[:, None, None] * cloud[None]


def draw_strand(optics: Optics, rng: np.random.Generator) -> Density:
    """A strand of mucus, wavy and faint."""
    mpp = optics.mpp
    half = int(rng.uniform(40, 90) / mpp)
    y, x = (np.ogrid[-half : half + 1, -half : half + 1][i] * np.float32(mpp) for i in (0, 1))
    angle, bend, phase = rng.uniform(0, np.pi), rng.uniform(2, 10), rng.uniform(0, 6.3)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    across = across + bend * np.sin(along / rng.uniform(15, 30) + phase) + texture(4.0, mpp, along.shape, rng)
    width = rng.uniform(0.8, 2.5) * (1.5 + np.sin(along / 20 + phase))
    ends = np.clip((half * mpp - np.hypot(x, y)) / 20, 0, 1)
    strand = np.exp(-np.square(across / width)) * ends * np.clip(1 + 0.4 * texture(1.2, mpp, along.shape, rng), 0, None)
    tint = rng.uniform(0.06, 0.2) * (rng.dirichlet([0.5, 1.0, 0.6, 0.1]) @ optics.dyes)
    return (strand[None] * tint[:, None, None]).astype(np.float32)


def draw_speck(optics: Optics, rng: np.random.Generator) -> Density:
    """A grain of dirt or pigment, dark in every colour."""
    half = int(5 / optics.mpp) + 1
    speck = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for _ in range(rng.integers(1, 4)):
        _disc(speck, rng.normal(0, 0.7, 2), rng.uniform(0.4, 1.3), rng.uniform(0.3, 1.2), optics.mpp)
    speck = gaussian_filter(speck, np.hypot(0.3, optics.blur) / optics.mpp, truncate=3, mode="constant")
    return speck[None] * rng.uniform(0.5, 1.0, 3).astype(np.float32)[:, None, None]


def _cytoplasm(kind: Squamous, mpp: float, rng: np.random.Generator) -> Plane:
    """The thickness of the cytoplasm, about 1, on a square of half side REACH around the nucleus."""
    half = int(REACH / mpp)
    radius = rng.uniform(*kind.radius) / mpp
    corners = int(rng.integers(kind.corners[0], kind.corners[1] + 1))
    line = draw_outline(radius, corners, kind.sharpness, rng, length=rng.uniform(*kind.length),
                    waves=0.09 if kind.decayed else 0.03)
    line = warped(line, rng) if kind.warped else line
    reach = min(half - 1 - int(0.22 * radius), int(line.max()) + 3)
    shift = np.clip(np.rint(rng.normal(0, 0.1, 2) * radius).astype(int), -int(0.22 * radius), int(0.22 * radius))
    distance, direction = polar(half)
    inner = np.s_[half - reach : half + reach + 1, half - reach : half + reach + 1]
    distance, limit = distance[inner], line[direction[inner]]
    depth = (limit - distance) * mpp
    thickness = np.clip(depth / 0.6 + 0.5, 0, 1) * (1.12 - 0.3 * np.square(distance / limit))
    thickness *= np.clip(1 + 0.09 * texture(0.5, mpp, depth.shape, rng) + 0.14 * texture(5.0, mpp, depth.shape, rng), 0.2, 2)
    thickness += np.clip(depth / 0.6 + 0.5, 0, 1) * rng.uniform(0, 0.35) * np.exp(-np.square((depth - 0.8) / 0.8))
    thickness = _creases(thickness, mpp, rng)
    if kind.decayed:
        thickness *= np.clip(0.9 + 0.4 * texture(1.6, mpp, depth.shape, rng), 0.3, 1.6)
    if kind.folded:
        thickness = _flap(thickness, radius, rng)
    if rng.random() < kind.halo:
        around = np.hypot(*np.ogrid[shift[0] - reach : shift[0] + reach + 1, shift[1] - reach : shift[1] + reach + 1]) * mpp
        wide = kind.nucleus[1] * rng.uniform(0.6, 1.0)
        thickness *= 1 - rng.uniform(0.4, 0.8) * np.clip((wide - around) / 1.5 + 0.5, 0, 1)
    square = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    top, left = half - reach + shift
    square[top : top + len(thickness), left : left + len(thickness)] = thickness
    return square


def _creases(thickness: Plane, mpp: float, rng: np.random.Generator) -> Plane:
    half = len(thickness) // 2
    y, x = (axis.astype(np.float32) * mpp for axis in np.ogrid[-half : half + 1, -half : half + 1])
    for _ in range(rng.poisson(0.9)):
        angle, bend = rng.uniform(0, np.pi), rng.normal(0, 0.012)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        across = across - rng.normal(0, 0.4) * half * mpp + bend * np.square(along)
        thickness = thickness * (1 + rng.uniform(0.15, 0.6) * np.exp(-np.square(across / rng.uniform(0.5, 1.1))))
    return thickness


def _flap(thickness: Plane, radius: float, rng: np.random.Generator) -> Plane:
    """Folds what lies beyond a line back onto the cell."""
    half = len(thickness) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    angle, line = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.55) * radius
    beyond = x * np.cos(angle) + y * np.sin(angle) - line
    mirrored = (np.clip(np.rint(axis - 2 * beyond * part).astype(int) + half, 0, 2 * half)
                for axis, part in ((y, np.sin(angle)), (x, np.cos(angle))))
    return (thickness + thickness[tuple(mirrored)]) * np.clip(0.5 - beyond, 0, 1)


def _nuclei(kind: Squamous, mpp: float, rng: np.random.Generator) -> Plane:
    """The haematoxylin of the nuclei of a cell: outline, membrane and chromatin."""
    half = int(26 / mpp)
    square = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    diameter, darkness = rng.uniform(*kind.nucleus), rng.uniform(*kind.darkness)
    count = 2 if rng.random() < kind.two else 1
    apart, angle = (count - 1) * 0.43 * diameter / mpp, rng.uniform(0, np.pi)
    for sign in (1, -1)[:count]:
        one = _nucleus(kind, diameter / 2 / mpp / (1 + 0.25 * (count - 1)), darkness, mpp, rng)
        place = np.rint(half + sign * apart * np.array([np.sin(angle), np.cos(angle)])).astype(int) - len(one) // 2
        window = square[place[0] : place[0] + len(one), place[1] : place[1] + len(one)]
        np.maximum(window, one[: window.shape[0], : window.shape[1]], out=window)
    return square


def _nucleus(kind: Squamous, radius: float, darkness: float, mpp: float, rng: np.random.Generator) -> Plane:
    half = int(1.7 * radius) + 3
    line = draw_outline(radius, 9, 4.0, rng, length=rng.uniform(1.02, 1.3), waves=rng.uniform(*kind.irregularity))
    distance, direction = polar(half)
    depth = (line[direction] - distance) * mpp
    inside = np.clip(depth / 0.4 + 0.5, 0, 1)
    grain = texture(kind.coarseness, mpp, depth.shape, rng)
    clumps = np.clip(grain, -0.9, 1.6) * kind.chromatin
    membrane = (0.0 if kind.decayed else 0.30) * np.exp(-np.square((depth - 0.35) / 0.45))
    density = darkness * inside * np.clip(0.9 + clumps + membrane, 0.15, 2.0)
    if kind.even:
        taken = (1 - np.exp(-darkness * inside * (0.9 + membrane))).sum()
        for _ in range(4):  # light is not linear in density
            density = density * (taken / (1 - np.exp(-density)).sum())
    return density.astype(np.float32)


def _included(nucleus: Plane, thickness: Float[np.ndarray, "whole whole"], radius: float, mpp: float,
              rng: np.random.Generator, *, hollow: bool) -> tuple[Plane, Float[np.ndarray, "whole whole"]]:
    """Both with a small round body, and a clearing around it, where there is cytoplasm and no nucleus."""
    half, middle = len(nucleus) // 2, len(thickness) // 2
    inner = np.s_[middle - half : middle + half + 1, middle - half : middle + half + 1]
    near = (radius + 1.2) / mpp / 2
    taken = sum(gaussian_filter(used.astype(np.float32), near, truncate=3) for used in (thickness[inner] < 0.3, nucleus > 0.05))
    places = np.argwhere(taken <= max(0.04, taken.min()))
    row, column = places[rng.integers(len(places))] - half + rng.uniform(-0.5, 0.5, 2)
    away = np.hypot(*np.ogrid[-half - row : half + 1 - row, -half - column : half + 1 - column]) * mpp
    clear = np.ones_like(thickness)
    clear[inner] -= rng.uniform(0.45, 0.75) * np.clip((radius + 0.9 - away) / max(mpp, 0.6) + 0.5, 0, 1)
    body = rng.uniform(0.6, 0.95) * np.clip((radius - away) / max(mpp, 0.5) + 0.5, 0, 1)
    return nucleus + (0 if hollow else 1) * body.astype(np.float32), thickness * clear


def _disc(square: Plane, centre: Float[np.ndarray, "2"], radius: float, amount: float, mpp: float) -> None:
    """Adds a soft disc, its centre (y, x) and radius in microns from the middle, to the square."""
    half = len(square) // 2
    reach = int(radius / mpp) + 2
    y, x = np.rint(np.asarray(centre) / mpp).astype(int) + half
    grid = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) * mpp
    disc = np.clip((radius - grid) / max(mpp, 0.4) + 0.5, 0, 1) * amount
    top, left = max(y - reach, 0), max(x - reach, 0)
    window = square[top : y + reach + 1, left : x + reach + 1]
    window += disc[top - y + reach :, left - x + reach :][: window.shape[0], : window.shape[1]]


def _colour(kind: Squamous, optics: Optics, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The optical density of cytoplasm of thickness 1; small cells are denser."""
    warm = rng.random() < kind.orange
    mix = rng.dirichlet([0.3, 5.0, 1.0, 0.2] if not warm else rng.choice([[0.2, 0.4, 5.0, 1.0], [0.2, 0.2, 1.5, 5.0]]))
    mix = 0.9 * mix + np.array([0.1, 0.0, 0.0, 0.0])
    mix = mix if kind.tint is None else rng.dirichlet(kind.tint)
    dense = 1.7 if sum(kind.radius) < 28 else 1.0
    return dense * rng.lognormal(np.log(0.27), 0.32) * (mix @ optics.dyes)


def _extent(thickness: Plane) -> tuple[int, int]:
    """Where the least square around the middle lies that holds the cell, its blur and its nucleus."""
    half = len(thickness) // 2
    rows, columns = np.nonzero(thickness.any(1))[0], np.nonzero(thickness.any(0))[0]
    far = max(half - rows[0], rows[-1] - half, half - columns[0], columns[-1] - half)
    far = min(max(far + half // 20 + 2, 28 * half // 64 + 2), half)
    return int(half - far), int(half + far + 1)
