"""Our side: milscope's own training, watched from outside, and the bare network that it is held against."""

import dataclasses
import importlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import milscope.progress
from milscope.configs import PretrainConfig


class _Enough(Exception):
    """The stretch of the loop that was to be measured is over."""


class _Watch:
    """Stands where the progress bar stands: learns of every step, and ends the training after enough of them."""

    def __init__(self) -> None:
        self.steps, self.decode = 0, True
        self.moments: list[tuple[float, int]] = []

    @contextmanager
    def progress(self, stage: str, total: int, unit: str, done: int = 0) -> Generator[Callable[[int], None]]:
        if stage == "decode" and not self.decode:
            raise _Enough
        yield self._advance if stage == "pretrain" else lambda count: None

    def _advance(self, cells: int) -> None:
        self.moments.append((time.perf_counter(), cells))
        if len(self.moments) > self.steps:
            raise _Enough


WATCH = _Watch()
if "milscope.pretrain" in sys.modules:
    raise ImportError("`_ours` should be imported before milscope.pretrain, which takes its progress bar when imported.")
milscope.progress.progress = WATCH.progress

from milscope.devices import choose_device, choose_precision, mixed_precision  # noqa: E402
from milscope.encoders import Encoder, Projector, quicken  # noqa: E402
from milscope.objectives import NTXent, Similarity  # noqa: E402
from milscope.surgery import SURGERIES  # noqa: E402


def loop(store: Path, table: object, out: Path, config: PretrainConfig, steps: int, *,
         decode: bool = True) -> float:
    """Views a second of `milscope.pretrain` itself, over that many steps after the first; nothing is left out.

    The same `out` again finds the decoded cells of the time before, as a resumed training does. Without `decode` it
    ends (with NaN) where it would decode them.
    """
    WATCH.steps, WATCH.decode, WATCH.moments = steps, decode, []
    try:
        importlib.import_module("milscope.pretrain").pretrain(store, table, out, config)
    except _Enough:
        if not WATCH.moments:
            return math.nan
        (begin, _), *rest = WATCH.moments
        return 2 * sum(cells for _, cells in rest) / (rest[-1][0] - begin)
    shutil.rmtree(out, ignore_errors=True)
    raise RuntimeError(f"the loop should make {steps + 1} steps. Found {len(WATCH.moments)}. Give more epochs.")


def settings(size: int, batch: int, **others: object) -> PretrainConfig:
    """The default training, long enough to be watched; settings that this version does not have are left out."""
    known = {field.name for field in dataclasses.fields(PretrainConfig)}
    return PretrainConfig(size=size, batch=batch, epochs=1000, **{key: others[key] for key in others if key in known})


class Bare:
    """The network with both losses on views that lie in memory: forward and two backward passes, and one step.

    Args:
        size: Side of a view, pixels.
        batch: Cells a step, half of them of positive slides; every cell has two views.
        precision: As in `PretrainConfig`.
    """

    def __init__(self, size: int, batch: int, precision: str = "auto") -> None:
        torch.manual_seed(0)
        self.device = choose_device("auto")
        self.precision = choose_precision(precision, self.device)
        encoder = Encoder("resnet18", size=size)
        quicken(encoder)
        self.encoder = encoder.to(self.device, memory_format=torch.channels_last).train()
        self.projector = Projector(encoder.features).to(self.device)
        self.parameters = [*self.encoder.parameters(), *self.projector.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-3, foreach=True)
        views = torch.rand(2 * batch, 3, size, size, device=self.device)
        self.views = views.to(memory_format=torch.channels_last)
        self.objectives = (NTXent(), Similarity())

    def losses(self) -> list[Tensor]:
        """Both losses of one joint forward pass."""
        with mixed_precision(self.device, self.precision):
            projections = self.projector(self.encoder(self.views)).float()
        return [objective(half.unflatten(0, (2, -1)))
                for objective, half in zip(self.objectives, projections.chunk(2), strict=True)]

    def gradients(self) -> list[tuple[Tensor, ...]]:
        """One gradient per task."""
        return [torch.autograd.grad(loss, self.parameters, retain_graph=keep)
                for loss, keep in zip(self.losses(), (True, False), strict=True)]

    def surgery(self, name: str) -> None:
        """One step with a rule of ours."""
        self._take(SURGERIES[name](None)(self.gradients())[0])

    def added(self) -> None:
        """One step on the sum of the same two backward passes, as anybody would write it."""
        first, second = self.losses()
        first.backward(retain_graph=True)
        second.backward()
        self._take([parameter.grad for parameter in self.parameters])

    def flat(self) -> None:
        """One step with surgery the plain way: both gradients flattened, copied, projected and copied back."""
        first, second = (torch.cat([part.flatten() for part in gradient]) for gradient in self.gradients())
        joined = project_flat(first, second).split([parameter.numel() for parameter in self.parameters])
        self._take([part.view_as(like) for part, like in zip(joined, self.parameters, strict=True)])

    def _take(self, gradient: list[Tensor]) -> None:
        for parameter, part in zip(self.parameters, gradient, strict=True):
            parameter.grad = part
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def project_flat(first: Tensor, second: Tensor) -> Tensor:
    """Adaptive surgery of two flat gradients, from the sentence in the paper."""
    dot = first @ second
    if dot >= 0:
        return first + second
    joined = (first - dot / second.square().sum() * second) + (second - dot / first.square().sum() * first)
    return joined * (first + second).norm() / joined.norm()
