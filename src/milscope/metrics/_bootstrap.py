"""Intervals by drawing patients with replacement: what every kind of figure shares."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

_BLOCK = 2_000_000  # numbers in one array of the bootstrap: keeps each under 16 MB


class Interval(NamedTuple):
    """A figure and the bounds between which it would mostly fall with other patients; NaN where undefined."""

    value: float
    low: float
    high: float


class Bootstrap(NamedTuple):
    """How intervals are made: the draws of patients, the coverage of the interval, the seed."""

    draws: int = 1000
    confidence: float = 0.95
    seed: int = 0


@runtime_checkable
class Scores(Protocol):
    """What is known and what was said of each slide, of any kind of task: what can be judged and compared."""

    @property
    def patients(self) -> Sequence[str]:
        """The patient of each slide."""
        ...

    @property
    def strata(self) -> Int[np.ndarray, " slide"]:
        """The kind of each slide, 0, 1, …: patients of different kinds are drawn apart."""
        ...

    def drawn(self, weights: Float[np.ndarray, "draw slide"]) -> dict[str, Float[np.ndarray, " draw"]]:
        """The figures of many draws at once, each slide counting as often as its weight in the draw says."""
        ...


def intervals(scores: Scores, bootstrap: Bootstrap, values: Mapping[str, float] | None = None) -> dict[str, Interval]:
    """Every figure of the scores with its interval: percentiles of the draws.

    Args:
        scores: What is judged.
        bootstrap: How intervals are made.
        values: The figures themselves; None: those of the draw in which every slide counts once.
    """
    if values is None:
        once = scores.drawn(np.ones((1, len(scores.patients))))
        values = {name: float(value[0]) for name, value in once.items()}
    blocks = [scores.drawn(weights) for weights in resample(scores.patients, scores.strata, bootstrap)]
    return {name: Interval(value, *bounds(joined(blocks, name), bootstrap.confidence)) for name, value in values.items()}


def joined(blocks: Iterable[Mapping[str, Float[np.ndarray, " _"]]], name: str) -> Float[np.ndarray, " draw"]:
    """One figure of all draws, block after block."""
    return np.concatenate([block[name] for block in blocks])


def resample(
    patients: Sequence[str], strata: Shaped[np.ndarray, " row"], bootstrap: Bootstrap
) -> Iterator[Float[np.ndarray, "draw row"]]:
    """How often each row counts in each draw, in blocks of draws that are small in memory.

    Patients are drawn with replacement, as many as there are, those of each stratum apart, so that each draw has all
    strata. A patient whose rows are of several strata belongs to the highest (a patient with one positive slide is
    positive). All rows of a drawn patient come along each time.

    Args:
        patients: The patient of each row.
        strata: The stratum of each row, 0, 1, …, or whether it is positive.
        bootstrap: Draws and seed.
    """
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    kinds = np.zeros(len(names), dtype=int)
    np.maximum.at(kinds, owner, strata)
    members = {int(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}
    generators = {kind: np.random.default_rng([bootstrap.seed, kind]) for kind in members}
    size = max(1, _BLOCK // max(1, len(owner)))
    for start in range(0, bootstrap.draws, size):
        counts = np.zeros((min(size, bootstrap.draws - start), len(names)))
        for kind, who in members.items():
            counts[:, who] = generators[kind].multinomial(len(who), np.full(len(who), 1 / len(who)), size=len(counts))
        yield counts[:, owner]


def bounds(drawn: Float[np.ndarray, " draw"], confidence: float) -> tuple[float, float]:
    """The percentiles between which `confidence` of the defined draws lie; NaN if none is defined."""
    defined = drawn[np.isfinite(drawn)]
    if not len(defined):
        return np.nan, np.nan
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def ratio(
    numerator: Float[np.ndarray, "*shape"], denominator: Shaped[np.ndarray, "*shape"], *, empty: float = np.nan
) -> Float[np.ndarray, "*shape"]:
    """Elementwise quotient; `empty` where the denominator is zero."""
    quotient = np.full(np.shape(numerator), empty)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def mean_of_defined(values: Float[np.ndarray, "draw part"]) -> Float[np.ndarray, " draw"]:
    """The mean over the parts that are defined; NaN where none is."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0.0).sum(1), defined.sum(1))


def group_ends(ordered: Float[np.ndarray, " row"]) -> Int[np.ndarray, " group"]:
    """The last place of each run of equal values."""
    last = np.arange(len(ordered)) == len(ordered) - 1
    last[:-1] |= ordered[1:] != ordered[:-1]
    return np.flatnonzero(last)
