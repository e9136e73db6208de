"""SimCLR as lightly's users write it: its transform, dataset, projection head and loss, in a DataLoader."""

import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from milscope.encoders import Encoder

# isort: split
# The import above mends a torchvision that does not load.
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform


class Lightly:
    """Training of a ResNet-18 with SimCLR on all cells.

    Args:
        folder: The crops, in any folders.
        size: Side of a view, pixels.
        batch: Cells a step.
        workers: Processes of the loader.
    """

    def __init__(self, folder: Path, size: int, batch: int, workers: int) -> None:
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone, head = Encoder("resnet18", size=size).backbone, SimCLRProjectionHead(512, 512, 128)
        self.network = nn.Sequential(backbone, head).to(self.device).train()
        self.loss = NTXentLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), 0.06, momentum=0.9, weight_decay=5e-4)
        self.dataset = LightlyDataset(str(folder), transform=SimCLRTransform(input_size=size))
        self.batch, self.workers = batch, workers

    def rate(self, steps: int) -> float:
        """Views a second over that many steps after the first, the loader running before and after."""
        sampler = RandomSampler(self.dataset, replacement=True, num_samples=(steps + 16) * self.batch)
        batches = iter(DataLoader(self.dataset, self.batch, sampler=sampler, num_workers=self.workers))
        self.step(next(batches)[0])
        start = time.perf_counter()
        for _ in range(steps):
            self.step(next(batches)[0])
        return 2 * self.batch * steps / (time.perf_counter() - start)

    def step(self, views: list[torch.Tensor]) -> None:
        """One step: two forward passes, one backward pass."""
        first, second = (self.network(view.to(self.device)) for view in views)
        self.optimizer.zero_grad()
        loss = self.loss(first, second)
        loss.backward()
        self.optimizer.step()
        loss.item()  # the progress bar of every step
