"""Crops and thumbnails as part of the page."""

import base64
import io
import math
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

CROP_BYTES = 5_500
CROP_SIDE = 160
THUMBNAIL_SIDE = 640
SHOWN_AS_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
BAR_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Picture(NamedTuple):
    """An image in the page: its data URI, and its own width and height, pixels."""

    uri: str
    width: int
    height: int


class ScaleBar(NamedTuple):
    """A bar of a known length on the glass: microns, and its share (percent) of the crop's longer side."""

    microns: int
    percent: float


def crop(image: bytes) -> Picture | None:
    """A cell's encoded bytes as they are if they are small and browsers know the format, else again as a small JPEG.

    None if they cannot be read.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            size = opened.size
            if opened.format in SHOWN_AS_IS and len(image) <= CROP_BYTES:
                return Picture(_uri(image, SHOWN_AS_IS[opened.format]), *size)
            return Picture(_uri(_jpeg(opened, CROP_SIDE, 88), "image/jpeg"), *size)
    except (UnidentifiedImageError, OSError, ValueError):
        return None


def thumbnail(path: Path) -> Picture | None:
    """A slide's thumbnail, made smaller for the page; None if there is none."""
    if not path.exists():
        return None
    try:
        with Image.open(path) as opened:
            return Picture(_uri(_jpeg(opened, THUMBNAIL_SIDE, 78), "image/jpeg"), *opened.size)
    except (UnidentifiedImageError, OSError, ValueError):
        return None


def scale_bar(longer_side: int, mpp: float) -> ScaleBar | None:
    """The round length nearest to a third of the crop's longer side (pixels), at mpp microns per pixel."""
    if not (math.isfinite(mpp) and mpp > 0 and longer_side > 0):
        return None
    side = longer_side * mpp
    length = min(BAR_LENGTHS, key=lambda microns: abs(math.log(microns / (side / 3))))
    return ScaleBar(length, round(100 * length / side, 2)) if length < side else None


def _jpeg(image: Image.Image, side: int, quality: int) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
