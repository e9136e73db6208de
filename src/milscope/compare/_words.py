"""The comparison as tables and in sentences: what can be told apart, and what cannot."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from milscope.compare._judge import Judged, Row
from milscope.configs import CompareConfig
from milscope.metrics import Interval

BASELINE = "mean"
BLANK = "\N{NO-BREAK SPACE}"
FEW_PATIENTS = 10
NAMES = {"auc": "AUC", "macro_auc": "macro AUC", "c_index": "C-index", "average_precision": "average precision",
         "balanced_accuracy": "balanced accuracy", "brier": "Brier score"}
"""The figures, in the order in which they are told."""
COSTS = ("seconds a training", "passes", "parameters", "seconds per 1,000 slides")


def table(found: Judged) -> pd.DataFrame:
    """All numbers, one row a model: figures with bounds, spread, difference to the first model, p values, costs."""
    rows = []
    for row in found.rows:
        values: dict[str, Any] = {"model": row.model, "task": found.task["name"], "role": _role(row, found)}
        for name in _figures(found):
            values |= _bounded(name, row.figures[name])
        values |= {"measure": found.measure, "spread": row.spread, "repetitions": len(row.repeated)}
        values |= _bounded("difference", _difference(row))
        values |= {"p": row.against.p if row.against else np.nan, "p_holm": row.p,
                   "training_seconds": row.training_seconds, "passes": row.passes, "parameters": row.costs[0].parameters,
                   "prediction_seconds_per_1000_slides": row.prediction_seconds}
        rows.append(values)
    return pd.DataFrame(rows)


def columns(found: Judged) -> list[str]:
    """The headings of `cells`."""
    first = found.rows[0].model
    return ["model", *(NAMES[name] for name in _figures(found)), f"spread of {NAMES[found.measure]}",
            f"{NAMES[found.measure]} less that of {first}", "p (Holm)", *COSTS]


def cells(row: Row, found: Judged) -> list[str]:
    """One row of the table as people read it."""
    apart = [_interval(_difference(row), "+.3f"), _p(row.p)] if row.against else ["", ""]
    return [row.model, *(_interval(row.figures[name]) for name in _figures(found)), _number(row.spread), *apart,
            _seconds(row.training_seconds), _number(row.passes, ".0f"), f"{row.costs[0].parameters:,}",
            _seconds(row.prediction_seconds)]


def markdown(found: Judged, told: Sequence[str], beware: Sequence[str]) -> str:
    """The sentences and the table."""
    head = columns(found)
    lines = [*told, *(f"**Beware:** {line}" for line in beware)]
    rows = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *(cells(row, found) for row in found.rows))]
    return "\n\n".join(lines) + "\n\n" + "\n".join(rows) + "\n"


def sentences(found: Judged, config: CompareConfig) -> list[str]:
    """What was done, what can be told apart at this number of patients, and what cannot."""
    first, others = found.rows[0], found.rows[1:]
    counts = ", ".join(f"{count:,} {name}" for name, count in found.classes.items())
    how = f"{config.folds} folds" if config.folds else "the split of the table"
    apart, alike = [row for row in others if found.apart(row)], [row for row in others if not found.apart(row)]
    said = [f"{_n(len(found.rows), 'model')}, {_n(found.patients, 'patient')} ({counts}), {_n(found.slides, 'slide')}: "
            f"{_n(config.seeds, 'repetition')} of {how}. Every slide was scored by models that had not seen its patient."]
    measure, sure = NAMES[found.measure], f"{found.bootstrap.confidence:.0%}"
    if apart:
        worse = "; ".join(f"{row.model} is {'better' if _difference(row).value > 0 else 'worse'} "
                          f"({_number(_difference(row).value, '+.3f')}, interval {_bounds(_difference(row), '+.3f')})"
                          for row in apart)
        said.append(f"Told apart from {first.model} by {measure} with {sure} confidence, "
                    f"counting that {_n(len(others), 'model')} were compared with it: {worse}.")
    if alike:
        lows, highs = zip(*(_difference(row)[1:] for row in alike), strict=True)
        whom = _list([row.model for row in alike]) if apart else f"any of the other {_n(len(others), 'model')}"
        said.append(f"These patients do not tell {first.model} from {whom}. That does not make them equal: the intervals of "
                    f"these differences reach from {min(lows):+.3f} to {max(highs):+.3f}, and what lies within is open.")
    said += _baseline(found)
    if len(others) > 1:
        said.append(f"The other models are not compared with each other, and the highest {measure} of "
                    f"{_n(len(found.rows), 'model')} is partly luck.")
    return said


def warnings(found: Judged, config: CompareConfig, seen: Sequence[str]) -> list[str]:
    """What speaks against trusting the comparison."""
    said = []
    if seen:
        said.append(f"transductive: the encoder was trained on {len(seen)} of the {found.patients} judged patients, so all "
                    "figures may be too good")
    few = [f"{name} ({count})" for name, count in found.classes.items() if count < FEW_PATIENTS]
    if few:
        said.append(f"few patients are {', '.join(few)}: read the intervals, not the values")
    if found.left_out:
        said.append(f"{_n(len(found.left_out), 'slide')} without cells or with features that are not finite left out: "
                    f"{', '.join(found.left_out)}")
    if config.seeds < 3:
        said.append(f"{_n(config.seeds, 'repetition')}: how much depends on the seed is hardly known; 5 are common")
    untimed = [row.model for row in found.rows if any(len(cost.training_seconds) < len(cost.passes) for cost in row.costs)]
    if untimed:
        said.append(f"some trainings of {_list(untimed)} were interrupted and gone on with: their time is not counted")
    return said


def _baseline(found: Judged) -> Iterator[str]:
    """How the first model does against mean pooling, or others against it if it is the first."""
    first, measure = found.rows[0], NAMES[found.measure]
    if first.model == BASELINE:
        better = [row.model for row in found.rows[1:] if found.apart(row) and _difference(row).value > 0]
        if not better:
            yield f"No model is shown to be better than mean pooling, the simple baseline, in {measure}."
        return
    row = next(row for row in found.rows if row.model == BASELINE)
    if not found.apart(row):
        yield f"That {first.model} is worth more than mean pooling, the simple baseline, is not shown here."


def _figures(found: Judged) -> list[str]:
    return [name for name in NAMES if name in found.rows[0].figures]


def _role(row: Row, found: Judged) -> str:
    return "reference" if row is found.rows[0] else "baseline" if row.model == BASELINE else ""


def _difference(row: Row) -> Interval:
    return row.against.difference if row.against else Interval(np.nan, np.nan, np.nan)


def _bounded(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _number(value: float, form: str = ".3f") -> str:
    return format(value, form) if np.isfinite(value) else "–"


def _interval(interval: Interval, form: str = ".3f") -> str:
    return f"{_number(interval.value, form)} ({_bounds(interval, form)})"


def _bounds(interval: Interval, form: str) -> str:
    return f"{_number(interval.low, form)}{BLANK}to{BLANK}{_number(interval.high, form)}"


def _seconds(value: float) -> str:
    return _number(value, ".2f" if value < 10 else ",.0f")


def _p(value: float) -> str:
    return "–" if not np.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
