"""One pass over the pictures of all cells: what each looks like, and what a slide's cells look like on the whole."""

import hashlib
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Int8, UInt8, UInt64

from milscope.check._pictures import PLAIN, SIDE, Standard, contrast, signatures, standard, waves
from milscope.pool import Lost, over_slides
from milscope.progress import progress
from milscope.slides import DamagedError
from milscope.store import CellStore, decode

SAMPLE = 2000
"""Cells from which is learned what all have in common."""
AT_ONCE = 1024
NEAR = 0.1
"""Centres nearer than this share of a crop's side are one cell found twice."""
_FORMATS = {b"\xff\xd8": "jpeg", b"\x89P": "png", b"BM": "bmp", b"II": "tiff", b"MM": "tiff"}


class Look(NamedTuple):
    """What the cells of one slide look like."""

    contents: UInt64[np.ndarray, "cell 2"]
    """A digest of each cell's encoded image."""
    marks: Int8[np.ndarray, "cell wave"]
    plain: Bool[np.ndarray, " cell"]
    """Pictures that show nothing."""
    twice: int
    """Cells whose centre is all but another's."""
    colour: Float[np.ndarray, " channel"]
    """Mean red, green and blue."""
    side: float
    """Median of the longer side of its cells, slide pixels."""
    detail: float
    """Median of the bytes a pixel in which its cells are stored."""
    format: str


class Cells(NamedTuple):
    """The cells of all slides, one after the other: a row a cell."""

    looks: dict[str, Look]
    lost: dict[str, str]
    """Slide → why its cells could not be read."""

    @property
    def slides(self) -> list[str]:
        """The slides whose cells were read."""
        return list(self.looks)

    @property
    def owner(self) -> Int[np.ndarray, " cell"]:
        """The slide of each cell, by its place in `slides`."""
        return np.repeat(np.arange(len(self.looks)), np.array([len(look.plain) for look in self.looks.values()], int))

    @property
    def contents(self) -> UInt64[np.ndarray, "cell 2"]:
        """The digest of each cell."""
        return np.concatenate([look.contents for look in self.looks.values()])

    @property
    def marks(self) -> Int8[np.ndarray, "cell wave"]:
        """The signature of each cell."""
        return np.concatenate([look.marks for look in self.looks.values()])

    @property
    def plain(self) -> Bool[np.ndarray, " cell"]:
        """Whether each cell shows nothing."""
        return np.concatenate([look.plain for look in self.looks.values()])


def look_at_cells(store: CellStore, slides: list[str], workers: int) -> Cells:
    """Decodes every cell of those slides once, at a small size.

    Args:
        store: The cells.
        slides: Whose cells.
        workers: Processes; 0 for one per core.
    """
    common = standard(_sample(store, slides))
    looks: dict[str, Look] = {}
    lost: dict[str, str] = {}
    work = partial(_look, directory=store.directory, common=common)
    with progress("check", sum(map(store.count, slides)), "cells") as advance:
        for slide, look in over_slides(work, slides, workers):
            if isinstance(look, Look):
                looks[slide] = look
            else:
                lost[slide] = look.reason if isinstance(look, Lost) else str(look)
            advance(store.count(slide))
    return Cells({slide: looks[slide] for slide in slides if slide in looks}, lost)


def look_at_thumbnails(store: CellStore, slides: list[str]) -> tuple[list[str], Int8[np.ndarray, "slide wave"]]:
    """The slides that have a thumbnail which shows something, and the signature of each."""
    paths = {slide: store.directory / "thumbnails" / f"{slide}.jpg" for slide in slides}
    pictures = {slide: picture for slide, path in paths.items()
                if (picture := _decoded(path.read_bytes() if path.is_file() else b"")) is not None}
    if not pictures:
        return [], np.empty((0, 0), np.int8)
    coarse = waves(np.stack(list(pictures.values())))
    shows = contrast(coarse) >= PLAIN
    return [slide for slide, good in zip(pictures, shows, strict=True) if good], signatures(coarse, standard(coarse))[shows]


def _sample(store: CellStore, slides: list[str]) -> Float[np.ndarray, "cell wave"]:
    """The waves of some cells of every slide, at most `SAMPLE` in all."""
    generator = np.random.default_rng(0)
    pictures = []
    for slide in (slides[index] for index in generator.permutation(len(slides))[:SAMPLE]):
        total = store.count(slide)
        rows = generator.choice(total, min(total, math.ceil(SAMPLE / len(slides))), replace=False)
        try:
            images = store.images(slide, rows)
        except (OSError, ValueError):  # a file that is damaged or gone: looking at all cells will say so
            continue
        pictures += [picture for image in images if (picture := _decoded(image)) is not None]
    return waves(np.stack(pictures)) if pictures else waves(np.zeros((0, SIDE, SIDE, 3), np.uint8))


def _look(slide: str, *, directory: Path, common: Standard) -> Look | str:
    """What the cells of a slide look like, or why they cannot be read."""
    try:
        store = CellStore(directory)
        table = store.table(slide)
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())[:120]
    parts: list[tuple[np.ndarray, ...]] = []
    formats: Counter[str] = Counter()
    for start in range(0, len(table), AT_ONCE):
        images = store.images(slide, range(start, min(start + AT_ONCE, len(table))))
        formats.update(_FORMATS.get(image[:2], "other") for image in images)
        decoded = [_decoded(image) for image in images]
        pixels = np.stack([np.zeros((SIDE, SIDE, 3), np.uint8) if picture is None else picture for picture in decoded])
        coarse = waves(pixels)
        parts.append((_digests(images), signatures(coarse, common), contrast(coarse) < PLAIN,
                      pixels.reshape(len(pixels), -1, 3).mean(1), np.array([len(image) for image in images], float)))
    contents, marks, plain, colour, sizes = (np.concatenate(each) for each in zip(*parts, strict=True))
    sides = {name: table[name].to_numpy() for name in ("width", "height")}
    return Look(contents, marks, plain, _twice(table.select(["x", "y"]).to_pandas(), sides["width"]),
                colour.astype(float).mean(0), float(np.median(np.maximum(sides["width"], sides["height"]))),
                float(np.median(sizes / (sides["width"] * sides["height"]))), formats.most_common(1)[0][0])


def _decoded(image: bytes) -> UInt8[np.ndarray, "side side 3"] | None:
    try:
        return decode(image, SIDE)
    except DamagedError:
        return None


def _digests(images: list[bytes]) -> UInt64[np.ndarray, "cell 2"]:
    whole = b"".join(hashlib.blake2b(image, digest_size=16).digest() for image in images)
    return np.frombuffer(whole, np.uint64).reshape(-1, 2)


def _twice(places: pd.DataFrame, sides: Float[np.ndarray, " cell"]) -> int:
    """How many cells lie on top of an earlier one."""
    from scipy.spatial import KDTree

    known = places.notna().all(axis=1).to_numpy()
    if known.sum() < 2:
        return 0
    distance, other = KDTree(places[known].to_numpy()).query(places[known].to_numpy(), k=2)
    near = distance[:, 1] < NEAR * sides[known]
    return int((near & (other.min(1) < np.arange(len(near)))).sum())
