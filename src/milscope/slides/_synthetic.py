"""Renders cervical smears in the manner of Papanicolaou: whole slide images whose every cell is known."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import zoom

from milscope.slides._drawn_cells import (
    DYES,
    KINDS,
    Optics,
    draw_debris,
    draw_neutrophils,
    draw_speck,
    draw_squamous,
    draw_strand,
)
from milscope.slides._drawn_findings import DRAWN
from milscope.slides._drawn_shapes import texture
from milscope.slides._drawn_witnesses import ORDINARY, SMALL, WITNESSES, draw_witness
from milscope.types import Microns, MicronsPerPixel

NORMAL = {"superficial": 0.24, "intermediate": 0.32, "parabasal": 0.18, "folded": 0.08, "degenerated": 0.07,
          "neutrophils": 0.07, "debris": 0.04}
"""Shares of the kinds among what a detector finds and is normal."""
ABNORMAL = {"low-grade": 0.55, "high-grade": 0.27, "keratinising": 0.18}
"""Shares of the kinds among abnormal cells."""
ALIKE = {"threads": 0.07, "corpuscles": 0.03, "granular": 0.07, "bacilli": 0.05}
"""Shares, on the mean slide, of what looks like candida or clue cells; every slide has its own."""

MARGIN: Microns = Microns(40.0)
"""No cell lies nearer to the edge of the slide, so that every crop of 80 microns is whole."""
ROOM, SMALL_ROOM = 4200.0, 2400.0
"""Square microns of glass per cell, and per small cell."""
SPECK_ROOM, SMALL_SPECK_ROOM = 2.5e4, 8e3
"""Square microns of glass per speck of dirt; more of them where a witness may be a small body in a cell."""
TOGETHER: Microns = Microns(0.0)
APART: Microns = Microns(13.0)
"""Least distance of two places where there is room."""


class SmearPlan(NamedTuple):
    """Where everything lies on a slide, before anything is drawn."""

    side: int
    places: Int[np.ndarray, "cell 2"]
    kinds: list[str]
    abnormal: list[bool]
    small: bool = False
    """Cells are those of `SMALL`."""
    half: int = 0
    """Half the side, in pixels, of the square of which a cell does not reach out; 0: it may."""


def plan_smear(cells: int, witnesses: int, mpp: MicronsPerPixel, seed: np.random.SeedSequence,
               findings: Mapping[str, int] | None = None, *, witness: str = "squamous", alone: Microns = TOGETHER) -> SmearPlan:
    """The places (x, y in slide pixels) and kinds of the cells, in an order that tells nothing.

    Args:
        cells: How many there are, normal, abnormal and what a detector mistakes for a cell.
        witnesses: How many of them are abnormal, exactly.
        mpp: Scale of the slide, microns per pixel.
        seed: Same seed, same plan.
        findings: How many cells show `candida` and `clue`, if they play a part; what looks like them then lies on every slide.
        witness: What is abnormal: `squamous`, one of `WITNESSES`, or `mixed`, any of those.
        alone: Side, in microns, of the square that each cell has for itself; 0: cells may overlap.
    """
    rng = np.random.default_rng(seed)
    small = witness != "squamous"
    half = round(alone / mpp / 2)
    width = int(np.ceil(np.sqrt(cells))) * 2 * half * mpp if alone else np.sqrt(cells * (SMALL_ROOM if small else ROOM))
    side = int(np.ceil((width + 2 * MARGIN) / mpp / 16)) * 16
    places = _grid(cells, half, mpp) if alone else np.rint(_places(cells, side * mpp, rng) / mpp).astype(int)
    found = [name for name, count in (findings or {}).items() for _ in range(count)]
    normal = ORDINARY if small else NORMAL if findings is None else _with_alike(rng)
    shares = _witness_shares(witness)
    kinds = [*rng.choice(list(shares), witnesses, p=list(shares.values())), *found,
             *rng.choice(list(normal), cells - witnesses - len(found), p=list(normal.values()))]
    order = rng.permutation(cells)
    return SmearPlan(side, places, [str(kinds[i]) for i in order], [bool(i < witnesses) for i in order], small, half)


def render_smear(plan: SmearPlan, mpp: MicronsPerPixel, seed: np.random.SeedSequence,
                 spread: float = 1.0) -> UInt8[np.ndarray, "side side 3"]:
    """The image of a planned slide; stain, focus, light and dirt are drawn without regard to what cells it holds.

    Takes about 30 bytes of memory per pixel.

    Args:
        plan: Where everything lies.
        mpp: Scale of the slide, microns per pixel.
        seed: Same plan and seed, same image.
        spread: How much stain and light differ from slide to slide.
    """
    slide_rng = np.random.default_rng(seed)
    cell_rng = np.random.default_rng(slide_rng.integers(2**63))
    optics = _optics(mpp, slide_rng, spread)
    density = np.zeros((3, plan.side, plan.side), np.float32)
    _soil(density, optics, slide_rng, plan)
    for place, kind in zip(plan.places, plan.kinds, strict=True):
        aside = np.rint(cell_rng.normal(0, 0.6 / mpp, 2)).astype(int)
        drawn = _drawn(kind, optics, cell_rng, small=plan.small)
        if plan.half:
            left, top = place - plan.half
            own = density[:, top : top + 2 * plan.half, left : left + 2 * plan.half]
            _lay(own, drawn, plan.half + aside)
        else:
            _lay(density, drawn, place + aside)
    return _light(density, slide_rng, spread)


def _drawn(kind: str, optics: Optics, rng: np.random.Generator, *, small: bool) -> Float[np.ndarray, "3 s s"]:
    """Whatever a slide holds, its middle in the middle of the square."""
    if kind == "neutrophils":
        return draw_neutrophils(int(rng.integers(3, 10)), optics, rng)
    if kind == "debris":
        return draw_debris(optics, rng)
    if kind in DRAWN:
        return DRAWN[kind](optics, rng)
    if kind in WITNESSES:
        return draw_witness(kind, optics, rng)
    return draw_squamous((SMALL if small else KINDS)[kind], optics, rng)


def _witness_shares(witness: str) -> dict[str, float]:
    """Shares of the kinds among abnormal cells."""
    if witness == "mixed":
        return dict.fromkeys(WITNESSES, 1 / len(WITNESSES))
    return ABNORMAL if witness == "squamous" else {witness: 1.0}


def _with_alike(rng: np.random.Generator) -> dict[str, float]:
    """Shares of the kinds of normal cells where some look like findings: many on one slide, few on another."""
    alike = {kind: share * rng.gamma(2.0, 0.5) for kind, share in ALIKE.items()}
    every = NORMAL | alike
    return {kind: share / sum(every.values()) for kind, share in every.items()}


def _places(cells: int, side: float, rng: np.random.Generator) -> Float[np.ndarray, "cell 2"]:
    """Places in microns: most far from others, some so near that cells overlap."""
    places = np.empty((cells, 2))
    for i in range(cells):
        tries = rng.uniform(MARGIN, side - MARGIN, (12, 2))
        gap = np.full(12, np.inf)
        if i:
            gap = np.sqrt(np.square(tries[:, None] - places[None, :i]).sum(-1).min(1))
        enough = np.flatnonzero(gap > APART)
        places[i] = tries[enough[0]] if len(enough) and rng.random() < 0.25 else tries[gap.argmax()]
    return places


def _grid(cells: int, half: int, mpp: MicronsPerPixel) -> Int[np.ndarray, "cell 2"]:
    """Places in pixels, in rows."""
    row = int(np.ceil(np.sqrt(cells)))
    return int(np.ceil(MARGIN / mpp)) + half + 2 * half * np.stack(np.divmod(np.arange(cells), row)[::-1], 1)


def _optics(mpp: MicronsPerPixel, rng: np.random.Generator, spread: float) -> Optics:
    dyes = np.array(list(DYES.values())) * rng.lognormal(0, 0.14 * spread, (4, 1)) * rng.lognormal(0, 0.08 * spread, (4, 3))
    return Optics(mpp, dyes.astype(np.float32), Microns(float(rng.uniform(0.2, 0.55))))


def _soil(density: Float[np.ndarray, "3 side side"], optics: Optics, rng: np.random.Generator,
          plan: SmearPlan) -> None:
    """Lays what no detector reports: haze, strands of mucus, specks and, where cells are not alone, single neutrophils."""
    side = density.shape[1]
    area = (side * optics.mpp) ** 2
    specks = SMALL_SPECK_ROOM if plan.small else SPECK_ROOM
    coarse = (side // 16 + 2,) * 2
    haze = 0.5 + texture(12.0, 16 * optics.mpp, coarse, rng) + texture(60.0, 16 * optics.mpp, coarse, rng)
    haze = zoom(np.clip(haze, 0, 3), 16, order=1)[:side, :side]
    tint = rng.exponential(0.015) * (rng.dirichlet([0.4, 2, 0.5, 0.1]) @ optics.dyes)
    for plane, amount in zip(density, tint, strict=True):
        plane += haze * np.float32(amount)
    for count, draw in ((rng.poisson(area / 2.5e5), draw_strand), (rng.poisson(area / specks), draw_speck)):
        for _ in range(count):
            _lay(density, draw(optics, rng), rng.integers(0, side, 2))
    for _ in range(rng.poisson(area / 2e4 * rng.lognormal(0, 0.6)) if not plan.half else 0):
        _lay(density, draw_neutrophils(1, optics, rng), rng.integers(0, side, 2))


def _lay(density: Float[np.ndarray, "3 side side"], drawn: Float[np.ndarray, "3 s s"], place: Int[np.ndarray, "2"]) -> None:
    """Adds a drawing to the slide with its middle at the place (x, y); what is over the edge is cut off."""
    half, side = drawn.shape[1] // 2, density.shape[1]
    (left, top), (start_x, start_y) = np.maximum(place - half, 0), np.maximum(half - place, 0)
    right, bottom = np.minimum(place + half + 1, side)
    density[:, top:bottom, left:right] += drawn[:, start_y : start_y + bottom - top, start_x : start_x + right - left]


def _light(density: Float[np.ndarray, "3 side side"], rng: np.random.Generator, spread: float
           ) -> UInt8[np.ndarray, "side side 3"]:
    """What the camera sees: light dimmed by the density, uneven illumination, tint of the glass, noise."""
    side = density.shape[1]
    white = rng.uniform(242 - 8 * spread, 242 + 8 * spread) - rng.uniform(0, 7 * spread, 3)
    tilt, noise = rng.normal(0, 0.015, 2), rng.uniform(1.2, 3.0)
    across = np.linspace(-1, 1, side, dtype=np.float32)
    image = np.empty((side, side, 3), np.uint8)
    for top in range(0, side, 256):
        strip = np.exp(-density[:, top : top + 256])
        strip *= 1 + tilt[0] * across[top : top + 256, None] + tilt[1] * across
        strip *= white.astype(np.float32)[:, None, None]
        strip += rng.standard_normal(strip.shape, dtype=np.float32) * np.float32(noise)
        image[top : top + 256] = np.clip(strip + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return image
