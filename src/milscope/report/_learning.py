"""How the encoder and the slide model learned, as charts with a sentence on how to read each."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from milscope.report import _charts as charts
from milscope.report._charts import Chart

_PRETRAINING: tuple[tuple[str, str, dict[str, str], dict[str, Any], str], ...] = (
    ("contrast", "Telling cells apart", {"contrast_over_chance": "contrast"},
     {"axis": "contrast loss / chance", "reference": (1.0, "chance: collapse")},
     "How well the encoder recognises the same cell in two views among cells of abnormal slides. It should fall well below "
     "1, the value of an encoder that sees no difference."),
    ("similarity", "Keeping normal cells together", {"similarity": "similarity"}, {"axis": "similarity loss"},
     "How far apart cells of normal slides still lie. Falling is good only while the chart before falls as well: an encoder "
     "that maps everything to one point has no loss here."),
    ("conflict", "Do the two aims pull against each other?", {"cosine": "cosine of the gradients", "conflict_share":
     "share of steps in conflict"}, {"axis": "cosine, share", "reference": (0.0, "no conflict"), "limits": (-1.05, 1.05)},
     "A cosine below 0 means that a step for one aim undoes the other; −1 that they cancel. The gradient surgery removes the "
     "opposing parts."),
    ("balance", "Which aim is stronger?", {"length_ratio": "length ratio", "rescale": "length after surgery"},
     {"axis": "ratio", "reference": (1.0, "equal")},
     "Length of one aim's gradient over the other's, and how much longer (above 1) or shorter (below 1) the surgery made the "
     "step. Both near 1 is calm."),
    ("spread", "Spread of the features", {"feature_std": "spread"}, {"axis": "spread (0 to 1)", "limits": (0, 1.02)},
     "0 means that all cells look alike to the encoder (collapse)."),
    ("rank", "Directions in use", {"effective_rank": "effective rank"}, {"axis": "effective rank"},
     "How many independent properties of a cell the features really describe. A few only: little to go by."),
)


def pretraining(log: pd.DataFrame) -> Iterator[Chart]:
    """The curves of the encoder's training that have something to show."""
    if "epoch" not in log or not len(log):
        return
    alone = "cosine" in log and bool((log["cosine"] == 1).all())  # one aim: nothing pulls against it
    for name, title, columns, options, reading in _PRETRAINING:
        if alone and name in ("conflict", "balance"):
            continue
        lines = charts.lines_of(log, columns)
        if lines:
            yield Chart(title, charts.epochs(f"pretrain-{name}", options["axis"], lines, reference=options.get("reference"),
                                             limits=options.get("limits")), reading)
    parts = [column for column in log if str(column).startswith("cosine.")]
    shown = [parts[place] for place in np.linspace(0, len(parts) - 1, min(len(parts), len(charts.SERIES))).round().astype(int)]
    lines = charts.lines_of(log, {column: str(column).removeprefix("cosine.") for column in shown})
    if lines:
        yield Chart("Where in the encoder do they conflict?", charts.epochs(
            "pretrain-parts", "cosine of the gradients", lines, reference=(0.0, "no conflict"), limits=(-1.05, 1.05)),
            "The same within parts of the encoder, from its input to the projector. Below 0 they want opposite changes there.")


def training(log: pd.DataFrame, whose: str = "") -> Iterator[Chart]:
    """Loss of each slide model, the validation AUC of all, and how far ABMILX's attention is smoothed.

    Args:
        log: One row per epoch.
        whose: Of which model, where the page shows the training of two.
    """
    begin, of = (f"train-{whose}", f", {whose}") if whose else ("train", "")
    if "epoch" not in log or not len(log):
        return
    models = [str(name) for name in log["aggregator"].unique()] if "aggregator" in log else ["model"]
    parts = {name: log[log["aggregator"] == name] if "aggregator" in log else log for name in models}
    for place, (name, part) in enumerate(parts.items()):
        lines = charts.lines_of(part, {"train_loss": "training", "validation_loss": "validation"})
        if lines:
            yield Chart(f"Loss of {name}{of}", charts.epochs(f"{begin}-loss-{place}", "loss per slide", lines),
                        "Lower is better. When validation rises while training falls, the model learns its slides by heart; "
                        "the pass with the best validation is kept.")
    aucs = [line for name, part in parts.items() for line in charts.lines_of(part, {"validation_auc": name})]
    if aucs:
        yield Chart(f"Slides told apart (validation){of}", charts.epochs(f"{begin}-auc", "AUC", aucs[:len(charts.SERIES)],
                                                                         reference=(0.5, "guessing"), limits=(0, 1.03)),
                    "On patients not trained on. With few validation slides it moves in large steps.")
    shared = charts.lines_of(log, {"alpha": "alpha"})
    if shared:
        yield Chart("How far like cells share their attention",
                    charts.epochs(f"{begin}-alpha", "alpha", shared, reference=(0.0, "not at all")),
                    "ABMILX adds to the attention of a cell, before it becomes a share, alpha times that of the cells that are "
                    "like it. Below 0 it sets a cell apart from its like.")
