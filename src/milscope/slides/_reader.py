"""What every image of a slide can do, whatever its format: regions by place on the slide and size of the output."""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image

from milscope.slides._images import Pixels
from milscope.types import MicronsPerPixel, refuse

BAND = 16_000_000
"""Most pixels of a level that are in memory at once while an overview is made."""
PLAUSIBLE = (0.01, 20.0)
"""Scales that a microscope can have, microns per pixel; a printer's 72 dots per inch would be 353."""


class SlideReader(ABC):
    """A slide's image. Places are pixels of level 0, the full resolution; `levels` are the sizes stored.

    Args:
        path: The image file.
        levels: Width and height of every stored level in pixels, the largest first.
        mpp: Microns per pixel of level 0 as the file states it; an implausible one counts as unknown.
    """

    def __init__(self, path: Path, levels: tuple[tuple[int, int], ...], mpp: float | None) -> None:
        self.path = path
        self.levels = levels
        self.mpp = MicronsPerPixel(mpp) if mpp is not None and PLAUSIBLE[0] <= mpp <= PLAUSIBLE[1] else None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0, in pixels."""
        return self.levels[0]

    @property
    def downsamples(self) -> tuple[float, ...]:
        """How many pixels of level 0 a pixel of each level spans."""
        return tuple((self.size[0] / width + self.size[1] / height) / 2 for width, height in self.levels)

    def region(
        self, place: tuple[float, float], extent: tuple[float, float], size: tuple[int, int], *, level: int | None = None
    ) -> Pixels:
        """What lies at a place of the slide, resampled to a size with an anti-aliased (bicubic) filter.

        Args:
            place: Left and top edge, in pixels of level 0; fractions are honoured.
            extent: Width and height on the slide, in pixels of level 0.
            size: Width and height of the result, in pixels.
            level: The stored level to read; by default the smallest that is no coarser than the result.

        Raises:
            ValueError: If the region is empty or reaches past an edge of the slide, at whatever level.
            DamagedError: If the file cannot be read there.
        """
        inside = all(start >= 0 and span > 0 and start + span <= side + 1e-6
                     for start, span, side in zip(place, extent, self.size, strict=True))
        if not inside or min(size) < 1:
            raise refuse("region", f"inside the slide of {self.size[0]} x {self.size[1]} pixels", f"{extent} at {place}",
                         "Ask for a region that lies on it.")
        if level is None:
            shrink = min(extent[0] / size[0], extent[1] / size[1])
            level = max(i for i, step in enumerate(self.downsamples) if step <= max(1, shrink * 1.01))
        box = [(start * stored / side, (start + span) * stored / side)
               for start, span, stored, side in zip(place, extent, self.levels[level], self.size, strict=True)]
        margins = [math.ceil(2 * (high - low) / out) + 1 for (low, high), out in zip(box, size, strict=True)]
        if all(low == int(low) and high - low == out for (low, high), out in zip(box, size, strict=True)):
            margins = [0, 0]
        first = [max(0, math.floor(low) - margin) for (low, _), margin in zip(box, margins, strict=True)]
        last = [min(stored, math.ceil(high - 1e-6) + margin)
                for (_, high), margin, stored in zip(box, margins, self.levels[level], strict=True)]
        pixels = self._read((first[0], first[1]), (last[0] - first[0], last[1] - first[1]), level)
        if margins == [0, 0]:
            return pixels
        (left, right), (top, bottom) = box
        inner = (left - first[0], top - first[1],
                 min(right - first[0], pixels.shape[1]), min(bottom - first[1], pixels.shape[0]))
        return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=inner))

    def overview(self, size: tuple[int, int]) -> Pixels:
        """The whole slide at a small size (width, height), read in bands so that memory stays bounded."""
        width, height = self.size
        shrink = min(width / size[0], height / size[1])
        step = max(step for step in self.downsamples if step <= max(1, shrink * 1.01))
        rows = max(1, int(BAND / (width / step) / (height / size[1] / step)))
        bands = []
        for top in range(0, size[1], rows):
            bottom = min(size[1], top + rows)
            start, end = top * height / size[1], bottom * height / size[1]
            bands.append(self.region((0, start), (width, end - start), (size[0], bottom - top)))
        return np.concatenate(bands)

    def thumbnail(self, longest: int) -> Pixels:
        """The whole slide, its longer side at most `longest` pixels; a smaller slide as it is."""
        shrink = max(1, max(self.size) / longest)
        return self.overview((max(1, round(self.size[0] / shrink)), max(1, round(self.size[1] / shrink))))

    def __enter__(self) -> "SlideReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Gives the file back."""

    @abstractmethod
    def _read(self, place: tuple[int, int], size: tuple[int, int], level: int) -> Pixels:
        """The stored pixels of a level; place and size in pixels of that level, inside it."""
