"""Writes pyramidal TIFF of JPEG tiles, the layout that OpenSlide and viewers read as a generic tiled slide."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import UInt8

from milscope.types import MicronsPerPixel

TILE = 256
SMALLEST = 512


def write_pyramid(path: Path, image: UInt8[np.ndarray, "height width 3"], mpp: MicronsPerPixel, quality: int = 90) -> None:
    """Writes an image as a tiled TIFF with levels of half the size each; the file is whole or absent.

    Args:
        path: The file to write; BigTIFF if it may pass 4 GB.
        image: The full-resolution image, RGB.
        mpp: Its scale, microns per pixel; readers find it in the resolution tags.
        quality: JPEG quality of every tile, 1 to 100.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    options: dict[str, Any] = {
        "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": quality}, "subsampling": (1, 1),
        "tile": (TILE, TILE), "resolutionunit": "centimeter", "metadata": None, "software": False}
    try:
        with tifffile.TiffWriter(temporary, bigtiff=image.nbytes > 2**32) as file:
            for level, picture in enumerate(_levels(image)):
                per_centimetre = 1e4 / (mpp * 2**level)
                file.write(picture, resolution=(per_centimetre, per_centimetre), subfiletype=int(level > 0), **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _levels(image: UInt8[np.ndarray, "height width 3"]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    yield image
    while max(image.shape[:2]) > SMALLEST and min(image.shape[:2]) > 1:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        total = np.full((height, width, 3), 2, np.uint16)
        for row in (0, 1):
            for column in (0, 1):
                total += image[row : 2 * height : 2, column : 2 * width : 2]
        image = (total >> 2).astype(np.uint8)
        yield image
