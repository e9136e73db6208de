"""Draws what else a Papanicolaou smear is screened for, candida and clue cells, and what is normal and looks like them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter

from milscope.slides._drawn_cells import KINDS, WINDOW, Density, Optics, Plane, draw_squamous
from milscope.slides._drawn_shapes import texture
from milscope.types import Microns

HALF: Microns = Microns(58.0)
"""Half the side of the square on which filaments and bacteria are drawn."""
LEAST = 0.3
"""Share of a cell's colour that stays at least, however much light lies on it."""

Points = Float[np.ndarray, "point 2"]


class Thread(NamedTuple):
    """What a kind of filament looks like; ranges are (least, most)."""

    count: tuple[int, int]              # of filaments
    length: tuple[float, float]         # microns
    width: tuple[float, float]          # microns
    segment: tuple[float, float]        # from septum to septum, microns; infinite: none
    bend: float                         # radians in ten microns
    wavy: float                         # change of width along it, share
    branch: float                       # chance at a septum
    bud: float                          # chance of spores at a septum
    soft: tuple[float, float]           # blur of the edge, microns


HYPHAE = Thread((1, 3), (45, 105), (1.4, 2.7), (9, 19), 0.13, 0.08, 0.13, 0.4, (0.05, 0.3))
MUCUS = Thread((1, 4), (50, 110), (0.8, 3.0), (np.inf, np.inf), 0.2, 0.4, 0.0, 0.0, (0.05, 0.9))


def draw_candida(optics: Optics, rng: np.random.Generator) -> Density:
    """Hyphae in segments, some branched, with spores at the joints, over or beside a squamous cell."""
    paths = _grown(HYPHAE, rng)
    plane = _strokes(paths, optics, rng)
    joints = [path.points[at] for path in paths for at in path.septa if rng.random() < HYPHAE.bud]
    loose = rng.normal(0, 14, (rng.integers(1, 6), 2))
    spores = [place + rng.normal(0, 2.2, 2) for place in (*joints, *loose) for _ in range(rng.integers(1, 4))]
    for place in spores:
        wide = rng.uniform(1.1, 2.0)
        turn = rng.uniform(0, np.pi)
        _oval(plane, place, (wide * rng.uniform(1.1, 1.6), wide, turn), rng.uniform(0.8, 1.1), optics)
        if rng.random() < 0.35:  # a bud
            aside = 2.0 * wide * np.array([np.sin(turn), np.cos(turn)])
            _oval(plane, place + aside, (0.6 * wide, 0.5 * wide, turn), 0.9, optics)
    plane = gaussian_filter(plane, _blur(rng.uniform(*HYPHAE.soft), optics), truncate=3)
    return _over(_cell_below(optics, rng), plane, _pink_brown(optics, rng))


def draw_threads(optics: Optics, rng: np.random.Generator) -> Density:
    """Mucus and fibres over or beside a squamous cell: long, without segments, spores or branches."""
    plane = _strokes(_grown(MUCUS, rng), optics, rng)
    plane = gaussian_filter(plane, _blur(rng.uniform(*MUCUS.soft), optics), truncate=3)
    plane *= np.clip(1 + 0.3 * texture(1.2, optics.mpp, plane.shape, rng), 0, None)
    return _over(_cell_below(optics, rng), plane, _pink_brown(optics, rng))


def draw_corpuscles(optics: Optics, rng: np.random.Generator) -> Density:
    """Red blood cells, round and larger than spores, about a squamous cell."""
    plane = _empty(optics)
    for place in rng.normal(0, 15, (rng.integers(3, 14), 2)):
        wide = rng.uniform(2.6, 3.6)
        _oval(plane, place, (wide * rng.uniform(1.0, 1.2), wide, rng.uniform(0, np.pi)), rng.uniform(0.7, 1.0), optics)
    plane = gaussian_filter(plane, _blur(0.2, optics), truncate=3)
    return _over(_cell_below(optics, rng), plane, _pink_brown(optics, rng))


def draw_clue(optics: Optics, rng: np.random.Generator) -> Density:
    """A squamous cell stippled with bacteria, thickest at its border, which they blur."""
    cell = _flat_cell(optics, rng)
    body = _body(cell)
    film = gaussian_filter(body, rng.uniform(1.2, 2.6) / optics.mpp, truncate=3, mode="constant")
    inside = gaussian_filter(body, 5 / optics.mpp, truncate=3, mode="constant")
    patchy = np.clip(0.85 + 0.4 * texture(4.0, optics.mpp, body.shape, rng), 0.15, None)
    often = film * patchy * (1.35 - 0.6 * inside)
    rods = _rods(often, int(rng.uniform(0.4, 1.0) * often.sum() * optics.mpp**2), rng.uniform(0.3, 0.9), optics, rng)
    cell = np.stack([gaussian_filter(plane, rng.uniform(0.2, 0.6) / optics.mpp, truncate=3, mode="constant") for plane in cell])
    return _over(cell, gaussian_filter(rods, _blur(0.22, optics), truncate=3), _blue(optics, rng))


def draw_granular(optics: Optics, rng: np.random.Generator) -> Density:
    """A squamous cell with granules of its own: few, coarse, away from the border, which is sharp."""
    cell = _flat_cell(optics, rng)
    inside = np.clip(2 * gaussian_filter(_body(cell), 3 / optics.mpp, truncate=3, mode="constant") - 1, 0, None)
    plane = np.zeros_like(inside)
    places = _drawn_places(inside, int(rng.uniform(40, 170)), rng)
    np.add.at(plane, (places[:, 0], places[:, 1]), rng.uniform(0.4, 1.6, len(places)).astype(np.float32))
    coarse = rng.uniform(0.5, 0.95)
    plane = gaussian_filter(plane, _blur(coarse, optics), truncate=3) * (2.6 / optics.mpp**2)
    return _over(cell, np.minimum(plane, 1.6), _blue(optics, rng))


def draw_bacilli(optics: Optics, rng: np.random.Generator) -> Density:
    """A squamous cell among lactobacilli: slender long rods here and there, on it no more than beside it."""
    cell = _flat_cell(optics, rng)
    grid = np.hypot(*np.ogrid[tuple(slice(-(side // 2), side // 2 + 1) for side in cell.shape[1:])]) * optics.mpp
    often = np.clip(1.3 - grid / 40, 0, 1) * np.clip(0.6 + 0.6 * texture(6.0, optics.mpp, cell.shape[1:], rng), 0, None)
    rods = _rods(often, int(rng.uniform(90, 320)), rng.uniform(3.0, 6.0), optics, rng)
    return _over(cell, gaussian_filter(rods, _blur(0.22, optics), truncate=3), _blue(optics, rng))


DRAWN: Mapping[str, Callable[[Optics, np.random.Generator], Density]] = {
    "candida": draw_candida, "clue": draw_clue,
    "threads": draw_threads, "corpuscles": draw_corpuscles, "granular": draw_granular, "bacilli": draw_bacilli,
}
"""What each kind looks like: first the findings, then the normal ones that look like them."""


class _Path(NamedTuple):
    """A filament: its points, half its width there, and at which of them a segment ends."""

    points: Points
    widths: Float[np.ndarray, " point"]
    septa: list[int]


STEP: Microns = Microns(0.4)
"""From one point of a filament to the next."""


def _grown(kind: Thread, rng: np.random.Generator) -> list[_Path]:
    """Filaments that pass near the middle, and their branches."""
    found = []
    count = rng.integers(kind.count[0], kind.count[1] + 1)
    lean = rng.uniform(0, 2 * np.pi)
    for _ in range(count):
        angle, length = lean + rng.normal(0, 0.7), rng.uniform(*kind.length)
        start = rng.normal(0, 7, 2) - rng.uniform(0.2, 0.8) * length * np.array([np.sin(angle), np.cos(angle)])
        path = _path(kind, start, angle, length, rng)
        found.append(path)
        for at in path.septa:
            if rng.random() < kind.branch:
                way = path.points[min(at + 1, len(path.points) - 1)] - path.points[at - 1]
                aside = np.arctan2(*way) + rng.choice([-1, 1]) * rng.uniform(0.5, 0.9)
                found.append(_path(kind, path.points[at], aside, rng.uniform(0.25, 0.5) * length, rng))
    return found


def _path(kind: Thread, start: Float[np.ndarray, "2"], angle: float, length: float, rng: np.random.Generator) -> _Path:
    steps = max(int(length / STEP), 8)
    turning = np.cumsum(rng.normal(0, kind.bend * np.sqrt(STEP / 10), steps))
    heading = angle + turning + rng.normal(0, kind.bend) * np.linspace(0, length / 30, steps)
    points = start + STEP * np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1), 0)
    along = np.arange(steps) * STEP
    wave = 1 + kind.wavy * np.sin(along / rng.uniform(6, 16) + rng.uniform(0, 6.3))
    width = rng.uniform(*kind.width) / 2 * wave
    septa: list[int] = []
    place = rng.uniform(*kind.segment) if np.isfinite(kind.segment[0]) else np.inf
    while place < length - 3:
        septa.append(int(place / STEP))
        near = np.abs(along - place)
        width = width * (1 - 0.55 * np.exp(-np.square(near / 0.9))) * (1 + 0.15 * np.exp(-np.square((near - 2.2) / 1.2)))
        place += rng.uniform(*kind.segment)
    ends = np.minimum(along, along[::-1])
    width = width * np.clip(ends / (1.0 if septa else 12.0) + 0.2, 0, 1)
    return _Path(points, width, septa)


def _strokes(paths: list[_Path], optics: Optics, rng: np.random.Generator) -> Plane:
    """Filaments as thickness of about 1: walls darker than what is within, septa as thin gaps."""
    plane = _empty(optics)
    half = len(plane) // 2
    fine = np.linspace(-1, 1, 15)
    for path in paths:
        way = np.gradient(path.points, axis=0)
        side = np.stack([way[:, 1], -way[:, 0]], 1) / (np.hypot(*way.T) + 1e-9)[:, None]
        places = path.points[:, None] + fine[:, None] * (path.widths[:, None] * side)[:, None]
        shade = np.broadcast_to(0.75 + 0.3 * fine**4, places.shape[:2]) * rng.uniform(0.8, 1.15)
        if path.septa:
            along = np.arange(len(path.points))[:, None]
            gap = np.abs(along - np.array(path.septa)).min(1) * STEP
            shade = shade * (1 - 0.6 * np.exp(-np.square(gap / 0.5)))[:, None]
        rows, columns = np.rint(places.reshape(-1, 2).T / optics.mpp).astype(int) + half
        held = (rows >= 0) & (columns >= 0) & (rows < len(plane)) & (columns < len(plane))
        one = np.zeros_like(plane)
        one[rows[held], columns[held]] = shade.ravel()[held]
        plane += one
    return np.minimum(plane, 1.5)


def _oval(plane: Plane, centre: Float[np.ndarray, "2"], shape: tuple[float, float, float], amount: float,
          optics: Optics) -> None:
    """Draws an oval (half its length and width in microns, its turn) with a wall darker than what is within."""
    long, wide, turn = shape
    half, reach = len(plane) // 2, int(long / optics.mpp) + 2
    row, column = np.rint(centre / optics.mpp).astype(int) + half
    if not (reach <= row < len(plane) - reach and reach <= column < len(plane) - reach):
        return
    y, x = (axis * optics.mpp for axis in np.ogrid[-reach : reach + 1, -reach : reach + 1])
    out = np.hypot((y * np.sin(turn) + x * np.cos(turn)) / long, (y * np.cos(turn) - x * np.sin(turn)) / wide)
    oval = np.clip((1 - out) * wide / 0.5 + 0.5, 0, 1) * (0.7 + 0.4 * np.clip(out, 0, 1) ** 3) * amount
    window = plane[row - reach : row + reach + 1, column - reach : column + reach + 1]
    np.maximum(window, oval, out=window)


def _rods(often: Plane, count: int, length: float, optics: Optics, rng: np.random.Generator) -> Plane:
    """So many rods of that length in microns, where they are to be often; not yet blurred."""
    plane = np.zeros_like(often)
    places = _drawn_places(often, count, rng).astype(float)
    angle = rng.uniform(0, np.pi, len(places))
    lengths = length * rng.uniform(0.6, 1.4, len(places))
    points = max(2, int(length / optics.mpp) + 1)
    for part in np.linspace(-0.5, 0.5, points):
        rows = np.rint(places[:, 0] + part * lengths * np.sin(angle) / optics.mpp).astype(int)
        columns = np.rint(places[:, 1] + part * lengths * np.cos(angle) / optics.mpp).astype(int)
        held = (rows >= 0) & (columns >= 0) & (rows < len(plane)) & (columns < len(plane))
        np.add.at(plane, (rows[held], columns[held]), 0.3 * (0.6 + length) / points / optics.mpp**2)
    return np.minimum(plane, 3.0)


def _drawn_places(often: Plane, count: int, rng: np.random.Generator) -> Int[np.ndarray, "place 2"]:
    """Pixels (row, column) drawn as often as asked for."""
    sums = np.cumsum(often.ravel(), dtype=np.float64)
    if not count or sums[-1] <= 0:
        return np.zeros((0, 2), int)
    flat = np.searchsorted(sums, rng.uniform(0, sums[-1], count)).clip(0, sums.size - 1)
    return np.stack(np.unravel_index(flat, often.shape), 1)


def _blur(soft: float, optics: Optics) -> float:
    """Pixels, of a soft edge and the slide's focus; at least so many that no steps are seen."""
    return float(np.hypot(np.hypot(soft, optics.blur) / optics.mpp, 0.45))


def _empty(optics: Optics) -> Plane:
    side = 2 * int(HALF / optics.mpp) + 1
    return np.zeros((side, side), np.float32)


def _cell_below(optics: Optics, rng: np.random.Generator) -> Density:
    kind = rng.choice(["superficial", "intermediate", "parabasal", "folded", "degenerated"], p=[0.3, 0.35, 0.1, 0.2, 0.05])
    return draw_squamous(KINDS[kind], optics, rng)


def _flat_cell(optics: Optics, rng: np.random.Generator) -> Density:
    return draw_squamous(KINDS[rng.choice(["superficial", "intermediate", "folded"], p=[0.4, 0.5, 0.1])], optics, rng)


def _body(cell: Density) -> Plane:
    """Where the cell is: 1 within, 0 outside."""
    thick = cell.sum(0)
    return np.clip(2.5 * thick / max(float(np.median(thick[thick > 0.05])) if (thick > 0.05).any() else 1.0, 1e-6), 0, 1)


def _level(cell: Density) -> Float[np.ndarray, "3 1 1"]:
    """The usual density of the cell's cytoplasm."""
    body = _body(cell) > 0.5
    return np.median(cell[:, body], 1)[:, None, None] if body.any() else np.zeros((3, 1, 1), np.float32)


def _over(cell: Float[np.ndarray, "3 own own"], plane: Plane, tint: Float[np.ndarray, "3"],
          ) -> Float[np.ndarray, "3 whole whole"]:
    """Lays something over a cell that becomes as much paler as light is taken, so that mean colour tells neither."""
    side = max(cell.shape[1], len(plane))
    density = np.zeros((3, side, side), np.float32)
    plain = np.minimum(cell, 1.3 * _level(cell))  # nuclei keep their dark
    laid = plane[None] * tint[:, None, None].astype(np.float32)
    taken, there = (_middle(each, WINDOW / HALF * (len(plane) // 2)).sum((1, 2)) for each in (laid, plain))
    gone = np.clip(taken / np.maximum(there, 1e-6), 0, 1 - LEAST)[:, None, None].astype(np.float32)
    for each in (cell - gone * plain, laid):
        edge = (side - each.shape[1]) // 2
        density[:, edge : side - edge, edge : side - edge] += each
    return density


def _middle(drawn: Density, reach: float) -> Float[np.ndarray, "3 near near"]:
    """What is so many pixels around the middle."""
    half = drawn.shape[1] // 2
    near = slice(max(half - int(reach), 0), half + int(reach) + 1)
    return drawn[:, near, near]


def _pink_brown(optics: Optics, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The colour of hyphae, spores, mucus and blood: pink, brown or greyish."""
    mix = rng.dirichlet([2.0, 0.8, 2.4, 1.2]) @ optics.dyes
    return rng.uniform(0.32, 0.75) * mix / max(float(mix.max()), 1e-6)


def _blue(optics: Optics, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The colour of bacteria and granules: blue violet, some more brown."""
    mix = rng.dirichlet([5.0, 1.0, 1.0, 0.5]) @ optics.dyes
    return rng.uniform(0.38, 0.72) * mix / max(float(mix.max()), 1e-6)
