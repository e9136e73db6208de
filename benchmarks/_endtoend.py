"""milscope.endtoend itself, watched from outside, and the bare networks that it is held against."""

import importlib
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import milscope.progress

if "milscope.endtoend" in sys.modules:
    raise ImportError("`_endtoend` should be imported before milscope.endtoend, which takes its progress bar when imported.")


class _Enough(Exception):
    """The stretch of the loop that was to be measured is over."""


class _Watch:
    """Stands where the progress bar stands: learns of every step, and ends the training after enough of them."""

    def __init__(self) -> None:
        self.steps = 0
        self.moments: list[float] = []

    @contextmanager
    def progress(self, stage: str, total: int, unit: str, done: int = 0) -> Generator[Callable[[int], None]]:
        yield self._advance if stage == "endtoend" else lambda count: None

    def _advance(self, count: int) -> None:
        self.moments.append(time.perf_counter())
        if len(self.moments) > self.steps:
            raise _Enough


WATCH = _Watch()
milscope.progress.progress = WATCH.progress

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from _cells import Cells, render, repeated  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from milscope.configs import EndToEndConfig  # noqa: E402
from milscope.devices import choose_device, choose_precision, mixed_precision  # noqa: E402
from milscope.encoders import Encoder, quicken  # noqa: E402
from milscope.fitting import new_aggregator  # noqa: E402
from milscope.recompute import encode_apart, fixed_statistics, learn_apart  # noqa: E402
from milscope.store import Bags  # noqa: E402

HELD = 4
"""Slides that choose the epoch."""


def slides_of(home: Path, *, cells: int, side: int, train: int) -> Cells:
    """So many slides to train on, and a few to validate on, of so many cells each; few of them are different."""
    few = render(home / "few", cells=2 * cells, side=side, slides=2)
    many = repeated(few, home / "many", times=(train + HELD + 1) // 2)
    splits = ["validation"] * HELD + ["train"] * (len(many.table) - HELD)
    table = many.table.assign(abnormal=range(len(many.table)), split=splits)
    return Cells(many.folder, many.store, table.assign(abnormal=table["abnormal"] % 2).iloc[: train + HELD])


def loop(cells: Cells, out: Path, config: EndToEndConfig, steps: int) -> float:
    """Seconds a step of `milscope.endtoend` itself, over that many steps of an epoch after the first; nothing is left out.

    The same `out` again finds the decoded cells of the time before, and begins anew.
    """
    WATCH.steps, WATCH.moments = steps, []
    (work_of(out) / "checkpoint.safetensors").unlink(missing_ok=True)
    try:
        importlib.import_module("milscope.endtoend").endtoend(cells.store, cells.table, out, config)
    except _Enough:
        return (WATCH.moments[-1] - WATCH.moments[0]) / steps
    raise RuntimeError(f"the loop should make {steps + 1} steps. Found {len(WATCH.moments)}. Give more epochs.")


def work_of(out: Path) -> Path:
    """Where a training that is not over keeps what it has."""
    return out.parent / f".{out.name}.partial"


class Bare:
    """Encoder and ABMILX on views that lie in memory: forward, backward, AdamW.

    Args:
        config: What they are, and how many slides a step has.
        cells: Of a slide.
    """

    def __init__(self, config: EndToEndConfig, cells: int) -> None:
        torch.manual_seed(0)
        self.device = choose_device("auto")
        self.precision = choose_precision(config.precision, self.device)
        encoder = Encoder(config.encoder, size=config.size)
        quicken(encoder)
        self.encoder: nn.Module = encoder.to(self.device, memory_format=torch.channels_last).train()
        self.aggregator = new_aggregator(config.aggregator, encoder.features, [1], config.dropout, {}).to(self.device).train()
        self.networks = nn.ModuleList([self.encoder, self.aggregator])
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), config.learning_rate, fused=True)
        views = torch.rand(config.batch * cells, 3, config.size, config.size, device=self.device)
        self.views = views.to(memory_format=torch.channels_last)
        self.offsets = torch.arange(0, len(views) + 1, cells, device=self.device)
        self.targets = (torch.arange(config.batch, device=self.device) % 2).float()

    def encode(self, rows: Tensor) -> Tensor:
        """Features of some of the views."""
        with mixed_precision(self.device, self.precision):
            return self.encoder(self.views[rows]).float()

    def loss(self, features: Tensor) -> Tensor:
        """What the slide model makes of the features of all."""
        with mixed_precision(self.device, self.precision):
            logits = self.aggregator(Bags(features, self.offsets)).logits
        return functional.binary_cross_entropy_with_logits(logits.float().squeeze(1), self.targets)

    def step(self) -> None:
        """A step as anybody would write it."""
        with mixed_precision(self.device, self.precision):
            features = self.encoder(self.views).float()
        self.loss(features).backward()
        self._take()

    def fixed(self) -> "Bare":
        """From here on, batch normalisation goes by its running statistics."""
        fixed_statistics(self.encoder)
        return self

    def one_graph(self, parts: Sequence[Tensor]) -> None:
        """A step with one graph of all cells, whose encoder takes the same parts."""
        self.loss(torch.cat([self.encode(part) for part in parts])).backward()
        self._take()

    def in_parts(self, parts: Sequence[Tensor]) -> None:
        """The same step with one part's graph at a time."""
        leaf = encode_apart(self.encode, parts).requires_grad_()
        self.loss(leaf).backward()
        learn_apart(self.encode, parts, leaf.grad.split([len(part) for part in parts]))
        self._take()

    def _take(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def peak_on_device() -> float:
    """Most memory that the GPU had to give since it was asked last, bytes."""
    most = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return most


def table_of(cells: Cells, path: Path) -> Path:
    """The slide table as a file."""
    pd.DataFrame(cells.table).to_csv(path, index=False)
    return path
