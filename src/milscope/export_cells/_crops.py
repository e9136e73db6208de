"""Crops: the pixels of ranked cells as image files whose names say slide, rank and score."""

import re
from pathlib import Path

from milscope.export_cells._gather import Slide

LONGEST = 120
"""Characters of a cell's name that are kept in a file's."""
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}


def write_crops(slide: Slide, folder: Path) -> None:
    """Writes `<slide>/<rank>_<score>_<cell>.jpg` (or as the crop is stored) for every cell; files sort by rank."""
    place = folder / slide.name
    place.mkdir(exist_ok=True)
    digits = max(3, len(str(len(slide.cells))))
    for rank, score, cell, image in zip(*(slide.cells[name] for name in ("rank", "score", "cell", "image")), strict=True):
        (place / f"{rank:0{digits}d}_{score:.4g}_{file_name(slide.name, cell)}{suffix(image)}").write_bytes(image)


def file_name(slide: str, cell: str) -> str:
    """A cell's name without the slide's, and without what file systems and shells do not like."""
    own = re.sub(r"\.(png|jpe?g|tiff?|bmp)$", "", cell.removeprefix(slide).lstrip("/:"), flags=re.IGNORECASE)
    return re.sub(r"[^\w.,=+-]+", "_", own)[:LONGEST].strip("._") or "cell"


def suffix(image: bytes) -> str:
    """The ending of a file of these bytes."""
    return _SUFFIXES.get(bytes(image[:2]), ".img")
