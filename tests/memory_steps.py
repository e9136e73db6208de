"""Plans, and trains by the plan, in a process of its own: prints what was expected and the most that was taken, bytes.

    python tests/memory_steps.py MEMORY SAMPLER CELLS
"""

import copy
import json
import sys
from pathlib import Path

import torch

from milscope.aggregators import ABMILX
from milscope.augment import Views, centre
from milscope.configs import EndToEndConfig
from milscope.devices import mixed_precision
from milscope.encoders import Encoder, quicken
from milscope.memory import LOOKED, Plan, plan_memory
from milscope.recompute import encode_apart, learn_apart, statistics_kept
from milscope.store import Bags

CPU, SIDE = torch.device("cpu"), 72
torch.set_num_threads(1)


class Networks:
    """All that training keeps."""

    def __init__(self, config: EndToEndConfig, cells: list[int]) -> None:
        torch.manual_seed(0)
        self.encoder = Encoder("resnet18", size=64)
        quicken(self.encoder)
        self.encoder = self.encoder.to(memory_format=torch.channels_last).train()
        self.model = ABMILX(self.encoder.features, 2)
        self.plan = plan_memory(config, self.encoder, self.model, side=SIDE, rows=cells, device=CPU)
        self.optimizer = torch.optim.AdamW([*self.encoder.parameters(), *self.model.parameters()], foreach=True)
        self.copies = [copy.deepcopy((self.encoder, self.model)) for _ in ("average", "best")]
        self.views = Views(64, colour=config.colour, stain=config.stain, orientations=config.orientations,
                           resize=config.resize)

    def step(self, rows: int) -> None:
        """A step on one slide of so many rows, whose decoded cells come as they are needed."""
        parts = torch.arange(rows).tensor_split(-(-rows // self.plan.chunk))
        draw = self.views.draw(rows, SIDE, torch.Generator().manual_seed(0))

        def encode(some: torch.Tensor) -> torch.Tensor:
            return self.encode(self.views.apply(pixels(len(some)), draw.of(some)))

        features = encode(parts[0]) if len(parts) == 1 else encode_apart(encode, parts)
        leaf = features.detach().clone().requires_grad_()
        with mixed_precision(CPU, self.plan.precision):
            self.model(Bags(leaf, torch.tensor([0, rows]))).logits.sum().backward()
        gradients = [leaf.grad[part] for part in parts]
        if len(parts) == 1:
            features.backward(gradients[0])
        else:
            with statistics_kept(self.encoder):
                learn_apart(encode, parts, gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def encode(self, views: torch.Tensor) -> torch.Tensor:
        with mixed_precision(CPU, self.plan.precision):
            return self.encoder(views.to(memory_format=torch.channels_last)).float()


def pixels(rows: int) -> torch.Tensor:
    return torch.randint(0, 255, (rows, SIDE, SIDE, 3), dtype=torch.uint8)


def run(memory: str, sampler: str, cells: int) -> Plan:
    config = EndToEndConfig(memory=memory, sampler=sampler, budget=0, batch=1)
    networks = Networks(config, [cells])
    for _ in range(2):
        networks.step(min(cells, networks.plan.budget or cells))
    with torch.no_grad():
        networks.encode(centre(pixels(LOOKED * networks.plan.chunk), 64))
    return networks.plan


def status(name: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith(name + ":"))


if __name__ == "__main__":
    plan = run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print(json.dumps({"chunk": plan.chunk, "budget": plan.budget, "expected": plan.expected,
                      "most": status("VmHWM") - status("RssFile")}))
