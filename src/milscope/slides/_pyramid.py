"""Writes pyramidal TIFF of JPEG tiles, the layout that OpenSlide and viewers read as a generic tiled slide."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import simplejpeg
from jaxtyping import UInt8

from milscope.types import MicronsPerPixel, refuse

TILE = 256
SMALLEST = 512
MOST_BYTES = 2**32 - 4096

_SHORT, _LONG, _RATIONAL = 3, 4, 5
_BYTES = {_SHORT: 2, _LONG: 4, _RATIONAL: 8}


def write_pyramid(path: Path, image: UInt8[np.ndarray, "height width 3"], mpp: MicronsPerPixel, quality: int = 90) -> None:
    """Writes an image as a tiled TIFF with levels of half the size each; the file is whole or absent.

    Args:
        path: The file to write.
        image: The full-resolution image, RGB.
        mpp: Its scale, microns per pixel; readers find it in the resolution tags.
        quality: JPEG quality of every tile, 1 to 100.

    Raises:
        InputError: If the file would pass the 4 GiB of a classic TIFF.

    Source:
        TIFF revision 6.0, sections 2, 15 and 21; TIFF Technical Note 2 (each tile a whole JPEG stream).
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(struct.pack("<2sHI", b"II", 42, 0))
            link = 4
            for level, picture in enumerate(_levels(image)):
                link = _write_level(file, picture, mpp * 2**level, link, quality, reduced=level > 0)
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


def _write_level(file: IO[bytes], image: UInt8[np.ndarray, "h w 3"], mpp: float, link: int, quality: int,
                 *, reduced: bool) -> int:
    """Appends tiles and directory of one level, ties it to the chain at `link`, and gives the next link's place."""
    offsets, lengths = [], []
    for tile in _tiles(image, quality):
        offsets.append(file.tell())
        lengths.append(len(tile))
        file.write(tile)
    per_centimetre = (round(1e4 / mpp * 10_000), 10_000)
    entries = [
        (254, _LONG, [int(reduced)]), (256, _LONG, [image.shape[1]]), (257, _LONG, [image.shape[0]]),
        (258, _SHORT, [8, 8, 8]), (259, _SHORT, [7]), (262, _SHORT, [6]), (277, _SHORT, [3]),
        (282, _RATIONAL, per_centimetre), (283, _RATIONAL, per_centimetre), (284, _SHORT, [1]), (296, _SHORT, [3]),
        (322, _SHORT, [TILE]), (323, _SHORT, [TILE]), (324, _LONG, offsets), (325, _LONG, lengths), (530, _SHORT, [1, 1]),
    ]
    _even(file)
    start = file.tell()
    if start + 16 * len(offsets) > MOST_BYTES:
        raise refuse("image", "less than 4 GiB as a file", f"a level of {image.shape[1]} x {image.shape[0]} pixels",
                     "Ask for fewer cells.")
    file.write(_directory(entries, start))
    file.seek(link)
    file.write(struct.pack("<I", start))
    file.seek(0, 2)
    return start + 2 + 12 * len(entries)


def _tiles(image: UInt8[np.ndarray, "h w 3"], quality: int) -> Iterator[bytes]:
    for top in range(0, image.shape[0], TILE):
        for left in range(0, image.shape[1], TILE):
            tile = image[top : top + TILE, left : left + TILE]
            short = [(0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0)]
            tile = np.ascontiguousarray(np.pad(tile, short, mode="edge"))
            yield simplejpeg.encode_jpeg(tile, quality, colorspace="RGB", colorsubsampling="444")


def _directory(entries: list, start: int) -> bytes:
    """The bytes of one image file directory that will stand at `start`; values of over 4 bytes follow it."""
    end = start + 2 + 12 * len(entries) + 4
    head, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, values in entries:
        data = struct.pack(f"<{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        head += struct.pack("<HHI", tag, kind, len(data) // _BYTES[kind])
        if len(data) > 4:
            head += struct.pack("<I", end + len(tail))
            tail += data + b"\0" * (len(data) % 2)
        else:
            head += data.ljust(4, b"\0")
    return head + struct.pack("<I", 0) + tail


def _even(file: IO[bytes]) -> None:
    if file.tell() % 2:
        file.write(b"\0")
