"""The models' repetitions as figures, differences to the first model, and costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from milscope.compare._repeat import Cost, Repetition
from milscope.compare._within import GradedScores, RiskScores, over_repetitions
from milscope.comparison import Comparison, holm
from milscope.comparison import compare as paired
from milscope.metrics import Bootstrap, Interval

MEASURES = ("auc", "macro_auc", "c_index")
"""What models are compared by: the first that the task has."""


class Row(NamedTuple):
    """One model."""

    model: str
    figures: dict[str, Interval]
    """The means over repetitions."""
    repeated: list[float]
    """The measure in each repetition."""
    against: Comparison | None
    """The measure less the first model's; None of that itself."""
    p: float
    """Of that difference, raised for the number of models (Holm)."""
    costs: list[Cost]

    @property
    def spread(self) -> float:
        """Standard deviation of the measure over repetitions; NaN of one."""
        return float(np.std(self.repeated, ddof=1)) if len(self.repeated) > 1 else math.nan

    @property
    def training_seconds(self) -> float:
        """Of one training, the median; NaN if none was timed."""
        found = [seconds for cost in self.costs for seconds in cost.training_seconds]
        return float(np.median(found)) if found else math.nan

    @property
    def passes(self) -> float:
        """Of one training, the mean."""
        return float(np.mean([passes for cost in self.costs for passes in cost.passes]))

    @property
    def prediction_seconds(self) -> float:
        """Of 1,000 slides."""
        return 1000 * math.fsum(cost.prediction_seconds for cost in self.costs) / sum(cost.predicted for cost in self.costs)


class Judged(NamedTuple):
    """All models side by side, the first first."""

    task: dict[str, Any]
    measure: str
    rows: list[Row]
    slides: int
    patients: int
    classes: dict[str, int]
    """How many patients are of each class, or with and without the event; one with slides of several is of the highest."""
    left_out: list[str]
    """Test slides that cannot be scored."""
    bootstrap: Bootstrap

    def apart(self, row: Row) -> bool:
        """Whether a model is told from the first at this confidence, as many as there are."""
        return row.p < 1 - self.bootstrap.confidence


def judge(runs: Mapping[str, Sequence[Repetition]], bootstrap: Bootstrap) -> Judged:
    """The figures of every model, and how it differs from the first by the measure of the task.

    Args:
        runs: The repetitions of each model, of the same slides and divisions; the first model is the one to compare with.
        bootstrap: How intervals are made.

    Raises:
        InputError: If the models were not judged on the same slides.
    """
    names = list(runs)
    scores = {name: [one.scores for one in runs[name]] for name in names}
    first = scores[names[0]]
    figures = {name: over_repetitions(scores[name], bootstrap) for name in names}
    measure = next(name for name in MEASURES if name in figures[names[0]])
    against = {name: paired(scores[name], first, bootstrap)[measure] for name in names[1:]}
    ps = dict(zip(against, holm([found.p for found in against.values()]), strict=True))
    once = np.ones((1, len(first[0].patients)))
    rows = [Row(name, figures[name], [float(one.drawn(once)[measure][0]) for one in scores[name]], against.get(name),
                ps.get(name, math.nan), [one.cost for one in runs[name]]) for name in names]
    task = runs[names[0]][0].task
    kinds = task["classes"] or ("without the event", "with the event")
    left_out = sorted({slide for one in runs[names[0]] for slide in one.left_out})
    patients = len(set(first[0].patients))
    return Judged(task, measure, rows, len(first[0].patients), patients, _classes(first[0], kinds), left_out, bootstrap)


def _classes(scores: GradedScores | RiskScores, names: Sequence[str]) -> dict[str, int]:
    highest: dict[str, int] = {}
    for patient, kind in zip(scores.patients, scores.strata.tolist(), strict=True):
        highest[patient] = max(kind, highest.get(patient, 0))
    return {name: sum(kind == place for kind in highest.values()) for place, name in enumerate(names)}
