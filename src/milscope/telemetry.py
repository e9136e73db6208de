"""What a pretraining says of itself every epoch: losses, conflict of the gradients, spread of the features, speed."""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from milscope.surgery import Conflict

_MEANS = ("contrast", "contrast_over_chance", "similarity", "cosine", "conflict_share", "length_ratio", "rescale")


class Telemetry:
    """Means over the steps of one epoch, kept on the device so that no step waits for them.

    Args:
        state: Sums of an interrupted epoch, from `state()`.
    """

    COLUMNS = ("epoch", *_MEANS, "feature_std", "effective_rank", "learning_rate", "images_per_second", "waiting_share")

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        self._sums: dict[str, Tensor | float] = dict(state or {})
        self._started = time.monotonic()
        self._before = float(self._sums.get("cells", 0.0))
        self._waited = 0.0
        self.features: Float[Tensor, "cell feature"] | None = None

    def add(self, *, contrast: Tensor, contrast_over_chance: Tensor, similarity: Tensor, conflict: Conflict,
            learning_rate: float, cells: int) -> None:
        """Adds one step."""
        step = {"contrast": contrast, "contrast_over_chance": contrast_over_chance, "similarity": similarity,
                "cosine": conflict.cosine, "conflict_share": (conflict.cosine < 0).double(),
                "length_ratio": conflict.length_ratio.log(), "rescale": conflict.rescale, "steps": 1.0, "cells": float(cells)}
        for name, value in step.items():
            self._sums[name] = self._sums.get(name, 0.0) + (value.double() if isinstance(value, Tensor) else value)
        self._sums["learning_rate"] = learning_rate

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Counts the time within as time waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def state(self) -> dict[str, float]:
        """The sums so far, as plain numbers."""
        return {name: float(value) for name, value in self._sums.items()}

    def close(self) -> dict[str, float]:
        """The epoch's row of the log; the length ratio is a geometric mean, images are views."""
        sums = self.state()
        seconds = time.monotonic() - self._started
        row: dict[str, float] = {name: sums[name] / sums["steps"] for name in _MEANS}
        row["length_ratio"] = math.exp(row["length_ratio"])
        spread: dict[str, float] = {} if self.features is None else {
            "feature_std": feature_std(self.features), "effective_rank": effective_rank(self.features)}
        return {**row, **spread, "learning_rate": sums["learning_rate"],
                "images_per_second": 2 * (sums["cells"] - self._before) / seconds, "waiting_share": self._waited / seconds}


def feature_std(features: Float[Tensor, "cell feature"]) -> float:
    """Spread of the directions of features: 0 when all point one way, 1 when they point everywhere alike."""
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    return float((unit.var(0, correction=0).sum()).sqrt())


def effective_rank(features: Float[Tensor, "cell feature"]) -> float:
    """How many directions the features of a batch really use: exp of the entropy of their singular values.

    Source:
        Roy and Vetterli, The effective rank, 2007.
    """
    centred = features.float() - features.float().mean(0)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return float(torch.exp(torch.special.entr(share).sum()))
