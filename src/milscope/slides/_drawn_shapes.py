"""The shapes and the grain that cells are drawn with."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int


def texture(grain: float, mpp: float, shape: tuple[int, ...],
            rng: np.random.Generator) -> Float[np.ndarray, "height width"]:
    """A window on smooth noise of mean 0 and spread 1.

    Args:
        grain: Size of its spots, microns.
        mpp: Microns per pixel.
        shape: Height and width, pixels.
        rng: Chooses the window.
    """
    bank = _noise(max(round(grain / mpp, 2), 0.3))
    rows, columns = (((np.arange(length) + rng.integers(len(bank))) % len(bank))[:: rng.choice([-1, 1])] for length in shape)
    return bank[rows[:, None], columns]


@lru_cache(maxsize=32)
def _noise(sigma: float, side: int = 1024) -> Float[np.ndarray, "side side"]:
    frequency = np.square(np.fft.fftfreq(side))[:, None] + np.square(np.fft.rfftfreq(side))
    white = np.random.default_rng(20).standard_normal((side, side))
    smooth = np.fft.irfft2(np.fft.rfft2(white) * np.exp(-2 * np.pi**2 * sigma**2 * frequency), s=(side, side))
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)


ANGLES = 512


@lru_cache(maxsize=128)
def polar(half: int) -> tuple[Float[np.ndarray, "s s"], Int[np.ndarray, "s s"]]:
    """Distance, in pixels, and direction, in ANGLES steps, of every pixel from the middle."""
    y, x = np.ogrid[-half : half + 1, -half : half + 1]
    turn = np.arctan2(y, x) / (2 * np.pi)
    return np.hypot(y, x).astype(np.float32), np.rint(turn * ANGLES).astype(np.int16) % ANGLES


def draw_outline(radius: float, corners: int, sharpness: float, rng: np.random.Generator, *, length: float,
             waves: float) -> Float[np.ndarray, " angle"]:
    """The distance of the outline in each direction: a polygon with rounded corners and a wavy edge, of area pi radius²."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    sides = (np.arange(corners) + rng.uniform(-0.28, 0.28, corners)) * (2 * np.pi / corners) + rng.uniform(0, 2 * np.pi)
    facing = np.clip(np.cos(angle[:, None] - sides), 0, None) / rng.uniform(0.85, 1.15, corners)
    line = np.power(facing, sharpness).sum(1) ** (-1 / sharpness)
    around = angle - rng.uniform(0, np.pi)
    line /= np.hypot(np.cos(around) / length, np.sin(around))
    for wave in range(2, 8):
        line *= 1 + waves / np.sqrt(wave - 1) * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi)) / 1.5
    line = np.clip(line, 0.2 * line.mean(), 1.9 * line.mean())
    return (line * radius / np.sqrt(np.square(line).mean())).astype(np.float32)


def warped(line: Float[np.ndarray, " angle"], rng: np.random.Generator) -> Float[np.ndarray, " angle"]:
    """The same outline drawn out, with a tail or with a notch, by chance; its area stays.

    Args:
        line: Distance of the outline in each direction, pixels.
        rng: Chooses the shape.
    """
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES) - rng.uniform(0, 2 * np.pi)
    shape = rng.choice(["spindle", "tail", "notch"])
    if shape == "spindle":
        length = rng.uniform(1.9, 2.3)
        bent = line / np.hypot(np.cos(angle) / length, np.sin(angle))
    elif shape == "tail":
        bent = line * (1 + rng.uniform(0.8, 1.1) * np.exp(rng.uniform(7, 14) * (np.cos(angle) - 1)))
    else:
        bent = line * (1 - rng.uniform(0.5, 0.65) * np.exp(rng.uniform(4, 9) * (np.cos(angle) - 1)))
    return (bent * np.sqrt(np.square(line).mean() / np.square(bent).mean())).astype(np.float32)
