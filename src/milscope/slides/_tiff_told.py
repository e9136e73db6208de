"""What a TIFF says about itself, by OME, ImageJ or its own tags: scale, channels, planes."""

import math
import re
from typing import NamedTuple
from xml.etree import ElementTree

from tifffile import TiffPage

from milscope.slides._images import DAMAGE

UNITS = {
    "": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "å": 1e-4, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25_400.0, "inch": 25_400.0,
}
"""Microns in a unit of length, by its lower-case name; OME means microns where it says nothing."""
TAG_UNITS = {2: 25_400.0, 3: 10_000.0}


class Told(NamedTuple):
    """What a TIFF says about itself.

    Attributes:
        mpp: Microns per pixel, None if it does not say.
        channels: Images of one colour each that make the picture; 1 if it does not say.
        stack: Focal planes times points in time.
        bits: Bits of a sample that are used, None if it does not say.
    """

    mpp: float | None = None
    channels: int = 1
    stack: int = 1
    bits: int | None = None


def read_told(page: TiffPage) -> Told:
    """What the first page of a TIFF says; a description that cannot be understood is passed over."""
    scale = _tag_scale(page)
    try:
        description = str(page.description)
        if description.rstrip("\0 \r\n").endswith("OME>"):
            return _ome(description, scale)
        if description.startswith("ImageJ="):
            return _imagej(description, page)
    except DAMAGE:
        pass
    return Told(scale)


def _ome(description: str, scale: float | None) -> Told:
    """From the first image of OME-XML, https://docs.openmicroscopy.org/ome-model."""
    root = ElementTree.fromstring(description.strip("\0 \r\n"))
    found = root.find(".//{*}Image/{*}Pixels")
    if found is None:
        return Told(scale)
    told = found.attrib
    sides = [_length(told.get(f"PhysicalSize{axis}"), told.get(f"PhysicalSize{axis}Unit", "")) for axis in "XY"]
    mpp = math.sqrt(sides[0] * sides[1]) if sides[0] and sides[1] else scale
    bits = told.get("SignificantBits")
    return Told(mpp, int(told.get("SizeC", 1)), int(told.get("SizeZ", 1)) * int(told.get("SizeT", 1)),
                int(bits) if bits else None)


def _imagej(description: str, page: TiffPage) -> Told:
    """From ImageJ's lines of `key=value`; its resolution is in pixels per `unit`."""
    told = dict(re.findall(r"^(\w+)=(.*?)\r?$", description, re.MULTILINE))
    unit = UNITS.get(told.get("unit", "none").strip().lower())
    mpp = _per_pixel(page, unit) if unit else _tag_scale(page)
    stack = int(told.get("slices", 1)) * int(told.get("frames", 1))
    channels = int(told.get("channels", 1))
    if stack * channels == 1:
        stack = int(told.get("images", 1))
    return Told(mpp, channels, stack)


def _length(value: str | None, unit: str) -> float | None:
    scale = UNITS.get(unit.strip().lower())
    return float(value) * scale if value and scale else None


def _tag_scale(page: TiffPage) -> float | None:
    tag = page.tags.get(296)
    unit = TAG_UNITS.get(int(tag.value)) if tag is not None and isinstance(tag.value, int) else None
    return _per_pixel(page, unit) if unit else None


def _per_pixel(page: TiffPage, unit: float) -> float | None:
    """Microns per pixel from the tags XResolution and YResolution, which are pixels per unit."""
    sides = []
    for code in (282, 283):
        tag = page.tags.get(code)
        if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2 or not all(tag.value):
            return None
        sides.append(unit * tag.value[1] / tag.value[0])
    return math.sqrt(sides[0] * sides[1])
