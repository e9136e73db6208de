"""Encoded images of cells: decoding any that users have, encoding our own."""

import io
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

CELL_PIXELS = 100_000_000
"""A crop of more pixels is refused before it is decoded: it is no cell, but perhaps a decompression bomb."""
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError, ArithmeticError,
          RuntimeError, MemoryError, struct.error, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""What Pillow and the decoders below it raise on damaged files."""

Pixels = UInt8[np.ndarray, "height width 3"]


class DamagedError(ValueError):
    """An image, cell or slide that cannot be used, with the reason in one line; the others go on."""


class Cell(NamedTuple):
    """One cell as it is stored: its place and extent in slide pixels (level 0), scale and encoded image."""

    cell: str
    x: float | None
    y: float | None
    width: float
    height: float
    mpp: float | None
    image: bytes


class Skip(NamedTuple):
    """A cell that could not be used, and why."""

    cell: str
    reason: str


def decode_pixels(image: bytes, *, limit: int = CELL_PIXELS, enough: int = 0) -> Pixels:
    """The pixels of an encoded image, 8-bit RGB; transparency becomes white, 16 bits become the upper 8.

    Args:
        image: The bytes of a JPEG, PNG, TIFF, BMP or any other file that Pillow knows.
        limit: The most pixels that are decoded.
        enough: A JPEG may be decoded smaller, in pixels, as long as both its sides keep at least this. 0: full size.

    Raises:
        DamagedError: If the bytes are empty, truncated, no image, or more than `limit` pixels.
    """
    if not image:
        raise DamagedError("the file is empty")
    if image[:2] == b"\xff\xd8":
        try:
            height, width = simplejpeg.decode_jpeg_header(image)[:2]
            _within(int(width), int(height), limit)
            return simplejpeg.decode_jpeg(image, "RGB", min_height=enough, min_width=enough)
        except DamagedError:
            raise
        except ValueError:
            pass  # CMYK, or a harmless oddity that simplejpeg is strict about: Pillow decides
    try:
        with Image.open(io.BytesIO(image)) as opened:
            _within(*opened.size, limit)
            return _rgb(opened)
    except DamagedError:
        raise
    except Image.UnidentifiedImageError:
        raise DamagedError("not an image") from None
    except DAMAGE as error:
        raise DamagedError(f"damaged image: {one_line(error)}") from error


def encode_pixels(pixels: Pixels, quality: int) -> bytes:
    """A JPEG of the quality (1 to 99, colour at full resolution), or at 100 a PNG, without loss."""
    if quality < 100:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "444")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def one_line(error: BaseException) -> str:
    """What an exception says, short and without line breaks."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _within(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise DamagedError(f"{width} x {height} pixels, more than the {limit // 1_000_000} million that are decoded")


def _rgb(opened: Image.Image) -> Pixels:
    if opened.mode.startswith("I"):  # Pillow would clip 16 bits at 255 instead of scaling them
        deep = np.asarray(opened)
        grey = (np.clip(deep, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if opened.mode == "F":
        raise DamagedError("floating-point pixels; save the image with 8 bits a channel")
    if "A" in opened.mode or "transparency" in opened.info:
        opaque = opened.convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return np.array(Image.alpha_composite(white, opaque).convert("RGB"))
    return np.array(opened.convert("RGB"))
