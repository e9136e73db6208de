"""Operating points: thresholds that keep a promised sensitivity, the band that is left to a person, and the temperature."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import bdtr, log_softmax

from milscope.types import refuse

Guarantee = Literal["exact", "expected"]
GUARANTEES: tuple[Guarantee, ...] = ("exact", "expected")
TEMPERATURES = (0.05, 20.0)
"""No temperature is sought outside of these."""
ROUNDING = 1e-9
"""Slack of comparisons that rounding would decide, such as 10 · (1 − 0.9) against 1."""


class Band(NamedTuple):
    """Where decisions change: negative below `lower`, positive from `upper` on, left to a person between.

    Where `upper` is not above `lower` there is no band, and one threshold, `lower`, decides; both promises still hold,
    for a score that is called positive then lies above both.

    >>> Band(-1.0, 2.0).decide(np.array([-1.5, -1.0, 1.9, 2.0])).tolist()
    ['negative', 'review', 'review', 'positive']
    >>> Band(0.5, 0.1).decide(np.array([0.2, 0.5])).tolist()
    ['negative', 'positive']
    """

    lower: float
    upper: float

    def decide(self, scores: Float[np.ndarray, " slide"]) -> np.ndarray:
        """negative, review or positive for each score.

        Raises:
            InputError: If a score is not a number.
        """
        if np.isnan(scores).any():
            raise refuse("scores", "numbers", f"nan for {int(np.isnan(scores).sum())} of {len(scores)}",
                         "Leave such slides out.")
        return np.where(scores < self.lower, "negative", np.where(scores >= self.upper, "positive", "review"))


class Operating(NamedTuple):
    """A frozen operating point; plain values, so that it goes into JSON by `_asdict()` and comes back by `Operating(**…)`.

    Both thresholds are in the units of the scores that they were chosen on: suspicion logits after the temperature.
    """

    threshold: float
    """Positive, or at least to be reviewed, from this score on."""
    sensitivity: float
    """The promise: the share of positive patients that score at or above the threshold."""
    confidence: float | None
    """Share of calibration sets for which it holds; None where it holds on average over them (`expected`)."""
    guarantee: Guarantee
    """What the promise means; see `threshold_for_sensitivity`."""
    positives: int
    """Positive patients that the threshold was chosen on."""
    missed: int
    """Those of them below the threshold."""
    negatives: int
    """Negative patients beside them."""
    cleared: int
    """Those of them below the threshold."""
    upper: float | None = None
    """Positive without review from this score on; None where no review was asked for."""
    specificity: float | None = None
    """The promise of `upper`: the share of negative patients that score below it."""
    temperature: float = 1.0
    """What logits were divided by before."""

    @property
    def band(self) -> Band:
        """The decisions."""
        return Band(self.threshold, self.threshold if self.upper is None else self.upper)


def operating_point(
    scores: Float[np.ndarray, " patient"], targets: Int[np.ndarray, " patient"], sensitivity: float,
    guarantee: Guarantee = "exact", *, confidence: float = 0.95, specificity: float | None = None, temperature: float = 1.0,
) -> Operating:
    """The operating point that keeps the promise, from patients on whom nothing else was chosen.

    Args:
        scores: Each patient's highest suspicion logit, after the temperature (`patients_highest`).
        targets: 1 for a positive patient, 0 for a negative one.
        sensitivity: The least share of positive patients at or above the threshold.
        guarantee: `exact` or `expected`; see `threshold_for_sensitivity`.
        confidence: For `exact`: the share of calibration sets for which the promise holds. For `expected` without use.
        specificity: The least share of negative patients below the upper edge of a review band; None for no band.
        temperature: What the logits were divided by, for the record. It must not be fitted on these patients unless it
            leaves their order as it is (two classes).

    Raises:
        InputError: If there are too few positive or negative patients for the promise.
    """
    positive, negative = scores[targets == 1], scores[targets == 0]
    threshold = threshold_for_sensitivity(positive, sensitivity, confidence, guarantee)
    upper = None if specificity is None else threshold_for_specificity(negative, specificity, confidence, guarantee)
    return Operating(
        threshold, sensitivity, confidence if guarantee == "exact" else None, guarantee,
        positives=len(positive), missed=int((positive < threshold).sum()),
        negatives=len(negative), cleared=int((negative < threshold).sum()),
        upper=upper, specificity=specificity, temperature=temperature)


def threshold_for_sensitivity(
    scores: Float[np.ndarray, " patient"], sensitivity: float, confidence: float = 0.95, guarantee: Guarantee = "exact"
) -> float:
    r"""The largest threshold that keeps a promised sensitivity on new patients of the same kind, whatever the scores' law.

    It is the k-th smallest of the n scores; what lies at or above it is called positive. With $s$ the sensitivity and
    $c$ the confidence, k is the largest with

    $$ P(\mathrm{Bin}(n, 1-s) \le k - 1) \le 1 - c \;\; (\text{exact}), \qquad k \le (n + 1)(1 - s) \;\; (\text{expected}). $$

    *exact*: for at least a share c of calibration sets the true sensitivity is at least s. The lower Clopper–Pearson limit
    of k − 1 misses among n is then at least s. *expected*: the true sensitivity is at least s on average over calibration
    sets; about half of them fall short of it. Equal scores only raise the sensitivity.

    Args:
        scores: One per positive patient, the higher the more suspicious.
        sensitivity: s, above 0 and below 1.
        confidence: c, above 0 and below 1.
        guarantee: `exact` or `expected`.

    Raises:
        InputError: If s or c are out of range, a score is not finite, or there are too few patients; the line says how
            many are needed.

    Source:
        Exact: Wilks, Determination of sample sizes for setting tolerance limits, 1941; Clopper and Pearson, 1934.
        Expected: Vovk, Gammerman, Shafer, Algorithmic learning in a random world, 2005, chapter 4; Papadopoulos and
        others, Inductive confidence machines, 2002.
    """
    return _threshold(scores, "sensitivity", sensitivity, confidence, guarantee)


def threshold_for_specificity(
    scores: Float[np.ndarray, " patient"], specificity: float, confidence: float = 0.95, guarantee: Guarantee = "exact"
) -> float:
    """The smallest threshold that keeps a promised specificity: what lies at or above it is called positive.

    The mirror of `threshold_for_sensitivity`: the next number above the k-th largest score, since a negative patient with
    that very score is not to be called positive. Both promises together hold with confidence 1 − 2(1 − c) at least.

    Args:
        scores: One per negative patient, the higher the more suspicious.
        specificity: The least share of negative patients below the threshold.
        confidence: For `exact`, the share of calibration sets for which it holds.
        guarantee: `exact` or `expected`.

    Raises:
        InputError: As for `threshold_for_sensitivity`.
    """
    return float(np.nextafter(-_threshold(-scores, "specificity", specificity, confidence, guarantee), np.inf))


def patients_needed(share: float, confidence: float, guarantee: Guarantee) -> int:
    """The fewest positive patients for a promised sensitivity (negative ones for a specificity).

    >>> patients_needed(0.98, 0.95, "exact"), patients_needed(0.98, 0.95, "expected")
    (149, 49)
    """
    if guarantee == "exact":
        return math.ceil(math.log1p(-confidence) / math.log(share) - ROUNDING)
    return math.ceil(share / (1 - share) - ROUNDING)


def rank_for(patients: int, share: float, confidence: float, guarantee: Guarantee) -> int:
    """k: the threshold is the k-th smallest score of that many patients; 0 if they are too few."""
    if guarantee == "exact":
        below = bdtr(np.arange(patients, dtype=float), patients, 1 - share)  # P(Bin(n, 1 − s) ≤ k − 1) for k = 1, 2, …
        return int((below <= (1 - confidence) * (1 + ROUNDING)).sum())
    return math.floor((patients + 1) * (1 - share) + ROUNDING)


def patients_highest(
    patients: Sequence[str], scores: Float[np.ndarray, " slide"], targets: Float[np.ndarray, " slide"]
) -> tuple[list[str], Float[np.ndarray, " patient"], Int[np.ndarray, " patient"]]:
    """The patients in the order of their names, the highest score of each, and 1 for those with a positive slide.

    Args:
        patients: Whose slide it is.
        scores: The suspicion of each slide.
        targets: 1, 0, or NaN for a slide of unknown label, which is left out.

    >>> patients_highest(["b", "a", "b"], np.array([0.5, 1.0, 2.0]), np.array([1.0, 0.0, 0.0]))
    (['a', 'b'], array([1., 2.]), array([0, 1]))
    """
    known = ~np.isnan(targets)
    names, owner = np.unique(np.asarray(patients, dtype=str)[known], return_inverse=True)
    highest, positive = np.full(len(names), -np.inf), np.zeros(len(names), dtype=int)
    np.maximum.at(highest, owner, scores[known])
    np.maximum.at(positive, owner, (targets[known] > 0).astype(int))
    return names.tolist(), highest, positive


def fit_temperature(logits: Float[np.ndarray, "slide *classes"], targets: Int[np.ndarray, " slide"]) -> float:
    r"""What logits are to be divided by so that their softmax says how often it is right.

    $$ T = \arg\min_T -\frac{1}{n} \sum_i \log \mathrm{softmax}(z_i / T)_{y_i} $$

    The sum is convex in 1/T, so that there is one minimum; it is sought between 0.05 and 20. Where the slides cannot tell
    T (all of one class, or not one of them wrong, when ever steeper logits fit ever better), T is 1: nothing is changed.

    Args:
        logits: One per class, or one per slide: the logit of class 1 against class 0.
        targets: The class of each slide.

    Raises:
        InputError: If a logit is not finite, or a target is none of the classes.

    Source:
        Guo, Pleiss, Sun, Weinberger, On calibration of modern neural networks, 2017, section 4.2.
    """
    both = np.stack([np.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
    both = both.astype(np.float64)
    if not np.isfinite(both).all():
        raise refuse("logits", "finite", "nan or inf", "Leave such slides out.")
    if len(targets) and not 0 <= targets.min() <= targets.max() < both.shape[1]:
        raise refuse("targets", f"classes 0 to {both.shape[1] - 1}", f"{targets.min()} to {targets.max()}", "Correct them.")
    own = both[np.arange(len(targets)), targets]
    if len(np.unique(targets)) < 2 or (own >= both.max(1)).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        return -log_softmax(both / math.exp(log_temperature), axis=1)[np.arange(len(targets)), targets].mean()

    low, high = map(math.log, TEMPERATURES)
    return math.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def _threshold(
    scores: Float[np.ndarray, " patient"], name: str, share: float, confidence: float, guarantee: Guarantee
) -> float:
    for label, value in ((name, share), ("confidence", confidence)):
        if not 0 < value < 1:
            raise refuse(label, "above 0 and below 1", value, "For example 0.95.")
    if guarantee not in GUARANTEES:
        raise refuse("guarantee", " or ".join(GUARANTEES), guarantee, "Choose one.")
    if not np.isfinite(scores).all():
        raise refuse("scores", "finite", f"{int((~np.isfinite(scores)).sum())} of {len(scores)} that are not",
                     "Leave such patients out.")
    rank = rank_for(len(scores), share, confidence, guarantee)
    if rank < 1:
        raise _too_few(name, len(scores), share, confidence, guarantee)
    return float(np.sort(scores)[rank - 1])


def _too_few(name: str, patients: int, share: float, confidence: float, guarantee: Guarantee) -> Exception:
    """The line that says how many patients there are, how many are needed, and every way out that these patients leave."""
    kind = {"sensitivity": "positive", "specificity": "negative"}[name]
    needed, on_average = (patients_needed(share, confidence, each) for each in GUARANTEES)
    exact = guarantee == "exact"
    promise = f"{name} {share:g} with confidence {confidence:g}" if exact else f"{name} {share:g} on average"
    ways = [f"Set aside at least {needed if exact else on_average} {kind} patients"]
    if patients:
        most = (1 - confidence) ** (1 / patients) if exact else patients / (patients + 1)
        ways.append(f"lower the {name} to {_down(most)}" if most >= 0.001 else f"lower the {name}")
    if patients and exact:
        surest = 1 - share**patients
        ways.append(f"lower the confidence to {_down(surest)}" if surest >= 0.001 else "lower the confidence")
    if exact and patients >= on_average:
        ways.append('take the guarantee "expected"')
    return refuse(f"{kind} patients", f"at least {needed if exact else on_average} to promise {promise}", patients,
                  f"{', '.join(ways[:-1])}{', or ' if len(ways) > 1 else ''}{ways[-1]}.")


def _down(share: float) -> str:
    return f"{math.floor(share * 1000) / 1000:g}"
