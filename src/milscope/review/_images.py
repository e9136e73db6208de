"""The pictures of a review: crops, their surroundings, slides in deep-zoom tiles, and heat maps; all cut when asked for."""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image as Picture

from milscope.review._run import PLACES, Asked, Image, ReviewedRun
from milscope.slides import DamagedError, SlideReader, decode_pixels, encode_pixels, open_slide

TILE = 256
"""Side of a deep-zoom tile, pixels."""
CONTEXT = 512
"""Longest side of a cell's surroundings, pixels."""
HEAT = 2048
"""Longest side of a heat map, pixels."""
QUALITY = 85
GLASS = 243
"""Brightness of what lies beyond the edge of a slide."""
MOST = 16_000_000
"""Pixels of a stored level that are read for one tile; a file without small levels is shown blurred from further away."""
_READERS, _TILES, _HEATS, _SMALL = 4, 1024, 16, 8

Answer = TypeVar("Answer")
Whole = UInt8[np.ndarray, "height width 3"]


class Encoded(NamedTuple):
    """An image as it is sent."""

    content: bytes
    media_type: str


class NothingThereError(LookupError):
    """There is no such picture; the message says why, in a sentence for the page."""


class Pictures:
    """The pictures of a run; safe to ask from several threads.

    Args:
        run: The run.
    """

    def __init__(self, run: ReviewedRun) -> None:
        self._run, self._readers = run, _Readers(_READERS)
        self._tiles: _Kept[Encoded] = _Kept(_TILES)
        self._heats: _Kept[Encoded] = _Kept(_HEATS)
        self._whole: _Kept[Whole] = _Kept(_SMALL)
        self._drawing = threading.Lock()

    def crop(self, slide: str, rank: int, task: Asked) -> Encoded:
        """The image of a ranked cell, as it is stored where a browser can show that, else as PNG.

        Raises:
            NothingThereError: If there is no such rank, or its image is damaged.
        """
        table = self._run.cells(slide, task)
        if not 1 <= rank <= len(table):
            raise NothingThereError(f"There is no cell of rank {rank}.")
        stored = table["image"][rank - 1].as_py() or b""
        for start, media_type in ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png")):
            if stored.startswith(start):
                return Encoded(stored, media_type)
        try:
            return Encoded(encode_pixels(decode_pixels(stored), 100), "image/png")
        except DamagedError as error:
            raise NothingThereError(f"The image of this cell cannot be shown: {error}.") from error

    def context(self, slide: str, rank: int, task: Asked, factor: float) -> Encoded:
        """What lies around a ranked cell, which is in the middle; beyond the edge of the slide it is pale grey.

        Args:
            slide: Its slide.
            rank: Its rank, from 1.
            task: In which task.
            factor: Side of the picture, as a multiple of the longer side of the cell.

        Raises:
            NothingThereError: If the cell has no place, or the slide no image.
        """
        table = self._run.cells(slide, task)
        if not 1 <= rank <= len(table):
            raise NothingThereError(f"There is no cell of rank {rank}.")
        x, y, width, height = (_known(table[name][rank - 1].as_py()) for name in PLACES)
        if math.isnan(x + y + width + height):
            raise NothingThereError("This cell has no place on a slide.")
        side = max(8.0, factor * max(width, height))
        pixels = min(CONTEXT, max(64, round(side)))
        with self._reading(slide) as reader:
            cut = _around(reader, (x, y), side, pixels)
        return Encoded(encode_pixels(cut, QUALITY), "image/jpeg")

    def overview(self, slide: str) -> Encoded:
        """The small picture of the whole slide that `tile` made.

        Raises:
            NothingThereError: If there is none.
        """
        path = self._run.image(slide).thumbnail
        if path is None:
            raise NothingThereError("There is no picture of this slide.")
        return Encoded(path.read_bytes(), "image/jpeg")

    def tile(self, slide: str, level: int, column: int, row: int) -> Encoded:
        """A deep-zoom tile; level 0 is one pixel, each next one twice as large, the last the slide itself.

        Raises:
            NothingThereError: If there is no such tile, or the slide has no image.
        """
        size = self._run.image(slide).size or (1, 1)
        top = math.ceil(math.log2(max(size)))
        step = 2.0 ** (top - level)
        inside = 0 <= level <= top and 0 <= column * TILE * step < size[0] and 0 <= row * TILE * step < size[1]
        if not inside:
            raise NothingThereError("There is no such tile.")

        def cut() -> Encoded:
            with self._reading(slide) as reader:
                return Encoded(encode_pixels(_tile(reader, (column, row), step, self._coarse(slide)), QUALITY), "image/jpeg")

        return self._tiles.get((slide, level, column, row), cut)

    def heat(self, slide: str, task: Asked) -> Encoded:
        """Where on the slide cells of rare scores lie, as a PNG with opacity over the whole slide.

        Raises:
            NothingThereError: If the cells have no places, or their scores are not there.
        """
        def drawn() -> Encoded:
            with self._drawing:
                return _heat(self._run, slide, task)

        return self._heats.get((slide, task.name), drawn)

    @contextmanager
    def _reading(self, slide: str) -> Generator[SlideReader]:
        image = self._run.image(slide)
        if image.file is None:
            raise NothingThereError(missing(image))
        try:
            with self._readers.use(image.file) as reader:
                if reader.size != image.size:
                    raise NothingThereError("The image of this slide is another one than when its cells were cut.")
                yield reader
        except DamagedError as error:
            raise NothingThereError(f"The image of this slide cannot be read: {error}.") from error

    def _coarse(self, slide: str) -> Callable[[SlideReader], Whole]:
        """The whole slide, small: of `tile` if it is there, else read once."""
        def small(reader: SlideReader) -> Whole:
            path = self._run.image(slide).thumbnail
            return decode_pixels(path.read_bytes()) if path else reader.thumbnail(1024)

        return lambda reader: self._whole.get(slide, lambda: small(reader))


def missing(image: Image) -> str:
    """Why a slide cannot be looked at as a whole; "" if it can."""
    if image.size is None:
        return "The cells of this slide were given as crops; there is no image of the slide."
    return "" if image.file else "The image of this slide is no longer where it was; its cells are shown all the same."


class _Kept(Generic[Answer]):
    """The latest answers, at most so many; two who ask at once may both do the work."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._held: OrderedDict[Hashable, Answer] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Answer]) -> Answer:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make()
        with self._lock:
            self._held[key] = made
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return made


class _Readers:
    """A few open slide images, each for one thread at a time."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._open: OrderedDict[Path, tuple[threading.Lock, list[SlideReader]]] = OrderedDict()

    @contextmanager
    def use(self, path: Path) -> Generator[SlideReader]:
        with self._lock:
            lock, held = self._open.setdefault(path, (threading.Lock(), []))
            self._open.move_to_end(path)
            idle = [self._open.pop(other) for other in list(self._open)[:-self._most]]
        for other_lock, others in idle:
            with other_lock:
                while others:
                    others.pop().close()
        with lock:
            if not held:
                held.append(open_slide(path))
            yield held[0]


def _around(reader: SlideReader, centre: tuple[float, float], side: float, pixels: int) -> Whole:
    """A square of the slide of `side` slide pixels at a size of `pixels`, padded beyond the edges."""
    low = [max(0.0, middle - side / 2) for middle in centre]
    high = [min(float(most), middle + side / 2) for middle, most in zip(centre, reader.size, strict=True)]
    picture = np.full((pixels, pixels, 3), GLASS, np.uint8)
    scale = pixels / side
    first = [round((start - middle + side / 2) * scale) for start, middle in zip(low, centre, strict=True)]
    size = [min(pixels - start, round((end - begin) * scale)) for start, begin, end in zip(first, low, high, strict=True)]
    if min(size) < 1:
        return picture
    extent = (high[0] - low[0], high[1] - low[1])
    cut = reader.salvage((low[0], low[1]), extent, (size[0], size[1])).pixels
    picture[first[1]:first[1] + size[1], first[0]:first[0] + size[0]] = cut
    return picture


def _tile(reader: SlideReader, place: tuple[int, int], step: float, coarse: Callable[[SlideReader], Whole],
          ) -> UInt8[np.ndarray, "high wide 3"]:
    """A tile of a level whose pixels span `step` slide pixels; column and row count tiles."""
    low = [number * TILE * step for number in place]
    high = [min(start + TILE * step, side) for start, side in zip(low, reader.size, strict=True)]
    extent = (high[0] - low[0], high[1] - low[1])
    size = tuple(max(1, math.ceil(span / step - 1e-6)) for span in extent)
    stored = max(down for down in reader.downsamples if down <= max(1, step * 1.01))
    if extent[0] * extent[1] / stored ** 2 <= MOST:
        return reader.salvage((low[0], low[1]), extent, (size[0], size[1]), piece=32).pixels
    whole = coarse(reader)
    scale = [side / full for side, full in zip(whole.shape[1::-1], reader.size, strict=True)]
    box = (low[0] * scale[0], low[1] * scale[1], high[0] * scale[0], high[1] * scale[1])
    return np.asarray(Picture.fromarray(whole).resize((size[0], size[1]), Picture.Resampling.BICUBIC, box=box))


def _heat(run: ReviewedRun, slide: str, task: Asked) -> Encoded:
    from milscope.heat import heat, paint
    from milscope.review._scores import compared_with, scored_cells

    image = run.image(slide)
    frame = scored_cells(run, slide, task)
    placed = frame[frame[list(PLACES)].notna().all(axis=1)]
    if image.size is None or not len(placed):
        raise NothingThereError("The cells of this slide have no places, so there is no heat map.")
    shrink = max(1.0, max(image.size) / HEAT)
    size = (max(1, round(image.size[0] / shrink)), max(1, round(image.size[1] / shrink)))
    score, reference = placed["score"].to_numpy(float), compared_with(run, task)
    values = heat(placed[list(PLACES)].to_numpy(float), score, image.size, size, reference=reference)
    file = io.BytesIO()
    Picture.fromarray(paint(values), "RGBA").save(file, "PNG", compress_level=3)
    return Encoded(file.getvalue(), "image/png")


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)
