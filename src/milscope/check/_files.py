"""What the files of slide images say of themselves, without decoding them: format, scanner, scale, size, date."""

import hashlib
import math
import re
import stat
import struct
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import openslide
from PIL import Image

from milscope.pool import Lost, over_slides
from milscope.progress import progress
from milscope.slides import open_slide

PLAIN_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
PLAUSIBLE = (0.01, 20.0)
"""Scales that a microscope can have, microns per pixel."""
_PIECE = 1_000_000
_SCANNERS = ("aperio.ScanScope ID", "hamamatsu.NDP.S/N", "hamamatsu.Product", "leica.device-model", "ventana.ScannerModel",
             "mirax.GENERAL.SLIDE_SCANNER", "philips.DICOM_DEVICE_SERIAL_NUMBER", "philips.DICOM_MANUFACTURERS_MODEL_NAME",
             "dicom.DeviceSerialNumber", "dicom.ManufacturerModelName", "tiff.Model")
"""Where formats name the machine, the most particular name first."""
_DATES = ("aperio.Date", "leica.creation-date", "dicom.AcquisitionDateTime", "philips.DICOM_ACQUISITION_DATETIME",
          "hamamatsu.Created", "mirax.GENERAL.SLIDE_CREATIONDATETIME", "tiff.DateTime")
_DATE_FORMS = ("%Y:%m:%d", "%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%m/%d/%y", "%m/%d/%Y", "%d.%m.%Y", "%d/%m/%Y %H:%M:%S")
_DAMAGE = (ValueError, SyntaxError, TypeError, LookupError, EOFError, AttributeError, ArithmeticError, RuntimeError,
           MemoryError, struct.error, Image.DecompressionBombError, openslide.OpenSlideError)
"""What decoders raise on a damaged header, beside OSError: the slide is named, the others go on."""
LIMIT = 120.0
"""Seconds for the header of one slide."""


class Header(NamedTuple):
    """What the file of a slide says of itself; "" or NaN where it does not."""

    problem: str = ""
    format: str = ""
    scanner: str = ""
    objective: str = ""
    mpp: float = math.nan
    width: float = math.nan
    height: float = math.nan
    quality: float = math.nan
    day: float = math.nan
    """Day of the scan, counted from the year 1."""


def read_headers(files: Mapping[str, str], workers: int) -> dict[str, Header]:
    """Slide → what its file says, each read in a process that a damaged file cannot take the others with.

    Args:
        files: Slide → path of its image.
        workers: Processes; 0 for one per core.
    """
    headers: dict[str, Header] = {}
    with progress("check", len(files), "files") as advance:
        limit = None if workers == 1 else LIMIT
        for (slide, _), header in over_slides(_read_header, list(files.items()), workers, limit=limit):
            headers[slide] = Header(problem=header.reason) if isinstance(header, Lost) else header
            advance(1)
    return {slide: headers[slide] for slide in files}


def same_files(files: Mapping[str, str]) -> list[list[str]]:
    """Groups of slides whose files have the same content; only files of the same size are read."""
    groups = [[slide for slide in files if Path(files[slide]).is_file()]]
    for trait in (_size, _ends, _content):
        parts: list[list[str]] = []
        for group in groups:
            by: dict[object, list[str]] = {}
            for slide in group:
                by.setdefault(trait(Path(files[slide])), []).append(slide)
            parts += [part for part in by.values() if len(part) > 1]
        groups = parts
    return groups


def _read_header(job: tuple[str, str]) -> Header:
    path = Path(job[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                slides = [file for file in sorted(path.glob("*.dcm")) if openslide.OpenSlide.detect_format(file)]
                return _of_slide(slides[0]) if slides else Header(problem="a folder without a DICOM slide")
            if not stat.S_ISREG(status.st_mode):
                return Header(problem="not a file")
            if status.st_size == 0:
                return Header(problem="the file is empty")
            if path.suffix.lower() not in PLAIN_SUFFIXES and openslide.OpenSlide.detect_format(path):
                return _of_slide(path)
            return _of_tiff(path) if path.suffix.lower() in (".tif", ".tiff") else _of_image(path)
        except OSError as error:
            reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error.strerror or str(error)
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
    return Header(problem=reason)


def _of_slide(path: Path) -> Header:
    with openslide.OpenSlide(path) as slide:
        said = dict(slide.properties)
        width, height = slide.dimensions
    compression = re.search(r"\bQ ?= ?(\d+)", said.get("openslide.comment", ""))
    return Header(
        format=said.get("openslide.vendor", path.suffix.lower().lstrip(".")),
        scanner=next((said[name] for name in _SCANNERS if said.get(name)), ""),
        objective=said.get("openslide.objective-power", ""),
        mpp=_scale(said.get("openslide.mpp-x", "")), width=float(width), height=float(height),
        quality=float(compression[1]) if compression else math.nan,
        day=next((day for name in _DATES if not math.isnan(day := _day(said.get(name, "")))), math.nan))


def _of_tiff(path: Path) -> Header:
    """Size and scale as `tile` finds them, also where Pillow does not know the pixels; the rest from the tags."""
    with open_slide(path) as reader:
        (width, height), mpp = reader.size, reader.mpp
    try:
        told = _of_image(path)
    except (OSError, *_DAMAGE):
        told = Header(format="tiff")
    return told._replace(width=float(width), height=float(height), mpp=mpp or math.nan)


def _of_image(path: Path) -> Header:
    with Image.open(path) as image:
        tags = image.getexif()
        tables = getattr(image, "quantization", {}) or {}
        resolution, unit = tags.get(282), {2: 25_400.0, 3: 10_000.0}.get(tags.get(296, 0))
        named = " ".join(str(tags[tag]).strip("\0 ") for tag in (271, 272) if tags.get(tag))
        return Header(
            format=(image.format or "").lower(), scanner=named,
            mpp=_scale(unit / float(resolution) if unit and resolution and image.format == "TIFF" else ""),
            width=float(image.width), height=float(image.height),
            quality=_quality(tables[min(tables)]) if tables else math.nan,
            day=_day(str(tags.get(306, ""))))


def _quality(table: Sequence[int]) -> float:
    """The JPEG quality (1 to 100) at which the usual tables are as coarse as this one.

    Source:
        The IJG's libjpeg, jpeg_quality_scaling, which multiplies the standard's example table of mean 57.6.
    """
    scale = sum(table) / len(table) / 57.625 * 100
    return float(round((200 - scale) / 2 if scale <= 100 else 5000 / scale))


def _scale(value: str | float) -> float:
    try:
        scale = float(value)
    except ValueError:
        return math.nan
    return scale if PLAUSIBLE[0] <= scale <= PLAUSIBLE[1] else math.nan


def _day(text: str) -> float:
    """The day that a date names, whatever its form; NaN if it names none.

    >>> _day("2009:12:29 09:59:15") == _day("12/29/09") == _day("20091229095915")
    True
    """
    first = re.split(r"[ T]", text.strip().strip("\0"))[0]
    for form in _DATE_FORMS:
        try:
            return float(datetime.strptime(first[:8] if first.isdigit() else first, form).toordinal())
        except ValueError:
            continue
    return math.nan


def _size(path: Path) -> int:
    return path.stat().st_size


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        first = file.read(_PIECE)
        file.seek(-min(_PIECE, path.stat().st_size), 2)
        return hashlib.blake2b(first + file.read(_PIECE), digest_size=16).digest()


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def found_files(slides: Sequence[str], given: Mapping[str, str], known: Mapping[str, list[Path]]) -> dict[str, str]:
    """Slide → its one image: the table's file, else the image of its name in a folder; slides without are left out."""
    files = {slide: given.get(slide) or (str(known[slide][0]) if len(known.get(slide, [])) == 1 else "") for slide in slides}
    return {slide: file for slide, file in files.items() if file}
