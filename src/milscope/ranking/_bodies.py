"""What lies in a crop: the cell against its background, the body in the middle, and their outlines."""

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from scipy import ndimage

BLACK = 12
"""A pixel with no channel at this or above was blotted out before the cell came to us."""
RAYS = 32
"""Directions in which the outline's distance is looked at."""
WAVES = 8
"""Waves around the outline that are told: 2 for an ellipse, 3 for a triangle."""
BINS = 64

Masks = Bool[np.ndarray, "cell side side"]


def densities(pixels: UInt8[np.ndarray, "cell side side 3"]) -> Float[np.ndarray, "cell 3 side side"]:
    """The optical density in red, green and blue light."""
    return -np.log((pixels.astype(np.float32) + 8) / 263).transpose(0, 3, 1, 2)


def cell_masks(pixels: UInt8[np.ndarray, "cell side side 3"]) -> Masks:
    """The cell: what differs from the colour of the crop's edge, or was not blotted out; all, if that is next to nothing."""
    black = brightest(pixels) < BLACK
    edge = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1).astype(np.float32)
    unlike = brightest(np.abs(pixels - np.median(edge, 1)[:, None, None]))
    cut = thresholds(unlike.reshape(len(pixels), -1))[:, None, None]
    blotted = black.mean((1, 2))[:, None, None] > 0.02
    found = central(np.where(blotted, ~black, unlike > cut))
    return np.where(found.mean((1, 2))[:, None, None] > 0.05, found, True)


def brightest(pixels: Shaped[np.ndarray, "cell side side 3"]) -> Shaped[np.ndarray, "cell side side"]:
    """The greatest of the three channels; numpy's own `max` is slow over an axis of three."""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def bodies(density: Float[np.ndarray, "cell 3 side side"]) -> Masks:
    """The body in the middle: connected pixels that differ from what surrounds it at least half as much as the middle does."""
    cells, _, side, _ = density.shape
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    away, reach = np.hypot(down, right), 0.375 * side
    grey = ndimage.gaussian_filter(density.mean(1), (0, 1, 1))
    around = np.percentile(grey[:, (away > 0.6 * reach) & (away <= reach)], 30, axis=1)
    contrast = np.median(grey[:, away <= 2.5], 1) - around
    contrast = np.where(np.abs(contrast) < 0.02, np.copysign(0.02, contrast), contrast)
    like = ((grey - around[:, None, None]) / contrast[:, None, None] > 0.5) & (away <= reach)
    found, half = np.zeros((cells, side, side), bool), side // 2
    for own, mask in zip(found, like, strict=True):
        parts, _ = ndimage.label(mask)
        part = parts[half - 2 : half + 2, half - 2 : half + 2].max()
        if part:
            own[:] = ndimage.binary_opening(parts == part, np.ones((3, 3)))
    return found


def central(masks: Masks) -> Masks:
    """Of each mask the connected part of a dozen pixels or more that comes nearest the middle, its holes filled."""
    side = masks.shape[1]
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    away, found = np.hypot(down, right), np.zeros_like(masks)
    for own, mask in zip(found, masks, strict=True):
        parts, count = ndimage.label(mask)
        if count:
            large = np.bincount(parts.ravel(), minlength=count + 1)[1:] >= 12
            near = np.where(large, ndimage.minimum(away, parts, np.arange(1, count + 1)), np.inf)
            own[:] = ndimage.binary_fill_holes(parts == 1 + int(np.argmin(near)))
    return found


def shrunk(masks: Masks, pixels: int) -> Masks:
    """The masks without what lies within so many pixels of what is outside, or of the edge of the crop."""
    found = np.pad(masks, ((0, 0), (pixels, pixels), (pixels, pixels)))
    for axis in (1, 2):
        width = 1  # of the run of pixels that all have to be in; one more step than doubling would pass it
        while width < 2 * pixels + 1:
            step = min(width, 2 * pixels + 1 - width)
            start, end = ((slice(None),) * axis + (cut,) for cut in (slice(step, None), slice(None, -step)))
            found, width = found[start] & found[end], width + step
    return found


def quantiles(density: Float[np.ndarray, "cell 3 side side"], region: Masks) -> Float[np.ndarray, "cell 3 quantile"]:
    """The tenth, fiftieth and ninetieth hundredth of each channel in the region, of every third pixel."""
    values = np.where(region[:, None], density, np.inf).reshape(*density.shape[:2], -1)[:, :, ::3]
    values = np.sort(values, axis=2)
    count = np.isfinite(values[:, :1]).sum(2, keepdims=True)
    places = (np.array([0.1, 0.5, 0.9]) * np.maximum(count - 1, 0)).round().astype(int)
    found = np.take_along_axis(values, np.broadcast_to(places, (*values.shape[:2], 3)), axis=2)
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def thresholds(values: Float[np.ndarray, "row value"]) -> Float[np.ndarray, " row"]:
    """The value that parts each row into two groups most unlike each other (Otsu, 1979)."""
    low, high = values.min(1), values.max(1)
    bins = ((values - low[:, None]) / (high - low + 1e-6)[:, None] * (BINS - 0.01)).astype(int)
    counts = np.stack([np.bincount(row, minlength=BINS) for row in bins]).astype(float)
    below, moment = counts.cumsum(1), (counts * np.arange(BINS)).cumsum(1)
    above = below[:, -1:] - below
    between = (moment[:, -1:] * below - moment * below[:, -1:]) ** 2 / (below * above + 1e-9)
    return low + (between.argmax(1) + 1) / BINS * (high - low)


def outlines(masks: Masks) -> Float[np.ndarray, "cell measure"]:
    """Size and shape of each mask, whichever way round it lies.

    Logarithm of the area, ratio of the axes, spread, length of the edge, least and greatest distance of the outline from the
    middle over its mean, and the logarithms of `WAVES` waves of that distance around the outline.
    """
    cells, side, _ = masks.shape
    mask = masks.astype(np.float32)
    down, right = np.mgrid[:side, :side].astype(np.float32)
    area = mask.sum((1, 2)) + 1e-3
    y, x = ((mask * along).sum((1, 2)) / area for along in (down, right))
    off_y, off_x = down - y[:, None, None], right - x[:, None, None]
    first, second, both = ((mask * product).sum((1, 2)) / area for product in (off_y**2, off_x**2, off_y * off_x))
    half = np.sqrt((first - second) ** 2 / 4 + both**2)
    ratio = np.sqrt(np.clip((first + second) / 2 - half, 0, None) / ((first + second) / 2 + half + 1e-6))
    spread = (mask * np.hypot(off_y, off_x)).sum((1, 2)) / area / np.sqrt(area / np.pi)
    edge = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    angle, distance = np.linspace(0, 2 * np.pi, RAYS, endpoint=False)[:, None], np.linspace(0, 0.7 * side, 40)
    rows, columns = (np.clip(middle[:, None, None] + turn * distance, 0, side - 1).round().astype(int)
                     for middle, turn in ((y, np.sin(angle)), (x, np.cos(angle))))
    radius = masks[np.arange(cells)[:, None, None], rows, columns].sum(2) * distance[1]
    waves = np.abs(np.fft.rfft(radius, axis=1))
    mean = radius.mean(1) + 1e-3
    return np.column_stack([np.log(area), ratio, spread, edge / np.sqrt(area), radius.min(1) / mean, radius.max(1) / mean,
                            np.log(waves[:, 1 : WAVES + 1] / (waves[:, :1] + 1e-3) + 1e-3)])
