"""Scores of cells as a picture of their slide: how rare each score is, drawn where the cell lies, in colour."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8

FULL = 1e-3
"""Share of cells from which on a score counts as rarest: the top 0.1 % have the value 1."""
OPACITY = 0.7
"""Of the rarest cells; the commonest have `FAINT`."""
FAINT = 0.12
SPREAD = 100_000
"""Scores that stand for those of a cohort: enough to tell the top 0.1 %."""
_AT_ONCE = 1 << 20  # pixels looked at in one go: about 30 MB of working arrays
_CURVE = ((0.955, -0.020, 0.085), (0.850, 0.040, 0.135), (0.720, 0.125, 0.130), (0.580, 0.180, 0.085), (0.440, 0.165, 0.000),
          (0.300, 0.110, -0.055))  # OKLab: pale yellow, amber, orange, crimson, plum


class Tick(NamedTuple):
    """A mark of the legend: a value of the heat map, what it means, and its colour as `#rrggbb`."""

    value: float
    label: str
    colour: str


class Window(NamedTuple):
    """A rectangle of a slide, in slide pixels of level 0."""

    x: float
    y: float
    width: float
    height: float


def heat(places: Shaped[np.ndarray, "cell 4"], score: Shaped[np.ndarray, " cell"], extent: tuple[float, float],
         size: tuple[int, int], *, reference: Shaped[np.ndarray, " other"] | None = None, least: float = 3.0,
         ) -> Float[np.ndarray, "height width"]:
    """How rare the score of the most suspicious cell at each pixel is, 0 to 1; NaN where there is no cell.

    A picture of the whole slide. Nothing is blurred or averaged: a single rare cell among thousands stays what it is.
    Cells without a place (NaN) are not drawn.

    Args:
        places: x, y (centre), width, height of each cell in slide pixels.
        score: Of each cell; higher is more suspicious.
        extent: Width and height of the slide in slide pixels.
        size: Width and height of the picture in its own pixels.
        reference: Scores among which a cell is rare or not: of *all* cells of the slide where `score` holds only the best,
            or of the cohort, if scores can be compared between slides. None: `score` itself.
        least: Smallest diameter of a cell in the picture, in its pixels, so that it can be seen from afar.
    """
    return draw(places, rarity(score, reference), Window(0, 0, *extent), size, least=least)


def rarity(score: Shaped[np.ndarray, " cell"], reference: Shaped[np.ndarray, " other"] | None = None,
           ) -> Float[np.ndarray, " cell"]:
    r"""How rare so high a score is: 0 for the commonest, 1/3 in the top 10 %, 2/3 in the top 1 %, 1 in the top 0.1 %.

    $$ v = \min\left(1, \frac{\log s}{\log 0.001}\right), \quad s = \frac{1 + |\{r : r \ge score\}|}{1 + n} $$

    with the cell itself counted once if it is one of the reference. Only the order of scores counts, so that those of any
    ranking look alike, and the best of few cells is not called rare.

    Args:
        score: Of each cell, higher is more suspicious; NaN gives NaN.
        reference: The scores it is compared with, NaN left out; `score` itself if None.
    """
    score = np.asarray(score, dtype=float)
    others = np.sort(np.asarray(score if reference is None else reference, dtype=float))
    others = others[~np.isnan(others)]
    if not len(others):
        return np.where(np.isnan(score), np.nan, 0.0)
    first = np.searchsorted(others, score, side="left")
    known = first < np.searchsorted(others, score, side="right")
    share = (len(others) - first + ~known) / (len(others) + ~known)
    return np.where(np.isnan(score), np.nan, np.minimum(np.log(share) / np.log(FULL), 1) + 0.0)


def spread(score: Shaped[np.ndarray, " cell"]) -> Float[np.ndarray, " kept"]:
    """Scores of a cohort to compare with: all of them, or so many, evenly taken from the lowest to the highest.

    Args:
        score: Of the cells of all slides; NaN is left out.
    """
    values = np.sort(np.asarray(score, dtype=float))
    values = values[~np.isnan(values)]
    return values[np.linspace(0, len(values) - 1, SPREAD).round().astype(int)] if len(values) > SPREAD else values


def draw(places: Shaped[np.ndarray, "cell 4"], values: Float[np.ndarray, " cell"], window: Window, size: tuple[int, int], *,
         least: float = 3.0) -> Float[np.ndarray, "height width"]:
    """The highest value of the cells that touch each pixel of a window of the slide; NaN where there is none.

    A cell is the ellipse that fits its box; a pixel belongs to it if its centre lies inside, or if it holds the centre of
    the cell. A picture drawn piece by piece is therefore the same as one drawn at once.

    Args:
        places: x, y (centre), width, height of each cell in slide pixels.
        values: Of each cell; NaN is not drawn.
        window: The part of the slide.
        size: Width and height of the picture in its own pixels.
        least: Smallest diameter of a cell in pixels of the picture.
    """
    canvas = np.full((size[1], size[0]), -np.inf)
    scale = np.array([window.width / size[0], window.height / size[1]])
    places = np.asarray(places, dtype=float)
    centre = (places[:, :2] - (window.x, window.y)) / scale
    radius = np.maximum(np.nan_to_num(places[:, 2:]) / scale, least) / 2
    low, high = np.floor(centre - radius), np.floor(centre + radius)
    seen = np.isfinite(values) & (high >= 0).all(axis=1) & (low < (size[0], size[1])).all(axis=1)  # NaN compares as False
    chosen = np.flatnonzero(seen)
    reach = (high - low + 1)[chosen].astype(int)
    for part, cells in _batches(chosen, reach):
        _stamp(canvas, centre[cells], radius[cells], values[cells], reach[part].max(axis=0))
    canvas[np.isneginf(canvas)] = np.nan
    return canvas


def paint(values: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 4"]:
    """The colours of a heat map, red, green, blue and opacity: rare cells dark and opaque, common ones pale and faint."""
    known = np.isfinite(values)
    clipped = np.clip(np.where(known, values, 0), 0, 1)
    painted = np.empty((*values.shape, 4), np.uint8)
    painted[..., :3] = COLOURS[np.rint(clipped * (len(COLOURS) - 1)).astype(np.uint8)]
    painted[..., 3] = np.rint(255 * (FAINT + (OPACITY - FAINT) * clipped)) * known
    painted[~known, :3] = 255  # the colour of nothing must not darken the edges where a viewer interpolates
    return painted


def legend(steps: int = 4) -> list[Tick]:
    """What the colours mean, from common to rare.

    Args:
        steps: Number of marks; 4 are the whole powers of ten.
    """
    values = np.linspace(0, 1, steps).tolist()
    return [Tick(value, f"top {100 * FULL**value:.2g} %" if value else "all cells",
                 "#{:02x}{:02x}{:02x}".format(*COLOURS[round(value * 255)])) for value in values]


def _batches(chosen: Int[np.ndarray, " cell"], reach: Int[np.ndarray, "cell 2"],
             ) -> list[tuple[Int[np.ndarray, " part"], Int[np.ndarray, " part"]]]:
    """Cells of like size together, as many as their boxes allow: positions in `chosen`, and the cells themselves."""
    by_size = np.argsort(reach.prod(axis=1), kind="stable")
    batches, start = [], 0
    while start < len(by_size):
        ahead = np.maximum.accumulate(reach[by_size[start:start + _AT_ONCE]], axis=0).prod(axis=1)
        taken = max(1, int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), _AT_ONCE, side="right")))
        part = by_size[start:start + taken]
        batches.append((part, chosen[part]))
        start += taken
    return batches


def _stamp(canvas: Float[np.ndarray, "height width"], centre: Float[np.ndarray, "cell 2"], radius: Float[np.ndarray, "cell 2"],
           values: Float[np.ndarray, " cell"], reach: Int[np.ndarray, " 2"]) -> None:
    """Raises the canvas to the values of the cells wherever their ellipses are; all in pixels of the canvas."""
    first = np.floor(centre - radius).astype(int)
    columns = first[:, :1] + np.arange(reach[0])
    rows = first[:, 1:] + np.arange(reach[1])
    across, down = _inside(columns, centre[:, :1], radius[:, :1]), _inside(rows, centre[:, 1:], radius[:, 1:])
    holds = _holding(rows, centre[:, 1:])[:, :, None] & _holding(columns, centre[:, :1])[:, None, :]
    within = (down[:, :, None] + across[:, None, :] <= 1) | holds
    within &= ((rows >= 0) & (rows < canvas.shape[0]))[:, :, None] & ((columns >= 0) & (columns < canvas.shape[1]))[:, None, :]
    cell, row, column = np.nonzero(within)
    np.maximum.at(canvas, (rows[cell, row], columns[cell, column]), values[cell])


def _inside(pixels: Int[np.ndarray, "cell pixel"], centre: Float[np.ndarray, "cell 1"], radius: Float[np.ndarray, "cell 1"],
            ) -> Float[np.ndarray, "cell pixel"]:
    """The share of the ellipse's equation that one axis has, at the centres of pixels."""
    return ((pixels + 0.5 - centre) / radius) ** 2


def _holding(pixels: Int[np.ndarray, "cell pixel"], centre: Float[np.ndarray, "cell 1"]) -> Bool[np.ndarray, "cell pixel"]:
    return pixels == np.floor(centre).astype(int)


def _even_colours(steps: int = 256) -> UInt8[np.ndarray, "step 3"]:
    """The curve of colours, cut into steps that look equally far apart and grow darker all the way.

    Source:
        Ottosson, A perceptual color space for image processing, 2020: OKLab, in which distances are seen ones.
    """
    curve = np.array(_CURVE)
    at = np.linspace(0, len(curve) - 1, 4096)
    fine = np.stack([np.interp(at, np.arange(len(curve)), axis) for axis in curve.T], axis=1)
    walked = np.append(0, np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1)))
    even = np.stack([np.interp(np.linspace(0, walked[-1], steps), walked, axis) for axis in fine.T], axis=1)
    cone = even @ np.array([[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728],
                            [1, -0.0894841775, -1.2914855480]]).T
    linear = np.clip(cone ** 3 @ np.array([[4.0767416621, -3.3077115913, 0.2309699292],
                                           [-1.2684380046, 2.6097574011, -0.3413193965],
                                           [-0.0041960863, -0.7034186147, 1.7076147010]]).T, 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded).astype(np.uint8)


COLOURS = _even_colours()
"""The 256 colours of values from 0 to 1; ever darker, so that they can be told apart without seeing colour."""
