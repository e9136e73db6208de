"""Opening an image of a slide: OpenSlide for whole-slide formats, Pillow for plain fields of view."""

import math
import os
import stat
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from milscope.slides._images import DAMAGE, DamagedError, Pixels, decode_pixels, one_line
from milscope.slides._reader import SlideReader

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm")
FIELD_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FIELD_PIXELS = 178_000_000
"""A plain field of view is decoded whole; a larger one has to be a tiled TIFF."""


def open_slide(path: Path) -> SlideReader:
    """The reader of an image: OpenSlide if it knows the format, else Pillow.

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
    except OSError as error:
        raise DamagedError(f"{error.strerror}: {path}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"not a file: {path}")
    if status.st_size == 0:
        raise DamagedError(f"the file is empty: {path}")
    if path.suffix.lower() not in FIELD_SUFFIXES and _detected(path):
        return OpenSlideReader(path)
    return FieldReader(path)


class OpenSlideReader(SlideReader):
    """A whole-slide image through OpenSlide; what was not scanned is white."""

    def __init__(self, path: Path) -> None:
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise DamagedError(f"OpenSlide: {one_line(error)}") from error
        scale = [float(self._slide.properties.get(f"openslide.mpp-{axis}", "nan")) for axis in "xy"]
        mpp = math.sqrt(scale[0] * scale[1]) if min(scale) > 0 else None
        super().__init__(path, tuple(self._slide.level_dimensions), mpp)

    def close(self) -> None:
        """Gives the file back."""
        self._slide.close()

    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        step = self._slide.level_downsamples[level]
        corner = (round(place[0] * step), round(place[1] * step))
        try:
            scanned = self._slide.read_region(corner, level, size)
        except openslide.OpenSlideError as error:
            raise DamagedError(f"OpenSlide: {one_line(error)}") from error
        pixels = np.asarray(scanned)
        if (pixels[..., 3] == 255).all():
            return np.ascontiguousarray(pixels[..., :3])
        white = Image.new("RGBA", scanned.size, "white")
        return np.array(Image.alpha_composite(white, scanned).convert("RGB"))


class FieldReader(SlideReader):
    """A plain PNG, JPEG, BMP or TIFF: one level, decoded whole. Only a TIFF is asked for its scale."""

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{error.strerror}: {path}") from error
        self._pixels = decode_pixels(content, limit=FIELD_PIXELS)
        super().__init__(path, ((self._pixels.shape[1], self._pixels.shape[0]),), _tiff_scale(path))

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


def _open_dicom(folder: Path) -> OpenSlideReader:
    readers = [OpenSlideReader(path) for path in sorted(folder.glob("*.dcm")) if _detected(path)]
    if not readers:
        raise DamagedError(f"a folder without a DICOM slide: {folder}")
    readers.sort(key=lambda reader: reader.size, reverse=True)
    for reader in readers[1:]:
        reader.close()
    return readers[0]


def _detected(path: Path) -> bool:
    try:
        return openslide.OpenSlide.detect_format(path) is not None
    except openslide.OpenSlideError as error:
        raise DamagedError(f"OpenSlide: {one_line(error)}") from error


def _tiff_scale(path: Path) -> float | None:
    """Microns per pixel from the resolution tags of a TIFF."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with Image.open(path) as opened:
            tags = getattr(opened, "tag_v2", {})
            unit = {2: 25_400.0, 3: 10_000.0}.get(tags.get(296))
            return unit / float(tags[282]) if unit and 282 in tags else None
    except DAMAGE:
        return None
