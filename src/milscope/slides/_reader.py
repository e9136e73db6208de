"""What every image of a slide can do, whatever its format: regions by place on the slide and size of the output."""

import math
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from milscope.slides._images import DamagedError, Pixels
from milscope.types import MicronsPerPixel, refuse

BAND = 16_000_000
"""Most pixels of a level that are in memory at once while an overview is made."""
PLAUSIBLE = (0.01, 20.0)
"""Scales that a microscope can have, microns per pixel; a printer's 72 dots per inch would be 353."""


LONGEST = 2**21
"""Pixels: no slide has a longer side; a glass of 75 mm at 0.1 microns a pixel has 750,000."""
MOST = 2**40
"""Pixels: no slide has more of them."""
UNREADABLE = 10_000
"""After so many reads that failed a slide is given up: each may cost the opening of the file."""
GAP = 3.0
"""What is shrunk twice as much or more is averaged in blocks first, so that the filter has this much left to do: quicker."""
SHIFT = 0.1
"""Pixels of a level by which a region may be shifted so that it need not be resampled."""
LOST = 128
"""Brightness of what cannot be read, in pictures of the whole slide."""


class GivenUpError(DamagedError):
    """The whole slide is lost, not only the place that was asked for."""


class Salvaged(NamedTuple):
    """Pixels of a region, grey where nothing could be read, and which of them were read."""

    pixels: Pixels
    read: Bool[np.ndarray, "height width"]


class SlideReader(ABC):
    """A slide's image. Places are pixels of level 0, the full resolution; `levels` are the sizes stored.

    Args:
        path: The image file.
        levels: Width and height of every stored level in pixels, the largest first.
        mpp: Microns per pixel of level 0 as the file states it; an implausible one counts as unknown.

    Attributes:
        downsamples: How many pixels of level 0 a pixel of each level spans.

    Raises:
        DamagedError: If there is no level, or one without pixels, or more pixels than any slide has.
    """

    def __init__(self, path: Path, levels: tuple[tuple[int, int], ...], mpp: float | None) -> None:
        if not levels or min(min(level) for level in levels) < 1:
            raise DamagedError(f"an image without pixels: {path}")
        width, height = levels[0]
        if max(width, height) > LONGEST or width * height > MOST:
            raise DamagedError(f"it claims {width} x {height} pixels, more than any slide has")
        self.path = path
        self.levels = levels
        self.mpp = MicronsPerPixel(mpp) if mpp is not None and PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1] else None
        self.downsamples = tuple((width / wide + height / high) / 2 for wide, high in levels)
        self._failed = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0, in pixels."""
        return self.levels[0]

    def region(
        self, place: tuple[float, float], extent: tuple[float, float], size: tuple[int, int], *, level: int | None = None
    ) -> Pixels:
        """What lies at a place of the slide, resampled to a size with an anti-aliased (bicubic) filter.

        Args:
            place: Left and top edge, in pixels of level 0; fractions are honoured.
            extent: Width and height on the slide, in pixels of level 0.
            size: Width and height of the result, in pixels.
            level: The stored level to read; by default the smallest that is no coarser than the result, and if that
                one cannot be read there, a finer one.

        Raises:
            ValueError: If the region is empty or reaches past an edge of the slide, at whatever level.
            DamagedError: If the file cannot be read there; other places may be readable.
            GivenUpError: If the file cannot be read at all any more.
        """
        inside = all(start >= 0 and span > 0 and start + span <= side + 1e-6
                     for start, span, side in zip(place, extent, self.size, strict=True))
        if not inside or min(size) < 1:
            raise refuse("region", f"inside the slide of {self.size[0]} x {self.size[1]} pixels", f"{extent} at {place}",
                         "Ask for a region that lies on it.")
        if level is not None:
            return self._resampled(place, extent, size, level)
        shrink = min(extent[0] / size[0], extent[1] / size[1])
        best = max(i for i, step in enumerate(self.downsamples) if step <= max(1, shrink * 1.01))
        try:
            return self._resampled(place, extent, size, best)
        except GivenUpError:
            raise
        except DamagedError:
            for finer in reversed(range(best)):
                if extent[0] * extent[1] / self.downsamples[finer] ** 2 <= BAND:
                    with suppress(DamagedError):
                        return self._resampled(place, extent, size, finer)
            raise

    def salvage(
        self, place: tuple[float, float], extent: tuple[float, float], size: tuple[int, int], *, piece: int = 8
    ) -> Salvaged:
        """As `region`, but one damaged place does not cost the rest: what cannot be read is grey.

        Grey is no glass: whoever looks for what is stained finds it, reads it again, and can say that it is damaged.

        Args:
            place: Left and top edge, in pixels of level 0.
            extent: Width and height on the slide, in pixels of level 0.
            size: Width and height of the result, in pixels.
            piece: Parts of at most this side, in pixels of the result, are not divided further.

        Raises:
            ValueError: If the region is empty or reaches past an edge of the slide.
            GivenUpError: If the file cannot be read at all any more.
        """
        try:
            return Salvaged(self.region(place, extent, size), np.ones(size[::-1], bool))
        except GivenUpError:
            raise
        except DamagedError:
            if max(size) <= piece:
                return Salvaged(np.full((size[1], size[0], 3), LOST, np.uint8), np.zeros(size[::-1], bool))
        axis = int(size[1] > size[0])
        half = size[axis] // 2
        cut = extent[axis] * half / size[axis]
        if axis == 0:
            parts = [self.salvage(place, (cut, extent[1]), (half, size[1]), piece=piece),
                     self.salvage((place[0] + cut, place[1]), (extent[0] - cut, extent[1]), (size[0] - half, size[1]),
                                  piece=piece)]
        else:
            parts = [self.salvage(place, (extent[0], cut), (size[0], half), piece=piece),
                     self.salvage((place[0], place[1] + cut), (extent[0], extent[1] - cut), (size[0], size[1] - half),
                                  piece=piece)]
        return Salvaged(*(np.concatenate(both, axis=1 - axis) for both in zip(*parts, strict=True)))

    def overview(self, size: tuple[int, int]) -> Pixels:
        """The whole slide at a small size (width, height), read in bands so that memory stays bounded.

        What cannot be read is grey, see `salvage`.

        Raises:
            GivenUpError: If the file cannot be read at all any more.
        """
        width, height = self.size
        shrink = min(width / size[0], height / size[1])
        step = max(step for step in self.downsamples if step <= max(1, shrink * 1.01))
        rows = max(1, int(BAND / (width / step) / (height / size[1] / step)))
        piece = max(8, max(size) // 16)
        bands = []
        for top in range(0, size[1], rows):
            bottom = min(size[1], top + rows)
            start, end = top * height / size[1], bottom * height / size[1]
            bands.append(self.salvage((0, start), (width, end - start), (size[0], bottom - top), piece=piece).pixels)
        return np.concatenate(bands)

    def thumbnail(self, longest: int) -> Pixels:
        """The whole slide, its longer side at most `longest` pixels; a smaller slide as it is."""
        shrink = max(1, max(self.size) / longest)
        return self.overview((max(1, round(self.size[0] / shrink)), max(1, round(self.size[1] / shrink))))

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _resampled(
        self, place: tuple[float, float], extent: tuple[float, float], size: tuple[int, int], level: int
    ) -> Pixels:
        """A region inside the slide from one level; margins are read so that the filter sees its neighbours."""
        box = [_snapped(start * stored / side, (start + span) * stored / side, out)
               for start, span, stored, side, out in zip(place, extent, self.levels[level], self.size, size, strict=True)]
        margins = [math.ceil(2 * (high - low) / out) + 1 for (low, high), out in zip(box, size, strict=True)]
        if all(low == int(low) and high - low == out for (low, high), out in zip(box, size, strict=True)):
            margins = [0, 0]
        first = [max(0, math.floor(low) - margin) for (low, _), margin in zip(box, margins, strict=True)]
        last = [min(stored, math.ceil(high - 1e-6) + margin)
                for (_, high), margin, stored in zip(box, margins, self.levels[level], strict=True)]
        try:
            pixels = self._read((first[0], first[1]), (last[0] - first[0], last[1] - first[1]), level)
        except DamagedError as error:
            self._failed += 1
            if self._failed > UNREADABLE:
                raise GivenUpError(f"more than {UNREADABLE} reads failed; the last: {error}") from error
            raise
        if margins == [0, 0]:
            return pixels
        (left, right), (top, bottom) = box
        inner = (left - first[0], top - first[1],
                 min(right - first[0], pixels.shape[1]), min(bottom - first[1], pixels.shape[0]))
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=inner, reducing_gap=GAP))

    @abstractmethod
    def close(self) -> None:
        """Gives the file back."""

    @abstractmethod
    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        """The stored pixels of a level; place and size in pixels of that level, inside it.

        Raises:
            DamagedError: If they cannot be read.
        """


def _snapped(low: float, high: float, out: int) -> tuple[float, float]:
    """The pixels themselves, where a region asks for them but for a shift that nobody sees."""
    near = round(low)
    return (near, near + out) if abs(low - near) <= SHIFT and abs(high - near - out) <= SHIFT else (low, high)
