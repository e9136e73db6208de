"""Slide models of several tasks, every measurement in a process of its own.

    python benchmarks/_multitask.py SIDE TASKS CELLS PASSES      prints seconds, bytes and parameters as JSON
"""

import json
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from _timing import memory, seconds
from torch import nn

from milscope.aggregators import AGGREGATORS
from milscope.devices import choose_precision, mixed_precision
from milscope.store import Bags

FEATURES = 384
"""Of LeViT-128S."""
CPU = torch.device("cpu")
WARM = 64
ENOUGH = 2.0
"""Seconds of passes after which no more are made."""
SIDES = {"one mecds": "mecds", "a mecds each": "mecds", "an abmil-gated each": "abmil-gated", "a transmil each": "transmil"}
"""What answers all tasks → its aggregator; the first at once, the others with a model for each task."""


class Took(NamedTuple):
    """One pass of all tasks over one slide."""

    seconds: float
    bytes: float
    """The most memory of the process above what it had before the slide."""
    parameters: int


def alone(side: str, tasks: int, cells: int, passes: str) -> Took:
    """A pass in a new process."""
    command = [sys.executable, __file__, side, str(tasks), str(cells), passes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Took(**json.loads(done.stdout.splitlines()[-1]))


def models(side: str, tasks: int) -> nn.ModuleList:
    """What answers that many tasks of two classes."""
    torch.manual_seed(0)
    kind = AGGREGATORS[SIDES[side]]
    if side == "one mecds":
        return nn.ModuleList([kind(FEATURES, 2 * tasks, outputs=[2] * tasks)])
    own = {"outputs": [2]} if kind.by_task else {}
    return nn.ModuleList(kind(FEATURES, 2, **own) for _ in range(tasks))


def work_of(networks: nn.ModuleList, cells: int, passes: str) -> Callable[[], None]:
    """A pass: the models one after the other, in training each with its backward pass."""
    training = passes == "training"
    networks.train(training)
    bags = Bags(torch.randn(cells, FEATURES, generator=torch.Generator().manual_seed(0)), torch.tensor([0, cells]))

    def work() -> None:
        networks.zero_grad()
        for network in networks:
            with torch.set_grad_enabled(training), mixed_precision(CPU, choose_precision("auto", CPU)):
                logits = network(bags).logits.float()
            if training:
                logits.square().mean().backward()

    return work


def measure(side: str, tasks: int, cells: int, passes: str) -> Took:
    """Passes until enough time went by, after one with a few cells, which loads what torch loads when it is first used."""
    networks = models(side, tasks)
    work_of(networks, WARM, passes)()
    before = memory("VmRSS")
    work, taken = work_of(networks, cells, passes), []
    while sum(taken) < ENOUGH:
        taken.append(seconds(work, CPU))
    parameters = sum(parameter.numel() for parameter in networks.parameters())
    return Took(median(taken), memory("VmHWM") - before, parameters)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])._asdict()))
