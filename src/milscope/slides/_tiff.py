"""TIFF through tifffile, read in pieces: what OpenSlide does not take, and what it takes two to four times as long for."""

import logging
from collections import OrderedDict
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from tifffile import TiffFile, TiffPage

from milscope.slides._colour import COLOURS, Samples, to_rgb
from milscope.slides._images import DAMAGE, DamagedError, Pixels, one_line
from milscope.slides._reader import SlideReader
from milscope.slides._tiff_told import Told, read_told

PIECE_PIXELS = 178_000_000
"""A strip or tile of more pixels is refused before it is decoded."""
CACHE = 96_000_000
"""Bytes of decoded pieces that are kept, so that neighbouring regions do not decode them again."""
ROWS = 64
"""Rows of an uncompressed image that make a piece."""
PAGES = 2000
"""Most images in a file that are looked at."""
REDUCED = 1
JPEGS = (6, 7, 33003, 33004, 33005)
"""Compressions that turn luminance and chrominance into red, green and blue themselves."""
APERIO_YCBCR = (33003, 33004)
"""JPEG 2000 of luminance and chrominance without saying so: OpenSlide knows what is meant."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what matters is raised; the rest is not for the terminal


class _Level(NamedTuple):
    """One size of the picture: one page, or three pages of one colour each."""

    width: int
    height: int
    pages: tuple[TiffPage, ...]


class TiffReader(SlideReader):
    """A TIFF through tifffile: the largest image with its reduced copies; memory is bounded by its strips or tiles.

    What was not scanned is white. Three pages of the same size are red, green and blue if OME or ImageJ says that they
    are channels.

    Args:
        path: The file.
        like: A reader that knows which sizes the slide has, and its scale; None: the file's tags tell.

    Attributes:
        readable: Whether its compression and its colours are known here; if not, OpenSlide or Pillow may know them.
        plain: Whether nothing depends on who reads it: every piece was scanned, and is red, green and blue.

    Raises:
        DamagedError: If it is damaged, a stack, or of a kind that is not read.
    """

    def __init__(self, path: Path, like: SlideReader | None = None) -> None:
        try:
            self._file = TiffFile(path)
        except DAMAGE as error:
            raise DamagedError(f"damaged TIFF: {one_line(error)}") from error
        try:
            pages = _pages(self._file)
            self._told = read_told(pages[0]) if pages else Told()
            self._levels = _levels_like(pages, like) if like else _levels(pages, self._told)
            used = [page for level in self._levels for page in level.pages]
            self.readable = all(map(_decodable, used))
            self.plain = all(all(page.databytecounts) and page.compression not in APERIO_YCBCR for page in used)
            super().__init__(path, tuple((level.width, level.height) for level in self._levels),
                             like.mpp if like else self._told.mpp)
            for level in self._levels if self.readable else ():
                for page in level.pages:
                    _check_pieces(page, self._file.filehandle.size)
        except DamagedError:
            self._file.close()
            raise
        except DAMAGE as error:
            self._file.close()
            raise DamagedError(f"damaged TIFF: {one_line(error)}") from error
        self._cache: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._cached = 0

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()
        self._cache.clear()

    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        (left, top), (width, height) = place, size
        wide, high = _piece(self._levels[level].pages[0])
        canvas = np.full((height, width, 3), 255, np.uint8)
        for row in range(top // high, -(-(top + height) // high)):
            for column in range(left // wide, -(-(left + width) // wide)):
                piece = self._piece(level, row, column)
                y, x = row * high - top, column * wide - left
                part = piece[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
                y, x = max(0, y), max(0, x)
                canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        return canvas

    def _piece(self, level: int, row: int, column: int) -> Pixels:
        """A decoded strip or tile, cut off at the edge of the image; empty if it was not scanned."""
        key = (level, row, column)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            parts = [part for page in self._levels[level].pages for part in self._parts(page, row, column)]
            piece = np.empty((0, 0, 3), np.uint8)
            if all(part is not None for part in parts):
                samples = np.concatenate([part for part in parts if part is not None], axis=2)
                piece = to_rgb(samples, self._levels[level].pages[0], bits=self._told.bits, channels=len(parts) > 1)
        except DamagedError:
            raise
        except DAMAGE as error:
            raise DamagedError(f"damaged TIFF: {one_line(error)}") from error
        self._cache[key] = piece
        self._cached += piece.nbytes
        while self._cached > CACHE and len(self._cache) > 1:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        return piece

    def _parts(self, page: TiffPage, row: int, column: int) -> list[Samples | None]:
        """The samples of a piece, one part for each plane of colour that is stored apart."""
        if _by_rows(page):
            return [self._rows(page, plane, row) for plane in range(_planes(page))]
        wide, high = _piece(page)
        across, down = -(-page.imagewidth // wide), -(-page.imagelength // high)
        cut = np.s_[: page.imagelength - row * high, : page.imagewidth - column * wide]
        parts: list[Samples | None] = []
        for plane in range(_planes(page)):
            index = (plane * down + row) * across + column
            offset, count = page.dataoffsets[index], page.databytecounts[index]
            if not offset or not count:
                parts.append(None)
                continue
            data = self._bytes(offset, count)
            decoded = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
            if decoded is None:
                raise DamagedError("a piece without pixels")
            part = decoded[0][cut]
            if page.is_tiled and part.shape[:2] != (min(high, page.imagelength - row * high),
                                                    min(wide, page.imagewidth - column * wide)):
                raise DamagedError(f"a tile of {decoded.shape[2]} x {decoded.shape[1]} pixels instead of {wide} x {high}")
            parts.append(part)
        return parts

    def _rows(self, page: TiffPage, plane: int, row: int) -> Samples:
        """Some rows of an image without compression, however long its strips are."""
        dtype = np.dtype(self._file.byteorder + str(page.dtype.char if page.dtype else "B"))
        samples = 1 if _planes(page) > 1 else page.samplesperpixel
        length = page.imagewidth * samples * dtype.itemsize
        first, last = row * ROWS, min((row + 1) * ROWS, page.imagelength)
        data = self._bytes(page.dataoffsets[0] + (plane * page.imagelength + first) * length, (last - first) * length)
        return np.frombuffer(data, dtype).reshape(last - first, page.imagewidth, samples)

    def _bytes(self, offset: int, count: int) -> bytes:
        self._file.filehandle.seek(offset)
        data = self._file.filehandle.read(count)
        if len(data) < count:
            raise DamagedError(f"the file ends early: {count} bytes at {offset}, but there are {len(data)}")
        return data


def _pages(file: TiffFile) -> list[TiffPage]:
    """The images of a file, until one comes again: a damaged file may lead in a circle."""
    pages: list[TiffPage] = []
    seen: set[int] = set()
    for page in islice(file.pages, PAGES):
        if page.offset in seen:
            break
        seen.add(page.offset)
        if isinstance(page, TiffPage):
            pages.append(page)
    return pages


def _levels(pages: list[TiffPage], told: Told) -> list[_Level]:
    """The largest image, and its smaller copies; labels and thumbnails of another shape are left out.

    Raises:
        DamagedError: If there is no image, or several of which none is the slide more than the others.
    """
    pages = [page for page in pages if page.imagewidth > 0 and page.imagelength > 0]
    full = [page for page in pages if not page.subfiletype & REDUCED]
    if not full:
        raise DamagedError(f"damaged TIFF: {'only reduced images' if pages else 'no image'} in it")
    base = max(full, key=lambda page: page.imagewidth * page.imagelength)
    planes = [page for page in full if _like(page, base)]
    deep = max(told.stack, base.imagedepth)
    if deep > 1 or (len(planes) > 1 and not (len(planes) == told.channels == 3 and base.samplesperpixel == 1)):
        count = deep if deep > 1 else len(planes)
        raise DamagedError(f"a stack of {count} images of {base.imagewidth} x {base.imagelength} pixels; "
                           "save the one that is meant as a file of its own")
    if told.channels > 1 and told.channels != len(planes) * base.samplesperpixel:
        raise DamagedError(f"{told.channels} channels that are not red, green and blue; save it as RGB")
    found = [_Level(base.imagewidth, base.imagelength, tuple(planes))]
    reduced = [page for page in pages if page.subfiletype & REDUCED]
    reduced += [page for plane in planes for page in (plane.pages or ()) if isinstance(page, TiffPage)]
    for size in sorted({(page.imagewidth, page.imagelength) for page in reduced}, reverse=True):
        same = tuple(page for page in reduced if (page.imagewidth, page.imagelength) == size)
        if len(same) == len(planes) and _is_copy(size, found[-1]) and all(_colours(page) == _colours(base) for page in same):
            found.append(_Level(*size, same))
    return found


def _levels_like(pages: list[TiffPage], reader: SlideReader) -> list[_Level]:
    """The tiled images of the sizes that another reader knows as levels.

    Raises:
        DamagedError: If not every level is one image.
    """
    found = []
    for size in reader.levels:
        same = [page for page in pages if page.is_tiled and (page.imagewidth, page.imagelength) == size]
        if len(same) != 1:
            raise DamagedError(f"{len(same)} tiled images of {size[0]} x {size[1]} pixels")
        found.append(_Level(*size, tuple(same)))
    return found


def _like(page: TiffPage, other: TiffPage) -> bool:
    return (page.imagewidth, page.imagelength, *_colours(page)) == (other.imagewidth, other.imagelength, *_colours(other))


def _colours(page: TiffPage) -> tuple[int, int]:
    return page.samplesperpixel, page.bitspersample


def _is_copy(size: tuple[int, int], level: _Level) -> bool:
    """Whether this is a smaller image of the same shape, but for the rounding of its sides."""
    if min(size) < 1 or size[0] >= level.width or size[1] > level.height:
        return False
    shrink = max(level.width / size[0], level.height / size[1])
    return abs(level.width - size[0] * shrink) <= 2 * shrink and abs(level.height - size[1] * shrink) <= 2 * shrink


def _decodable(page: TiffPage) -> bool:
    if page.photometric not in set(COLOURS) or (page.photometric == COLOURS.YCBCR and page.compression not in JPEGS):
        return False
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError:
        return page.compression == 1
    return True


def _planes(page: TiffPage) -> int:
    """How many parts a pixel's samples are stored in."""
    return page.samplesperpixel if page.planarconfig == 2 else 1


def _by_rows(page: TiffPage) -> bool:
    return not page.is_tiled and page.bitspersample in (8, 16) and page.predictor == 1 and page.is_contiguous


def _piece(page: TiffPage) -> tuple[int, int]:
    """Width and height of the pieces that the page is read in."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, ROWS if _by_rows(page) else min(page.rowsperstrip or page.imagelength, page.imagelength)


def _check_pieces(page: TiffPage, length: int) -> None:
    """Refuses a page of odd numbers, with a table of pieces that does not fit, too large ones, or many past the file's end."""
    if page.bitspersample > 16 or page.sampleformat not in (1, 4):
        raise DamagedError(f"pixels of {page.bitspersample} bits ({page.dtype}); save the image with 8 bits a channel")
    wide, high = _piece(page)
    if min(wide, high) < 1 or wide * high > PIECE_PIXELS:
        raise DamagedError(f"pieces of {wide} x {high} pixels, more than the {PIECE_PIXELS // 1_000_000} million that are "
                           "decoded at once; save it as a tiled TIFF")
    if _by_rows(page):
        if page.dataoffsets[0] + page.nbytes > length:
            raise DamagedError(f"the file ends early: it has {length} bytes, its pixels alone need {page.nbytes}")
        return
    needed = -(-page.imagewidth // wide) * -(-page.imagelength // high) * _planes(page)
    offsets, counts = (np.array(values[:needed], np.int64) for values in (page.dataoffsets, page.databytecounts))
    if min(len(offsets), len(counts)) < needed:
        raise DamagedError(f"damaged TIFF: {len(page.dataoffsets)} pieces, where {page.imagewidth} x {page.imagelength} "
                           f"pixels need {needed}")
    missing = int((offsets + counts > length).sum())
    if missing > max(1, needed // 100):  # one may be a damaged number; many are an interrupted copy
        raise DamagedError(f"the file ends early: of {needed} pieces {missing} lie past its end at {length} bytes")
