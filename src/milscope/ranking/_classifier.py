"""A small network that tells cells of two sorts apart, for marks of cells that are few or uncertain."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from milscope.augment import Views, centre
from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.types import refuse

STEPS = 400
BATCH = 128
"""Cells a step."""
SHARE = 0.3
"""Share of a step's cells that are drawn as abnormal, however few there are."""
SOFTENED = 0.05
"""Targets lie so far from 0 and 1: a mark may be wrong."""
LOOKS = 4
"""Views of a cell over which its score is averaged."""

Classify = Callable[[UInt8[np.ndarray, "cell side side 3"]], Float[np.ndarray, " cell"]]
"""Cells in, the logit of being abnormal out."""


def fit_classifier(pixels: UInt8[np.ndarray, "cell side side 3"], target: Float[np.ndarray, " cell"],
                   weight: Float[np.ndarray, " cell"], seed: int, *, steps: int = STEPS) -> Classify:
    """A network trained from nothing on cells of which some are abnormal.

    A step takes a fixed share of abnormal cells, drawn by weight and with repetition, and normal ones; all are turned, flipped,
    cropped and changed in colour and stain. What marks a cell may be a small part of it, so the network keeps the greatest
    value of each channel beside the mean.

    Args:
        pixels: The cells, at least 16 pixels a side.
        target: 1 for abnormal, 0 for normal, or how sure that is.
        weight: How much each cell counts; 0 leaves it out.
        seed: Same seed, same network on the same machine.
        steps: Of the training, `BATCH` cells each.

    Raises:
        InputError: If there is no cell of either sort, or cells are too small.
    """
    sure = torch.from_numpy((weight * target).astype(np.float32)), torch.from_numpy((weight * (1 - target)).astype(np.float32))
    if not all(part.sum() > 0 for part in sure):
        raise refuse("target", "of both sorts of cells", f"{int((sure[0] > 0).sum())} abnormal and {int((sure[1] > 0).sum())} "
                     "normal ones", "Give cells of both.")
    if pixels.shape[1] < 16:
        raise refuse("pixels", "at least 16 a side", pixels.shape[1], "Decode cells larger.")
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network().to(device, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        views = Views(pixels.shape[1] * 7 // 8, colour=0.15, stain=0.15, resize=0.2)
        optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.2)
        abnormal = round(BATCH * SHARE)
        truth = torch.where(torch.arange(BATCH, device=device) < abnormal, 1 - SOFTENED, SOFTENED)
        for _ in range(steps):
            rows = torch.cat([torch.multinomial(part, count, replacement=True, generator=generator)
                              for part, count in zip(sure, (abnormal, BATCH - abnormal), strict=True)])
            cells = views(torch.from_numpy(pixels[rows.numpy()]).to(device), generator)
            with mixed_precision(device, precision):
                logits = network(cells.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(logits.float(), truth).backward()
            optimizer.step()
            schedule.step()
    return _Scorer(network.eval(), views.size, device, precision)


class _Scorer:
    """The mean logit over the middle of a cell and its views, turned and flipped."""

    def __init__(self, network: nn.Module, size: int, device: torch.device, precision: torch.dtype) -> None:
        self.network, self.size, self.device, self.precision = network, size, device, precision

    @torch.inference_mode()
    def __call__(self, pixels: UInt8[np.ndarray, "cell side side 3"]) -> Float[np.ndarray, " cell"]:
        parts = [np.empty(0)]
        for start in range(0, len(pixels), 512):
            cells = centre(torch.from_numpy(np.ascontiguousarray(pixels[start : start + 512])).to(self.device), self.size)
            total = torch.zeros(len(cells), device=self.device)
            for turn in range(LOOKS):
                with mixed_precision(self.device, self.precision):
                    view = torch.rot90(cells.flip(3) if turn % 2 else cells, turn, (2, 3))
                    total += self.network(view.contiguous(memory_format=torch.channels_last)).float()
            parts.append((total / LOOKS).double().cpu().numpy())
        return np.concatenate(parts)


class _Network(nn.Module):
    """A residual network of three stages, 16 to 128 channels."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.stages = nn.Sequential(*(_Stage(width << stage, width << stage + 1) for stage in range(3)))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * (width << 3), 1))

    def forward(self, cells: Float[Tensor, "cell 3 side side"]) -> Float[Tensor, " cell"]:
        maps = self.stages(self.stem(cells)).float()
        return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)).flatten()


class _Stage(nn.Module):
    """A residual block that halves the map."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(width, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                                  nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        self.beside = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, maps: Tensor) -> Tensor:
        return functional.relu(self.main(maps) + self.beside(maps))
