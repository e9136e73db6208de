"""The plain way of SLAM-AGS, written from its description: what the papers' code does in spirit.

Each view is decoded and changed by itself with Pillow in the workers of a DataLoader; float32, channels first; four
forward passes (two views of either half); the graphs are kept; gradients are flattened, copied and projected.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _ours import project_flat
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler

from milscope.encoders import Encoder

# isort: split
# The import above mends a torchvision that does not load.
from torchvision import transforms


class Crops(Dataset):
    """Two views of every image of some folders, the image decoded for each."""

    def __init__(self, folders: list[Path], size: int) -> None:
        self.paths = sorted(path for folder in folders for path in folder.glob("*.jpg"))
        self.transform = transforms.Compose([
            transforms.RandomCrop(size),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.Lambda(lambda image: image.rotate(90 * int(torch.randint(4, ())))),
            transforms.ColorJitter(0.1, 0.1, 0.1, 0.1),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first, second = (self.transform(Image.open(self.paths[index]).convert("RGB")) for _ in range(2))
        return first, second


class Plain:
    """The plain training of a ResNet-18.

    Args:
        folder: A folder of crops for each slide, positive and negative in turn.
        size: Side of a view, pixels.
        batch: Cells a step, half of them of positive slides.
        workers: Processes of both loaders together.
    """

    def __init__(self, folder: Path, size: int, batch: int, workers: int) -> None:
        torch.manual_seed(0)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = Encoder("resnet18", size=size).backbone
        projector = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))
        self.network = nn.Sequential(network, projector).to(self.device).train()
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, 1e-3, momentum=0.9, weight_decay=1e-4)
        slides = sorted(folder.iterdir())
        self.batch, self.workers = batch, workers
        self.halves = [Crops(half, size) for half in (slides[1::2], slides[::2])]

    def rate(self, steps: int) -> float:
        """Views a second over that many steps after the first, the loaders running before and after."""
        batches = zip(*(self._endless(half, steps) for half in self.halves), strict=True)
        self.step(*next(batches))
        start = time.perf_counter()
        for _ in range(steps):
            self.step(*next(batches))
        return 2 * self.batch * steps / (time.perf_counter() - start)

    def step(self, positive: list[Tensor], negative: list[Tensor]) -> None:
        """One step: four forward passes, two backward passes, surgery."""
        first, second = ([self.network(view.to(self.device)) for view in views] for views in (positive, negative))
        gradients = []
        for loss in (contrast(*first), similarity(*second)):
            self.optimizer.zero_grad()
            loss.backward(retain_graph=True)
            gradients.append(torch.cat([parameter.grad.flatten().clone() for parameter in self.parameters
                                        if parameter.grad is not None]))
        joined = project_flat(*gradients).split([parameter.numel() for parameter in self.parameters])
        for parameter, part in zip(self.parameters, joined, strict=True):
            parameter.grad = part.view_as(parameter).clone()
        self.optimizer.step()
        loss.item()  # the log of every step

    def _endless(self, crops: Crops, steps: int) -> Iterator[list[Tensor]]:
        sampler = RandomSampler(crops, replacement=True, num_samples=(steps + 16) * self.batch // 2)
        return iter(DataLoader(crops, self.batch // 2, sampler=sampler, num_workers=max(1, self.workers // 2)))


def contrast(first: Tensor, second: Tensor, temperature: float = 0.07) -> Tensor:
    """NT-Xent of two views."""
    unit = functional.normalize(torch.cat([first, second]), dim=1)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(unit), device=unit.device).roll(len(first)))


def similarity(first: Tensor, second: Tensor, temperature: float = 0.07) -> Tensor:
    """One minus the mean cosine of all pairs, over the temperature, through the matrix of all pairs."""
    unit = functional.normalize(torch.cat([first, second]), dim=1)
    cosines = unit @ unit.T
    apart = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (1 - cosines[apart].mean()) / temperature
