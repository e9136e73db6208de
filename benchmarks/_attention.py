"""Attention plus, every measurement in a process of its own: ours, and the formula with its matrices written out.

    python benchmarks/_attention.py SIDE CELLS PASSES      prints seconds and bytes as JSON
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from math import sqrt
from statistics import median
from typing import NamedTuple

import torch
from _timing import memory, seconds
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from milscope.aggregators import ABMILX
from milscope.aggregators._smoothing import smooth
from milscope.devices import choose_precision, mixed_precision
from milscope.store import Bags

HEADS, WIDTH, FEATURES = 8, 64, 512
CPU = torch.device("cpu")
WARM = 64
ENOUGH = 2.0
"""Seconds of passes after which no more are made."""


class Took(NamedTuple):
    """One pass."""

    seconds: float
    bytes: float
    """The most memory of the process above what it had before the data."""


def whole(cells: Tensor, scores: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The formula for all heads at once."""
    queries, keys = ((cells @ weight.T).transpose(0, 1) for weight in (query, key))
    return ((queries @ keys.mT).softmax(2) @ scores.T[:, :, None]).squeeze(2).T


def by_head(cells: Tensor, scores: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The formula one head after the other, each computed again in the backward pass, so that one matrix is held."""
    heads = zip(cells.split(1, 1), scores.split(1, 1), strict=True)
    return torch.cat([checkpoint(whole, own, values, query, key, use_reentrant=False) for own, values in heads], 1)


SIDES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {"ours": smooth, "whole": whole, "by head": by_head}


def needs(side: str, cells: int, passes: str) -> float:
    """Bytes that a side holds at once, at the least: the softmax and what it is made of, or its gradient too."""
    matrices = 3 if passes == "training" else 2
    width = 4 if choose_precision("auto", CPU) == torch.float32 else 2
    return {"whole": HEADS, "by head": 1}.get(side, 0) * matrices * width * cells**2


def alone(side: str, cells: int, passes: str) -> Took:
    """A pass in a new process."""
    command = [sys.executable, __file__, side, str(cells), passes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def attention(side: str, cells: int, passes: str) -> Callable[[], None]:
    """A pass of attention plus by itself."""
    training = passes == "training"
    chance = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=chance) for shape in ((cells, HEADS, WIDTH), (cells, HEADS))]
    given += [torch.randn(WIDTH, WIDTH, generator=chance) / scale for scale in (WIDTH, sqrt(WIDTH))]
    given = [each.requires_grad_(training) for each in given]

    def work() -> None:
        with torch.set_grad_enabled(training), mixed_precision(CPU, choose_precision("auto", CPU)):
            found = SIDES[side](*given)
        if training:
            torch.autograd.grad(found.float().sum(), given)

    return work


def model(options: dict, cells: int, passes: str) -> Callable[[], None]:
    """A pass of the whole slide model, its features included; in training they get a gradient, as end to end."""
    training = passes == "training"
    torch.manual_seed(0)
    network: nn.Module = ABMILX(FEATURES, 2, **options).train(training)
    bags = Bags(torch.randn(cells, FEATURES).requires_grad_(training), torch.tensor([0, cells]))

    def work() -> None:
        with torch.set_grad_enabled(training), mixed_precision(CPU, choose_precision("auto", CPU)):
            logits = network(bags).logits.float()
        if training:
            bags.features.grad = None
            network.zero_grad()
            (logits[:, 1] - logits[:, 0]).sum().backward()

    return work


def measure(side: str, cells: int, passes: str) -> Took:
    """Passes until enough time went by, after one with a few cells, which loads what torch loads when it is first used."""
    make = partial(model, {}) if side == "model" else partial(attention, side)
    make(WARM, passes)()
    before = memory("VmRSS")
    work, taken = make(cells, passes), []
    while sum(taken) < ENOUGH:
        taken.append(seconds(work, CPU))
    return Took(median(taken), memory("VmHWM") - before)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])._asdict()))
