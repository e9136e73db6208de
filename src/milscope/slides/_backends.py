"""Opening an image of a slide: OpenSlide for scanners' formats, tifffile for TIFF, Pillow for plain fields of view."""

import math
import os
import stat
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from milscope.slides._images import DamagedError, Pixels, decode_pixels, one_line
from milscope.slides._reader import GivenUpError, SlideReader
from milscope.slides._tiff import TiffReader

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm")
FIELD_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FIELD_PIXELS = 178_000_000
"""A plain field of view is decoded whole; a larger one has to be a tiled TIFF."""
DENSEST = 20_000
"""Pixels: no file holds more of them in a byte; one that claims it is a decompression bomb."""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DICOM_START = b"DICM"
SERIES = b"\x20\x00\x0e\x00UI"
"""The tag of the series' identifier in a DICOM file, with explicit types and little-endian as slides have it."""


def open_slide(path: Path) -> SlideReader:
    """The reader of an image, chosen by what is in the file.

    tifffile for any TIFF that no scanner's maker changed, and for Aperio's, of which OpenSlide says what the levels are;
    OpenSlide for the formats of other scanners, DICOM, and compressions that tifffile does not know; else Pillow.

    Args:
        path: A file, or the folder of a DICOM slide.

    Raises:
        DamagedError: If there is no such file or nobody can read it.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _open_dicom(path)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"not a file: {path}")
        if status.st_size == 0:
            raise DamagedError(f"the file is empty: {path}")
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise DamagedError(f"{error.strerror}: {path}") from error
    except ValueError as error:  # a null character in the name
        raise DamagedError(f"{one_line(error)}: {path}") from error
    reader = _open_tiff(path) if start.startswith(TIFF_STARTS) else _open_other(path, start)
    if start.startswith(TIFF_STARTS) and reader.size[0] * reader.size[1] > max(FIELD_PIXELS, DENSEST * status.st_size):
        reader.close()
        raise DamagedError(f"it claims {reader.size[0]} x {reader.size[1]} pixels in {status.st_size} bytes")
    return reader


class OpenSlideReader(SlideReader):
    """A whole-slide image through OpenSlide; what was not scanned is white.

    Args:
        path: The file; of a DICOM slide any of its files.
        mpp: Microns per pixel, where OpenSlide does not find them; None if unknown.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._slide = _openslide(path)
        self._gone = ""
        try:
            scale = [_positive(self._slide.properties.get(f"openslide.mpp-{axis}", "")) for axis in "xy"]
            own = math.sqrt(scale[0] * scale[1]) if scale[0] and scale[1] else mpp
            super().__init__(path, tuple(self._slide.level_dimensions), own)
            for level in range(self._slide.level_count):
                tile = [_positive(self._slide.properties.get(f"openslide.level[{level}].tile-{side}", "")) or 0
                        for side in ("width", "height")]
                if tile[0] * tile[1] > FIELD_PIXELS:
                    raise DamagedError(f"tiles of {tile[0]:g} x {tile[1]:g} pixels, more than are decoded at once")
        except DamagedError:
            self._slide.close()
            raise

    def close(self) -> None:
        """Gives the file back."""
        if not self._gone:  # else it is closed already
            self._slide.close()

    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        if self._gone:
            raise GivenUpError(self._gone)
        step = self._slide.level_downsamples[level]
        corner = (round(place[0] * step), round(place[1] * step))
        try:
            scanned = self._slide.read_region(corner, level, size)
        except openslide.OpenSlideError as error:
            self._open_again()
            raise DamagedError(f"OpenSlide: {one_line(error)}") from error
        pixels = np.asarray(scanned)
        if (pixels[..., 3] == 255).all():
            return np.ascontiguousarray(pixels[..., :3])
        white = Image.new("RGBA", scanned.size, "white")
        return np.array(Image.alpha_composite(white, scanned).convert("RGB"))

    def _open_again(self) -> None:
        """After one error OpenSlide refuses everything; one damaged tile must not cost the slide."""
        self._slide.close()
        try:
            self._slide = _openslide(self.path)
        except DamagedError as error:
            self._gone = str(error)
            raise GivenUpError(self._gone) from error


class FieldReader(SlideReader):
    """A plain PNG, JPEG, BMP, or a TIFF of rare colours: one level, decoded whole.

    Args:
        path: The file.
        mpp: Microns per pixel, None if unknown; only a TIFF says it in a way that can be trusted.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{error.strerror}: {path}") from error
        self._pixels = decode_pixels(content, limit=FIELD_PIXELS)
        super().__init__(path, ((self._pixels.shape[1], self._pixels.shape[0]),), mpp)

    def close(self) -> None:
        """Forgets the pixels."""
        self._pixels = self._pixels[:0]

    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        (left, top), (width, height) = place, size
        return self._pixels[top : top + height, left : left + width].copy()


def find_images(directory: Path) -> dict[str, list[Path]]:
    """Slide name → the images of that name in a folder, by their names without suffix; DICOM folders count.

    Raises:
        OSError: If the folder cannot be listed.
    """
    found: dict[str, list[Path]] = {}
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            if path.suffix.lower() in SLIDE_SUFFIXES + FIELD_SUFFIXES and not entry.name.startswith("."):
                found.setdefault(path.stem, []).append(path)
            elif entry.is_dir() and next(path.glob("*.dcm"), None):
                found.setdefault(entry.name, []).append(path)
    return found


def _open_tiff(path: Path) -> SlideReader:
    vendor = _vendor(path)
    if vendor == "aperio":
        return _quicker(OpenSlideReader(path))
    if vendor not in (None, "generic-tiff"):
        return OpenSlideReader(path)
    reader = TiffReader(path)
    if reader.readable:
        return reader
    reader.close()
    return OpenSlideReader(path, reader.mpp) if vendor else FieldReader(path, reader.mpp)


def _quicker(reader: OpenSlideReader) -> SlideReader:
    """The same levels with the same pixels, but decoded by tifffile in a half to a quarter of the time, if it can."""
    try:
        other = TiffReader(reader.path, like=reader)
    except DamagedError:
        return reader
    quicker, slower = (other, reader) if other.readable and other.plain else (reader, other)
    slower.close()
    return quicker


def _open_other(path: Path, start: bytes) -> SlideReader:
    if path.suffix.lower() not in FIELD_SUFFIXES and _vendor(path):
        return OpenSlideReader(path)
    if start[128:] == DICOM_START:
        raise DamagedError("a DICOM file that is no whole slide")
    return FieldReader(path)


def _open_dicom(folder: Path) -> OpenSlideReader:
    """The slide of a folder; OpenSlide finds the files that belong together by the identifier of their series.

    Every file of the series is opened, as OpenSlide passes over damaged ones, and the largest level may be one of them.
    """
    series: dict[bytes, list[Path]] = {}
    for path in sorted(path for path in folder.glob("*.dcm") if path.is_file()):
        with path.open("rb") as file:
            series.setdefault(_series(file.read(65536)), []).append(path)
    slides = [files for files in series.values() if any(_vendor(path) for path in files)]
    if not slides:
        raise DamagedError(f"a folder without a DICOM slide: {folder}")
    if len(slides) > 1:
        raise DamagedError(f"{len(slides)} DICOM slides in one folder; give each a folder of its own, or name a file")
    if damaged := [path.name for path in series.get(b"", []) if not _vendor(path)]:
        raise DamagedError(f"a damaged DICOM file: {damaged[0]}")
    for path in slides[0][1:]:
        OpenSlideReader(path).close()
    return OpenSlideReader(slides[0][0])


def _series(start: bytes) -> bytes:
    """The identifier of a DICOM file's series; empty if it is not at the start."""
    place = start.find(SERIES)
    length = int.from_bytes(start[place + 6 : place + 8], "little")
    return start[place + 8 : place + 8 + length] if place > 0 else b""


def _openslide(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DamagedError(f"OpenSlide: {one_line(error)}") from error


def _vendor(path: Path) -> str | None:
    """What OpenSlide takes the file for; None if it does not know it."""
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError as error:
        raise DamagedError(f"OpenSlide: {one_line(error)}") from error


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
