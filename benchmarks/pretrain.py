"""Pretraining: what gradient surgery costs, and how near the whole loop comes to the bare network.

Measured in turn (A B A B …), median of the rounds, on random cells, in one run:

* ags_time_over_sum: a step with adaptive surgery over the same two backward passes simply added;
* flat_over_sum: surgery the plain way (both gradients flattened, copied, projected, copied back) over the same sum;
* loop_over_bare: cells a second of the whole step (fetch, augment, forward, two backwards, surgery, optimiser) over
  those of forward and two backwards on tensors already in memory.

    python benchmarks/pretrain.py [--size 64] [--batch 128] [--rounds 7] [--json FILE]
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import torch

from milscope.augment import Views
from milscope.encoders import Encoder, Projector, choose_device, choose_precision, mixed_precision
from milscope.objectives import NTXent, Similarity
from milscope.surgery import SURGERIES


class Step:
    """One training step in pieces, so that each piece can be left out."""

    def __init__(self, size: int, batch: int, channels: list[int]) -> None:
        torch.manual_seed(0)
        self.device = choose_device("auto")
        self.precision = choose_precision("auto", self.device)
        encoder = Encoder("resnet18", size=size, options={"channels": channels})
        self.encoder = encoder.to(self.device, memory_format=torch.channels_last).train()
        self.projector = Projector(encoder.features).to(self.device)
        self.parameters = [*self.encoder.parameters(), *self.projector.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, 1e-3, foreach=True)
        side = size * 9 // 8
        self.store = np.random.default_rng(0).integers(0, 256, (4096, side, side, 3), dtype=np.uint8)
        self.batch, self.views, self.draw = batch, Views(size), torch.Generator().manual_seed(0)
        self.ready = self.fetch()

    def fetch(self) -> torch.Tensor:
        rows = np.random.default_rng(1).integers(0, len(self.store), self.batch)
        cells = torch.from_numpy(self.store[rows]).to(self.device)
        return self.views(torch.cat([cells, cells]), self.draw)

    def gradients(self, views: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        with mixed_precision(self.device, self.precision):
            projections = self.projector(self.encoder(views)).float()
        halves = projections.chunk(2)
        losses = NTXent()(halves[0].unflatten(0, (2, -1))), Similarity()(halves[1].unflatten(0, (2, -1)))
        return [torch.autograd.grad(loss, self.parameters, retain_graph=keep)
                for loss, keep in zip(losses, (True, False), strict=True)]

    def join(self, gradients: list[tuple[torch.Tensor, ...]], how: str) -> None:
        joined = flat_surgery(*gradients) if how == "flat" else SURGERIES[how](None)(gradients)[0]
        for parameter, gradient in zip(self.parameters, joined, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def seconds(self, what: str) -> float:
        start = time.perf_counter()
        if what == "bare":
            self.gradients(self.ready)
        elif what == "loop":
            self.join(self.gradients(self.fetch()), "ags")
        else:
            self.join(self.gradients(self.ready), what)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def flat_surgery(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """The plain way, from the sentence in the paper."""
    a, b = (torch.cat([part.flatten() for part in gradient]) for gradient in (first, second))
    dot = a @ b
    if dot < 0:
        joined = (a - dot / b.square().sum() * b) + (b - dot / a.square().sum() * a)
        joined = joined * (a + b).norm() / joined.norm()
    else:
        joined = a + b
    return [part.view_as(like) for part, like in zip(joined.split([p.numel() for p in first]), first, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, ratios = [], {}
    for name, channels in (("ResNet-18", [64, 128, 256, 512]), ("ResNet-18, half width", [32, 64, 128, 256])):
        step = Step(arguments.size, arguments.batch, channels)
        sides = ("bare", "loop", "sum", "ags", "flat")
        times: dict[str, list[float]] = {side: [] for side in sides}
        for side in sides * 2:
            step.seconds(side)
        for _ in range(arguments.rounds):
            for side in sides:
                times[side].append(step.seconds(side))
        middle = {side: median(taken) for side, taken in times.items()}
        ratio = {"ags_time_over_sum": middle["ags"] / middle["sum"], "flat_over_sum": middle["flat"] / middle["sum"],
                 "loop_over_bare": middle["bare"] / middle["loop"]}
        ratios |= {key + ("" if name == "ResNet-18" else "_half_width"): round(value, 3) for key, value in ratio.items()}
        rates = " | ".join(f"{2 * arguments.batch / middle[side]:,.0f}" for side in sides)
        rows.append(f"| {name} | {rates} | " + " | ".join(f"{value:.3f}" for value in ratio.values()) + " |")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {step.device}, {step.precision}, torch {torch.__version__}"
    print(f"{machine}; {arguments.size} px, {2 * arguments.batch} views a step, median of {arguments.rounds}\n")
    print("| views a second | bare | loop | sum | ags | flat | " + " | ".join(ratio) + " |\n" + "|---" * 9 + "|")
    print("\n".join(rows))
    if arguments.json:
        versions = {each: version(each) for each in ("milscope", "torch", "timm")}
        arguments.json.write_text(json.dumps({"machine": machine, "versions": versions, "figures": rows, "ratios": ratios}))


if __name__ == "__main__":
    main()
