"""What a benchmark found, in sentences for people who look at slides."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from milscope.benchmark._summary import CEILING, DETECTED, Summary
from milscope.metrics import Interval

NAMES = {
    "auc": "slide AUC", "average_precision": "slide average precision", "f1": "slide F1", "sensitivity": "slide sensitivity",
    "specificity": "slide specificity", "cell_auc": "cell AUC", "cell_average_precision": "cell average precision",
    "recall_at_10": "recall@10", "precision_at_10": "precision@10", "recall_at_witnesses": "recall@W",
    "recall_at_400": "recall@400",
}
MEANINGS = {
    "auc": "share of pairs of a positive and a normal slide in which the positive one is more probable; 0.5: guessing",
    "average_precision": "of slides called positive, how many are, averaged over the thresholds",
    "f1": "of slides called at the threshold that training slides gave: 2 × hits / (calls + positive slides)",
    "sensitivity": "share of positive slides that are called", "specificity": "share of normal slides that are not",
    "cell_auc": "share of pairs of a witness and a normal cell of one slide in which the witness is ranked first",
    "cell_average_precision": "share of witnesses among the cells ranked no later, averaged over a slide's witnesses",
    "recall_at_10": "share of a slide's W witnesses among its first 10 cells; at most 10 / W",
    "precision_at_10": "share of witnesses among a slide's first 10 cells; at low rates it cannot be near 1",
    "recall_at_witnesses": "share of a slide's W witnesses among its first W cells; the precision there is the same",
    "recall_at_400": "share of a slide's witnesses among its first 400 cells, which SLAM-AGS counts",
}
MAIN = ("auc", "f1", "recall_at_10", "recall_at_witnesses")
"""The measures that are told first."""
FEW_SEEDS, FEW_SLIDES = 3, 20


class Verdicts(NamedTuple):
    """Of how many comparisons the reference came out better, worse, or neither."""

    better: int
    worse: int
    alike: int


def percent(rate: float) -> str:
    """A share as percent, without needless digits."""
    return f"{100 * rate:.3g} %"


def titled(measure: str) -> str:
    """A measure's name at the start of a line."""
    return NAMES[measure][0].upper() + NAMES[measure][1:]


def told(found: Interval, digits: int = 2) -> str:
    """A figure with its interval; a dash where it is undefined."""
    if not math.isfinite(found.value):
        return "–"
    band = f" ({found.low:.{digits}f}–{found.high:.{digits}f})" if math.isfinite(found.low) else ""
    return f"{found.value:.{digits}f}{band}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever is read most easily."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def limit_words(summary: Summary, method: str) -> str:
    """The detection limit of a method."""
    limit = summary.limit(method)
    return percent(limit) if math.isfinite(limit) else "none"


def verdicts(summary: Summary, measure: str) -> Verdicts:
    """The reference against all rivals at all rates, by whether the interval of the difference leaves out 0."""
    rows = rival_differences(summary, measure)
    better, worse = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    return Verdicts(better, worse, len(rows) - better - worse)


def rival_differences(summary: Summary, measure: str) -> pd.DataFrame:
    """The differences to rivals, without the ceiling; those that are defined."""
    rows = summary.differences
    return rows[(rows["measure"] == measure) & rows["method"].isin(summary.rivals) & rows["difference"].notna()]


def sentences(summary: Summary) -> list[str]:
    """What was done and what came out."""
    return [_design(summary), *_reached(summary), _limits(summary), *_compared(summary)]


def warnings(summary: Summary) -> Iterator[str]:
    """What speaks against trusting the figures."""
    grid = summary.grid
    if grid.missing:
        yield f"{len(grid.missing)} of {len(grid.missing) + len(grid.results) + len(grid.failed)} results are not there yet."
    for method in dict.fromkeys(name for _, _, name in grid.failed):
        whys = [why for (_, _, name), why in grid.failed.items() if name == method]
        yield f"`{method}` failed {'once' if len(whys) == 1 else f'{len(whys)} times, first'} with: {whys[0]}"
    seeds = len({seed for seed, _, _ in grid.results})
    if seeds < FEW_SEEDS:
        yield (f"{_count(seeds, 'seed')} only: how much a method depends on its random start is hardly known, and the "
               "intervals hardly tell it.")
    positive = min(sum(row["label"] for _, row in rows) for rows in _slides(summary).values())
    if positive < FEW_SLIDES:
        yield f"Only {positive} positive test slides over all seeds at some rate: intervals are wide."
    for measure in MAIN:
        rows = rival_differences(summary, measure)
        below = [f"`{row.method}` at {percent(row.rate)}" for row in rows[rows["high"] < 0].itertuples()]
        if below:
            yield f"`{summary.reference}` is worse in {NAMES[measure]} than {_listed(below)}."


def _design(summary: Summary) -> str:
    grid, slides = summary.grid, _slides(summary)
    cells = max(row["cells"] for rows in slides.values() for _, row in rows)
    first = [row for _, row in slides[next(iter(slides))]]
    seeds = len({seed for seed, _, _ in grid.results})
    positive = sum(row["label"] for row in first)
    count = _count(len(summary.limits), "method")
    return (f"{count} learned from the labels of the same slides of up to {cells:,} cells, of which exactly "
            f"{_listed([percent(rate) for rate in grid.rates])} are witnesses in a positive slide, and were judged on "
            f"{round(positive / seeds)} positive and {round((len(first) - positive) / seeds)} normal test slides for each of "
            f"{_count(seeds, 'seed')}.")


def _reached(summary: Summary) -> Iterator[str]:
    """The reference at about 1 %, and at the lowest rate."""
    rates = [rate for rate in summary.grid.rates if (rate, summary.reference) in summary.curves]
    if not rates:
        return
    near = min(rates, key=lambda rate: abs(math.log(rate / 0.01)))
    for rate in dict.fromkeys([near, rates[-1]]):
        recall = summary.figure(rate, summary.reference, "recall_at_10")
        auc = summary.figure(rate, summary.reference, "auc")
        yield (f"At a witness rate of {percent(rate)}, `{summary.reference}` puts {_share(recall)} of a slide's witnesses "
               f"among the first 10 cells, and tells positive slides from normal ones with an AUC of {told(auc)}.")


def _limits(summary: Summary) -> str:
    own = summary.limit(summary.reference)
    lowest = {name: summary.limit(name) for name in summary.rivals if math.isfinite(summary.limit(name))}
    if math.isfinite(own):
        text = (f"Its detection limit is {percent(own)}: down to that rate the lower bound of the AUC of slides is above "
                f"{DETECTED:g}")
    else:
        text = (f"It has no detection limit: at {percent(summary.grid.rates[0])} the lower bound of the AUC of slides is not "
                f"above {DETECTED:g}")
    best = [name for name, limit in lowest.items() if limit == min(lowest.values())]
    if best:
        return f"{text}; the lowest of the other methods is {percent(lowest[best[0]])} ({_listed(best)})."
    return f"{text}; no other method has one." if summary.rivals else f"{text}."


def _compared(summary: Summary) -> Iterator[str]:
    if not summary.rivals:
        return
    parts = []
    for measure in MAIN:
        better, worse, alike = verdicts(summary, measure)
        parts.append(f"{NAMES[measure]} {better} / {alike} / {worse}")
    yield (f"Against the {len(summary.rivals)} other methods at every rate, `{summary.reference}` is better / not told apart / "
           f"worse in so many comparisons: {'; '.join(parts)}.")
    if CEILING in summary.grid.methods:
        yield f"`{CEILING}` learned from the marked cells of the training slides, which no other method saw: it is no rival."


def worst_sentences(found: pd.DataFrame, summaries: Sequence[Summary]) -> list[str]:
    """What the reference reaches on the set where it is worst, beside the method that is best where *it* is worst.

    Args:
        found: As `worst` gives it.
        summaries: Of the sets.
    """
    reference, names = summaries[0].reference, [summary.grid.name for summary in summaries]
    told_of = [f"{len(names)} sets of cells: {', '.join(names)}. A method is as good as it is on the set where it is worst: "
               "that is told here."]
    if found.empty:
        return [*told_of, "No method has results at one rate in all of them."]
    for rate in sorted(found["rate"].unique(), reverse=True):
        own = found[(found["rate"] == rate) & (found["measure"] == "recall_at_10")].set_index("method")
        if reference not in own.index:
            continue
        row, others = own.loc[reference], own.drop(index=[name for name in (reference, CEILING) if name in own.index])
        text = (f"At {percent(rate)}, `{reference}` is worst on {row['name']}: {100 * row['value']:.0f} % of a slide's "
                "witnesses are among its first 10 cells")
        if len(others):
            best = others["value"].idxmax()
            text += (f"; the best of the others, `{best}`, is worst on {others.loc[best, 'name']} with "
                     f"{100 * others.loc[best, 'value']:.0f} %")
        told_of.append(f"{text}.")
    counts = {measure: [sum(part) for part in zip(*(verdicts(summary, measure) for summary in summaries), strict=True)]
              for measure in MAIN}
    parts = [f"{NAMES[measure]} {better} / {alike} / {worse}" for measure, (better, worse, alike) in counts.items()]
    return [*told_of, f"Over all sets, rates and other methods `{reference}` is better / not told apart / worse in so many "
            f"comparisons: {'; '.join(parts)}."]


def _slides(summary: Summary) -> dict[float, list[tuple[int, dict]]]:
    """The test slides of each rate, of all seeds, each with its seed."""
    found: dict[float, dict[int, list[dict]]] = {}
    for (seed, rate, _), result in summary.grid.results.items():
        found.setdefault(rate, {}).setdefault(seed, result["each"])
    return {rate: [(seed, row) for seed, each in own.items() for row in each] for rate, own in found.items()}


def _share(found: Interval) -> str:
    if not math.isfinite(found.value):
        return "an unknown share"
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f}–{100 * found.high:.0f} %)"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
