"""How well the cells of a slide are ordered."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn import metrics as sklearn

from milscope.metrics._bootstrap import Bootstrap, Interval, bounds, group_ends, ratio, resample

DEPTHS = (10, 20, 50, 100, 400)
"""How many top cells of a slide are looked at when recall and precision are told."""


def cell_metrics(
    scores: Float[np.ndarray, " cell"], witness: Bool[np.ndarray, " cell"], depths: Sequence[int] = DEPTHS
) -> dict[str, float]:
    r"""How well one slide's cells are ordered: the witnesses should come first.

    $$ recall@k = E[found(k)] / W, \quad precision@k = E[found(k)] / \min(k, n), \quad
       enrichment@k = precision@k / (W / n) $$

    found(k) is the number of witnesses among the min(k, n) best cells; W the witnesses, n the cells of the slide.
    Where cells of equal score straddle the cut, its expectation over a random order among them is taken, in closed
    form; equal scores count half in the AUC and are one threshold in the average precision. `recall_at_witnesses` is
    taken at k = W, where it equals the precision. Without a witness only the precision is defined (0); the AUC also
    needs a normal cell. What is undefined is NaN.

    Args:
        scores: Higher is more suspicious.
        witness: Whether each cell is one.
        depths: The k of recall, precision and enrichment.
    """
    cells, witnesses = len(scores), int(witness.sum())
    hits = found(scores, witness, np.array([*depths, witnesses]))
    both = 0 < witnesses < cells
    values = {
        "auc": float(sklearn.roc_auc_score(witness, scores)) if both else np.nan,
        "average_precision": float(sklearn.average_precision_score(witness, scores)) if witnesses else np.nan,
    }
    for depth, hit in zip(depths, hits, strict=False):
        precision = hit / min(depth, cells) if cells else np.nan
        values[f"recall_at_{depth}"] = hit / witnesses if witnesses else np.nan
        values[f"precision_at_{depth}"] = precision
        values[f"enrichment_at_{depth}"] = precision * cells / witnesses if witnesses else np.nan
    values["recall_at_witnesses"] = hits[-1] / witnesses if witnesses else np.nan
    return {name: float(value) for name, value in values.items()}


def found(
    scores: Float[np.ndarray, " cell"], witness: Bool[np.ndarray, " cell"], depths: Shaped[np.ndarray, " depth"]
) -> Float[np.ndarray, " depth"]:
    """The expected number of witnesses among the best `depths` cells, over random orders among equal scores."""
    order = np.argsort(-scores, kind="stable")
    ends = group_ends(scores[order])
    reached = np.cumsum(witness[order], dtype=float)[ends]
    return np.interp(depths, np.concatenate([[0], ends + 1]), np.concatenate([[0.0], reached]))


def mean_over_slides(
    values: Mapping[str, Float[np.ndarray, " slide"]], patients: Sequence[str], bootstrap: Bootstrap | None = None
) -> dict[str, Interval]:
    """The mean of per-slide figures over the slides for which each is defined, with its interval over patients."""
    bootstrap = bootstrap or Bootstrap()
    table = np.stack([np.asarray(column, dtype=float) for column in values.values()], axis=1)
    means, low, high = mean_curve(table, patients, bootstrap)
    return {name: Interval(*map(float, row)) for name, *row in zip(values, means, low, high, strict=True)}


def mean_curve(
    table: Float[np.ndarray, "slide point"], patients: Sequence[str], bootstrap: Bootstrap
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], Float[np.ndarray, " point"]]:
    """Means over slides, and the lower and upper bounds of each, point by point; NaN entries are left out."""
    defined = np.isfinite(table)
    filled = np.where(defined, table, 0.0)
    blocks = resample(patients, np.ones(len(table), dtype=bool), bootstrap)
    drawn = np.concatenate([ratio(weights @ filled, weights @ defined) for weights in blocks])
    low, high = np.array([bounds(column, bootstrap.confidence) for column in drawn.T]).T
    return ratio(filled.sum(0), defined.sum(0).astype(float)), low, high
