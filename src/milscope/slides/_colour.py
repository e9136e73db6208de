"""The samples of a TIFF, whatever they mean, as 8-bit red, green and blue."""

from enum import IntEnum

import numpy as np
from jaxtyping import Shaped, UInt8
from tifffile import TiffPage

from milscope.slides._images import DamagedError, Pixels

Samples = Shaped[np.ndarray, "height width sample"]


class COLOURS(IntEnum):
    """Values of the tag PhotometricInterpretation that are understood."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    CMYK = 5
    YCBCR = 6


def to_rgb(samples: Samples, page: TiffPage, *, bits: int | None, channels: bool) -> Pixels:
    """Eight bits a colour; transparency becomes white.

    Args:
        samples: As stored.
        page: The page they are from, which says what they mean.
        bits: How many bits of a sample are used, if less than all; the upper 8 of them are kept.
        channels: Whether the samples are red, green and blue from pages of their own.

    Raises:
        DamagedError: If they are neither grey, nor colours, nor of whole numbers of up to 16 bits.
    """
    kind = COLOURS.RGB if channels else COLOURS(page.photometric)
    if kind == COLOURS.PALETTE:
        return _palette(samples, page)
    values = _eight_bits(samples, page.bitspersample, bits)
    count = values.shape[2]
    colours = {COLOURS.WHITE_IS_ZERO: 1, COLOURS.BLACK_IS_ZERO: 1, COLOURS.CMYK: 4}.get(kind, 3)
    if count < colours or count > colours + 1:
        raise DamagedError(f"{count} samples a pixel, where {colours} make a colour; save it as RGB")
    alpha = values[..., colours:]
    values = values[..., :colours]
    if kind == COLOURS.WHITE_IS_ZERO:
        values = 255 - values
    if kind == COLOURS.CMYK:
        light = 255 - values.astype(np.uint16)
        values = ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
    if colours == 1:
        values = np.repeat(values, 3, axis=2)
    return _on_white(values, alpha, next(iter(page.extrasamples), 0)) if alpha.size else np.ascontiguousarray(values)


def _eight_bits(samples: Samples, stored: int, used: int | None) -> UInt8[np.ndarray, "height width sample"]:
    if samples.dtype == np.uint8 and stored == 8 and used in (None, 8):
        return samples
    if samples.dtype == bool or stored == 1:
        return (samples != 0).astype(np.uint8) * 255
    if samples.dtype.kind != "u" or stored > 16:
        raise DamagedError(f"pixels of {stored} bits ({samples.dtype.name}); save the image with 8 bits a channel")
    bits = used if used and 0 < used <= stored else stored
    if bits <= 8:
        return (samples.astype(np.uint32) * 255 // (2**bits - 1)).clip(max=255).astype(np.uint8)
    return (samples >> (bits - 8)).clip(max=255).astype(np.uint8)


def _palette(samples: Samples, page: TiffPage) -> Pixels:
    if page.colormap is None or samples.shape[2] != 1:
        raise DamagedError("damaged TIFF: a palette that is missing")
    table = (page.colormap >> 8).astype(np.uint8).T
    return np.ascontiguousarray(table[np.minimum(samples[..., 0], len(table) - 1)])


def _on_white(colours: Pixels, alpha: UInt8[np.ndarray, "height width 1"], kind: int) -> Pixels:
    """Over white; 1: colours are multiplied by alpha already, 2: they are not, else it is no transparency."""
    if kind not in (1, 2):
        return np.ascontiguousarray(colours)
    clear = 255 - alpha.astype(np.uint16)
    seen = colours.astype(np.uint16) if kind == 1 else (colours * alpha.astype(np.uint16) + 127) // 255
    return np.minimum(seen + clear, 255).astype(np.uint8)
