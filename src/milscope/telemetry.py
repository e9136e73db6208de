"""What a pretraining says of itself every epoch: losses, conflict of the gradients, spread of the features, speed."""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from milscope.surgery import Conflict

_CONFLICT = ("cosine", "conflict_share", "length_ratio", "rescale")
GROUP = "cosine."
"""The columns `cosine.<part>`: conflict within one part of the networks."""


class Telemetry:
    """Means over the steps of one epoch, kept on the device so that no step waits for them.

    Args:
        state: Sums of an interrupted epoch, from `state()`.
    """

    def __init__(self, state: Mapping[str, float] | None = None) -> None:
        self._sums: dict[str, Tensor | float] = dict(state or {})
        self._started = time.monotonic()
        self._before = float(self._sums.get("cells", 0.0))
        self._waited = 0.0
        self.features: Float[Tensor, "cell feature"] | None = None

    def add(self, losses: Mapping[str, Tensor], conflict: Conflict, *, learning_rate: float, cells: int) -> None:
        """Adds one step: the tasks' losses, the conflict of their gradients, and of how many cells."""
        self._add("losses.", losses)
        self._add("", {"cosine": conflict.cosine, "conflict_share": (conflict.cosine < 0).double(),
                       "length_ratio": conflict.length_ratio.log(), "rescale": conflict.rescale,
                       "steps": 1.0, "cells": float(cells)})
        self._sums["learning_rate"] = learning_rate

    def add_groups(self, cosines: Mapping[str, Tensor]) -> None:
        """Adds the conflict within each part of the networks, in a step in which it was looked at."""
        self._add(GROUP, cosines)
        self._add("", {"looks": 1.0})

    def _add(self, prefix: str, values: Mapping[str, Tensor | float]) -> None:
        for name, value in values.items():
            added = value.double() if isinstance(value, Tensor) else value
            self._sums[prefix + name] = self._sums.get(prefix + name, 0.0) + added

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
        losses = {name: value for name, value in sums.items() if name.startswith("losses.")}
        row = {name.removeprefix("losses."): value / sums["steps"] for name, value in losses.items()}
        row |= {name: sums[name] / sums["steps"] for name in _CONFLICT}
        row["length_ratio"] = math.exp(row["length_ratio"])
        if self.features is not None:
            row |= {"feature_std": feature_std(self.features), "effective_rank": effective_rank(self.features)}
        row |= {"learning_rate": sums["learning_rate"], "images_per_second": 2 * (sums["cells"] - self._before) / seconds,
                "waiting_share": self._waited / seconds}
        return row | {name: value / sums["looks"] for name, value in sums.items() if name.startswith(GROUP)}


def group_cosines(names: Sequence[str], gradients: Sequence[Sequence[Tensor]]) -> dict[str, Float[Tensor, ""]]:
    """Cosine of the first two tasks' gradients within each part of the networks, in the order of the parts.

    Args:
        names: Of the parameters; a part is what they begin with (`encoder.backbone.layer1`, `projector`).
        gradients: Per task, the gradient of each parameter.
    """
    products: dict[str, list[Float[Tensor, " 3"]]] = {}
    for name, first, second in zip(names, gradients[0], gradients[1], strict=True):
        a, b = first.flatten(), second.flatten()
        part = name.removeprefix("encoder.backbone.").split(".")[0]
        products.setdefault(part, []).append(torch.stack([a.dot(b), a.dot(a), b.dot(b)]).double())
    sums = {part: torch.stack(each).sum(0) for part, each in products.items()}
    tiny = torch.finfo(torch.float64).tiny
    return {part: each[0] / (each[1] * each[2]).sqrt().clamp_min(tiny) for part, each in sums.items()}


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
