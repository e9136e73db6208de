"""Near-duplicate pictures: perceptual hashes of many small images, and the pairs that are alike."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int8, UInt8, UInt64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32
"""Side at which pictures are compared, pixels."""
KEPT = 12
"""Waves kept in each direction, from the coarsest on."""
PLAIN = 2.0
"""Contrast (root mean square, grey levels of 255) below which a picture shows nothing that could be compared."""
BITS = 128
TABLES, NEIGHBOURS = 32, 8
"""How often hashes are sorted, each time by other bits first, and how many followers each is compared with."""
NOISE = 16.0
"""Spread of a wave by compression and resampling: waves that hardly differ between pictures count little."""
FAR = 32
"""Hashes that differ in more bits are not looked at more closely."""
_STEP = 31.0
"""Steps of a standard deviation in which waves are stored."""
_PRIOR = 8
"""Imagined grey pictures among the sample: with few pictures their mean says little of what is common."""


class Standard(NamedTuple):
    """What the pictures of a collection have in common: mean and spread of each wave."""

    mean: Float[np.ndarray, " wave"]
    spread: Float[np.ndarray, " wave"]


def waves(pixels: UInt8[np.ndarray, "picture side side 3"]) -> Float[np.ndarray, "picture wave"]:
    """The coarse structure of pictures: the lowest cosine waves of their brightness, coarsest first, without the mean."""
    grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    side = pixels.shape[1]
    cosines = np.cos(np.pi * (np.arange(side) + 0.5) * np.arange(KEPT)[:, None] / side) * np.sqrt(2 / side)
    cosines[0] /= np.sqrt(2)
    cosines = cosines.astype(np.float32)
    found = np.einsum("us,psr,vr->puv", cosines, grey, cosines, optimize=True).reshape(len(pixels), KEPT * KEPT)
    return found[:, _ORDER]


def contrast(coarse: Float[np.ndarray, "picture wave"]) -> Float[np.ndarray, " picture"]:
    """Root mean square of the coarse structure, grey levels."""
    return np.sqrt((coarse**2).sum(1)) / SIDE


def standard(sample: Float[np.ndarray, "picture wave"]) -> Standard:
    """Mean and spread of the waves of a sample."""
    mean = sample.sum(0) / (len(sample) + _PRIOR)
    spread = ((sample - mean) ** 2).sum(0) / max(1, len(sample))
    return Standard(mean, np.sqrt(spread + NOISE**2))


def signatures(coarse: Float[np.ndarray, "picture wave"], common: Standard) -> Int8[np.ndarray, "picture wave"]:
    """What distinguishes each picture from the others of its collection; the signs are its perceptual hash."""
    steps = np.rint((coarse - common.mean) / common.spread * _STEP)
    return np.clip(steps, -127, 127).astype(np.int8)


def alike(marks: Int8[np.ndarray, "picture wave"], least: float) -> Int[np.ndarray, " picture"]:
    """The group of each picture, 0, 1, …: those whose signatures correlate at least so much are in one, also in a chain.

    Hashes are sorted many times, each time by other bits first, and each is compared with those that follow it: the
    time grows with the number of pictures, not with its square. A pair that correlates at 0.95 differs in about a
    tenth of its bits and is missed in fewer than one of a hundred cases.

    Args:
        marks: Signatures, see `signatures`.
        least: The correlation from which two pictures count as near-duplicates, 0 to 1.

    Source:
        Manku, Jain, Das Sarma, Detecting near-duplicates for web crawling, 2007, section 3: sorted tables of permuted
        hashes. Here hashes are compared with their followers in the order, whatever the bit in which they differ.
    """
    bits = marks[:, :BITS] > 0
    whole = _packed(bits)
    generator = np.random.default_rng(0)
    group = np.arange(len(marks))
    for _ in range(TABLES if len(marks) > 1 else 0):
        keys = _packed(bits[:, generator.permutation(BITS)])
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            pairs = np.stack([order[:-step], order[step:]], axis=1)
            pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
            differ = np.bitwise_count(whole[pairs[:, 0]] ^ whole[pairs[:, 1]]).sum(1)
            pairs = pairs[differ <= FAR]
            group = _joined(group, pairs[_correlations(marks, pairs) >= least])
    return group


def _joined(group: Int[np.ndarray, " picture"], pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " picture"]:
    """The groups after those of each pair have become one."""
    if not len(pairs):
        return group
    one, other = group[pairs[:, 0]], group[pairs[:, 1]]
    links = coo_array((np.ones(len(pairs)), (one, other)), shape=(len(group), len(group)))
    return connected_components(links, directed=False)[1][group]


def _correlations(marks: Int8[np.ndarray, "picture wave"], pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
    values = np.empty(len(pairs))
    for start in range(0, len(pairs), 65536):
        one, other = (marks[pairs[start : start + 65536, side]].astype(np.float32) for side in (0, 1))
        sizes = np.sqrt((one**2).sum(1) * (other**2).sum(1))
        values[start : start + 65536] = (one * other).sum(1) / np.maximum(sizes, 1e-9)
    return values


def _packed(bits: Bool[np.ndarray, "picture bit"]) -> UInt64[np.ndarray, "picture word"]:
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8").astype(np.uint64)


_WAVE = np.arange(KEPT)
_ORDER = np.argsort((_WAVE[:, None] + _WAVE[None]).ravel(), kind="stable")[1:]
