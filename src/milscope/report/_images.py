"""Single pictures of a page: cells as part of its text, slides as files beside it."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

CROP_BYTES = 4_500
CROP_STEPS = ((320, 90), (224, 90), (160, 88), (160, 78), (128, 75), (112, 60))
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


def crop(image: bytes, most: int = CROP_BYTES) -> Picture | None:
    """A cell's encoded bytes as they are if they are few and browsers know the format, else again as a JPEG that is small.

    None if they cannot be read.

    Args:
        image: An encoded image.
        most: Bytes that it may take; the last, smallest JPEG is taken even if it needs more.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.load()
            if opened.format in SHOWN_AS_IS and len(image) <= most:
                return Picture(_uri(image, SHOWN_AS_IS[opened.format]), *opened.size)
            return Picture(_uri(_jpeg(opened, CROP_STEPS, most), "image/jpeg"), *opened.size)
    except (UnidentifiedImageError, OSError, ValueError):
        return None


class Shrunk(NamedTuple):
    """A picture's JPEG, and its width and height in that, pixels."""

    data: bytes
    width: int
    height: int


def shrunk(path: Path, steps: Sequence[tuple[int, int]], most: int) -> Shrunk | None:
    """A picture from a file at the first of the steps that is small enough, see `_jpeg`; None if there is none.

    Args:
        path: The file.
        steps: Longer side in pixels, and quality, the largest first.
        most: Bytes that it may take; the last step is taken even if it needs more.
    """
    if not path.exists():
        return None
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (steps[0][0], steps[0][0]))
            data = _jpeg(opened, steps, most)
        with Image.open(io.BytesIO(data)) as made:
            return Shrunk(data, *made.size)
    except (UnidentifiedImageError, OSError, ValueError):
        return None


def scale_bar(longer_side: int, mpp: float) -> ScaleBar | None:
    """The round length nearest to a third of the crop's longer side (pixels), at mpp microns per pixel."""
    if not (math.isfinite(mpp) and mpp > 0 and longer_side > 0):
        return None
    side = longer_side * mpp
    length = min(BAR_LENGTHS, key=lambda microns: abs(math.log(microns / (side / 3))))
    return ScaleBar(length, round(100 * length / side, 2)) if length < side else None


def _jpeg(image: Image.Image, steps: Sequence[tuple[int, int]], most: int) -> bytes:
    """The first of the steps (longer side in pixels, quality) that takes no more than `most` bytes, else the last."""
    whole, encoded = image.convert("RGB"), b""
    for side, quality in steps:
        small, stream = whole.copy(), io.BytesIO()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        small.save(stream, "JPEG", quality=quality)
        encoded = stream.getvalue()
        if len(encoded) <= most:
            break
    return encoded


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
