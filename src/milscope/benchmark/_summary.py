"""A benchmark over its seeds: figures with intervals, differences to one method, detection limits, curves, cost."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.benchmark._gathered import Grid, read_grid
from milscope.benchmark._over_seeds import (
    MEASURES,
    auc_interval,
    drawn_figures,
    interval,
    over_seeds,
    seed_shares,
    slide_weights,
)
from milscope.metrics import Bootstrap, Interval
from milscope.types import refuse

REFERENCE = "seek"
"""The method that others are compared with, where it is there."""
CEILING = "supervised"
"""The method that learns from marked cells: nobody's rival."""
NOT_COMPARED = (CEILING, "random")
"""What others are compared with only if there is nothing else."""
DETECTED = 0.9
"""Slides are told apart where the lower bound of their AUC is above this."""
POINTS = 64
"""Most points of a curve."""
Drawn = dict[str, Float[np.ndarray, "seed draw"]]
Results = Mapping[int, dict[str, Any]]
"""Seed → result."""


class Curve(NamedTuple):
    """What is found among the first k cells of a positive slide, the mean over slides and seeds, with its band."""

    k: list[int]
    recall: list[Interval]
    precision: list[Interval]


class Summary(NamedTuple):
    """A benchmark over its seeds.

    Attributes:
        grid: What was read.
        reference: The method that the others are compared with.
        figures: One row a rate, method and measure: value, low, high; least and most of the seeds' own values, and seeds.
        values: The same by rate, method and measure.
        differences: The reference less each other method, in the same draws: difference, low, high, seeds.
        limits: One row a method: the detection limit (NaN if there is none), the median seconds and encoder images of a result.
        curves: Of each rate and method.
        bootstrap: How intervals were made.
    """

    grid: Grid
    reference: str
    figures: pd.DataFrame
    values: dict[tuple[float, str, str], Interval]
    differences: pd.DataFrame
    limits: pd.DataFrame
    curves: dict[tuple[float, str], Curve]
    bootstrap: Bootstrap

    @property
    def rivals(self) -> list[str]:
        """The other methods that learn from slide labels at most."""
        return [name for name in self.grid.methods if name not in (self.reference, CEILING)]

    def figure(self, rate: float, method: str, measure: str) -> Interval:
        """One figure; NaN where it is missing."""
        return self.values.get((rate, method, measure), Interval(np.nan, np.nan, np.nan))

    def limit(self, method: str) -> float:
        """The detection limit; NaN if there is none."""
        return float(self.limits.set_index("method")["limit"].get(method, np.nan))


def summarise(directory: Path | str, bootstrap: Bootstrap | None = None) -> Summary:
    """What a benchmark has found so far, over its seeds.

    A value is the mean over seeds. Each draw of its interval draws seeds, and of each seed the slides, positive and
    normal ones apart; in a draw all methods are judged on the same. The interval of the AUC is made no narrower than
    `auc_interval`. With one seed the interval is of its slides alone.

    Args:
        directory: What `milscope benchmark witness` writes, finished or not.
        bootstrap: How intervals are made.

    Raises:
        InputError: If there is no result, or methods were judged on unlike slides.

    Source:
        Owen, The pigeonhole bootstrap, 2007 (seeds and slides drawn apart).
    """
    grid, bootstrap = read_grid(Path(directory)), bootstrap or Bootstrap()
    there = [name for name in grid.methods if any(method == name for _, _, method in grid.results)]
    reference = REFERENCE if REFERENCE in there else next((name for name in there if name not in NOT_COMPARED), there[0])
    shares = seed_shares(len(grid.seeds), bootstrap)
    figures, differences, curves = [], [], {}
    for rate in grid.rates:
        weights = _weights(grid, rate, bootstrap)
        drawn = {name: _drawn(_results(grid, rate, name), grid.seeds, weights) for name in there}
        for name in there:
            results = _results(grid, rate, name)
            if results:
                figures += list(_figures(rate, name, drawn[name], shares, results, bootstrap.confidence))
                curves[rate, name] = _curve(results, grid.seeds, weights, shares, bootstrap.confidence)
                if name != reference:
                    differences += list(_differences(rate, name, drawn[reference], drawn[name], shares, bootstrap.confidence))
    columns = ["rate", "method", "measure", "difference", "low", "high", "seeds"]
    table = pd.DataFrame(figures)
    values = {(row["rate"], row["method"], row["measure"]): Interval(row["value"], row["low"], row["high"]) for row in figures}
    apart = pd.DataFrame(differences, columns=columns)
    return Summary(grid, reference, table, values, apart, _limits(grid, table), curves, bootstrap)


def _results(grid: Grid, rate: float, method: str) -> dict[int, dict[str, Any]]:
    return {seed: grid.results[seed, rate, method] for seed in grid.seeds if (seed, rate, method) in grid.results}


def _weights(grid: Grid, rate: float, bootstrap: Bootstrap) -> dict[int, Float[np.ndarray, "draw _"]]:
    """The draws of slides of each seed, the same for all methods.

    Raises:
        InputError: If methods of a seed were judged on unlike slides.
    """
    weights = {}
    for seed in grid.seeds:
        own = {name: grid.results[seed, rate, name]["each"] for name in grid.methods if (seed, rate, name) in grid.results}
        slides = {name: [(row["slide"], row["label"]) for row in each] for name, each in own.items()}
        first = next(iter(slides), "")
        odd = next((name for name, each in slides.items() if each != slides[first]), None)
        if odd is not None:
            raise refuse("benchmark", "of the same test slides for every method",
                         f"others for `{odd}` than for `{first}` at seed {seed}, rate {rate:g}", "Run that method again.")
        if first:
            weights[seed] = slide_weights(own[first], bootstrap, seed)
    return weights


def _drawn(results: Results, seeds: list[int], weights: Mapping[int, Float[np.ndarray, "draw _"]]) -> Drawn:
    """Measure → its value of each seed in each draw; NaN where a seed has no result."""
    draws = len(next(iter(weights.values()))) if weights else 1
    values = {name: np.full((len(seeds), draws), np.nan) for name in MEASURES}
    for place, seed in enumerate(seeds):
        if seed in results:
            for name, drawn in drawn_figures(results[seed]["each"], weights[seed]).items():
                values[name][place] = drawn
    return values


def _figures(rate: float, method: str, drawn: Drawn, shares: Float[np.ndarray, "seed draw"], results: Results,
             confidence: float) -> Iterator[dict[str, Any]]:
    labels = [row["label"] for found in results.values() for row in found["each"]]
    for measure in MEASURES:
        own = drawn[measure][:, 0]
        found = interval(over_seeds(drawn[measure], shares), confidence)
        if measure == "auc":
            found = auc_interval(found, labels.count(1), labels.count(0), confidence)
        defined = own[np.isfinite(own)]
        if len(defined):
            yield {"rate": rate, "method": method, "measure": measure, **found._asdict(), "least": defined.min(),
                   "most": defined.max(), "seeds": len(defined)}


def _differences(rate: float, method: str, reference: Drawn, drawn: Drawn, shares: Float[np.ndarray, "seed draw"],
                 confidence: float) -> Iterator[dict[str, Any]]:
    """Over the seeds that both have."""
    for measure in MEASURES:
        apart = reference[measure] - drawn[measure]
        seeds = int(np.isfinite(apart[:, 0]).sum())
        if seeds:
            value, low, high = interval(over_seeds(apart, shares), confidence)
            yield {"rate": rate, "method": method, "measure": measure, "difference": value, "low": low, "high": high,
                   "seeds": seeds}


def _curve(results: Results, seeds: list[int], weights: Mapping[int, Float[np.ndarray, "draw _"]],
           shares: Float[np.ndarray, "seed draw"], confidence: float) -> Curve:
    most = max(row["cells"] for found in results.values() for row in found["each"] if "recall" in row)
    k = np.unique(np.geomspace(1, most, POINTS).round().astype(int))
    drawn = np.full((2, len(seeds), shares.shape[1], len(k)), np.nan)
    for place, seed in enumerate(seeds):
        each = results[seed]["each"] if seed in results else []
        told = [number for number, row in enumerate(each) if "recall" in row]
        if told:
            tables, own = np.stack([_reached(each[number], k) for number in told]), weights[seed][:, told]
            drawn[:, place] = np.stack([own @ tables[:, kind] for kind in range(2)]) / own.sum(1)[:, None]
    bands = [[interval(over_seeds(part[:, :, point], shares), confidence) for point in range(len(k))] for part in drawn]
    return Curve(k.tolist(), *bands)


def _reached(row: Mapping[str, Any], k: np.ndarray) -> Float[np.ndarray, "2 point"]:
    """Recall and precision of one slide among its first k cells."""
    depth = np.minimum(k, row["cells"])
    recall = np.asarray(row["recall"], dtype=float)[depth - 1]
    return np.stack([recall, recall * row["witnesses"] / depth])


def _limits(grid: Grid, figures: pd.DataFrame) -> pd.DataFrame:
    """The smallest rate at which, and at every higher one, slides are told apart; and the cost."""
    rows = []
    for method in dict.fromkeys(figures["method"]):
        own = figures[(figures["method"] == method) & (figures["measure"] == "auc")].set_index("rate")["low"]
        limit = np.nan
        for rate in grid.rates:
            if not own.get(rate, np.nan) > DETECTED:
                break
            limit = rate
        results = [found for (_, _, name), found in grid.results.items() if name == method]
        cost = {name: pd.Series([found.get(name) for found in results], dtype=float) for name in ("seconds", "images")}
        rows.append({"method": method, "limit": limit, **{name: values.median() for name, values in cost.items()},
                     "results": len(results), "failed": sum(name == method for _, _, name in grid.failed)})
    return pd.DataFrame(rows)
