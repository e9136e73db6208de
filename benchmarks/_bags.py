"""Features of slides on disk, and the ways of others to train a slide model on them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

FEATURES, HIDDEN, ATTENTION, DROPOUT = 512, 256, 128, 0.25
RATE_OF_LEARNING = 1e-3
RATE, SHIFT = 0.02, 1.5
"""Share of witnesses on positive slides, and how far they lie from the others in each of eight features."""


def write_slides(home: Path, slides: int, least: int, most: int) -> pd.DataFrame:
    """Slides of between `least` and `most` cells (evenly on a logarithmic scale) in TRIDENT's layout, and their table."""
    folder = home / "features_random"
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    counts = np.exp(chance.uniform(np.log(least), np.log(most), slides)).astype(int)
    for number, count in enumerate(counts):
        cells = chance.standard_normal((count, FEATURES), dtype=np.float32)
        if number % 2:
            cells[: max(1, round(RATE * count)), :8] += SHIFT
        with h5py.File(folder / f"s{number:04d}.h5", "w") as file:
            file["features"] = cells
            file["features"].attrs["encoder"] = "random"
            file["coords"] = np.zeros((count, 2), np.int64)
    return pd.DataFrame({"slide": [f"s{number:04d}" for number in range(slides)], "abnormal": np.arange(slides) % 2,
                         "split": np.where(np.arange(slides) // 2 % 4 == 3, "validation", "train")})


def read_all(home: Path, slides: Sequence[str]) -> list[Tensor]:
    """The features of slides, one after the other, as h5py gives them."""
    found = []
    for slide in slides:
        with h5py.File(home / "features_random" / f"{slide}.h5") as file:
            found.append(torch.from_numpy(file["features"][:]))
    return found


class OneSlideAStep:
    """The loop that most code of the field has: float32, one slide, one step. Written from the description."""

    def __init__(self, bags: Sequence[Tensor], labels: Tensor) -> None:
        torch.manual_seed(0)
        self.bags, self.labels = bags, labels
        self.embed = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
        self.tanh = nn.Sequential(nn.Linear(HIDDEN, ATTENTION), nn.Tanh())
        self.gate = nn.Sequential(nn.Linear(HIDDEN, ATTENTION), nn.Sigmoid())
        self.weigh, self.classify = nn.Linear(ATTENTION, 1), nn.Linear(HIDDEN, 2)
        self.network = nn.ModuleList([self.embed, self.tanh, self.gate, self.weigh, self.classify])
        self.optimizer = torch.optim.AdamW(self.network.parameters(), RATE_OF_LEARNING, weight_decay=1e-3)

    def epoch(self) -> None:
        """One pass, each slide a step."""
        self.network.train()
        for slide in torch.randperm(len(self.bags)).tolist():
            loss = functional.cross_entropy(self._logits(self.bags[slide]), self.labels[slide : slide + 1])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def auc(self, bags: Sequence[Tensor], labels: Tensor) -> float:
        """On other slides."""
        self.network.eval()
        logits = torch.cat([self._logits(cells) for cells in bags])
        return float(roc_auc_score(labels, logits[:, 1] - logits[:, 0]))

    def _logits(self, cells: Tensor) -> Tensor:
        embedded = self.embed(cells)
        attention = self.weigh(self.tanh(embedded) * self.gate(embedded)).softmax(0)
        return self.classify(attention.T @ embedded)


class Torchmil:
    """torchmil's gated ABMIL on its own padded batches, by its own dataset and collation, features in memory."""

    def __init__(self, bags: Sequence[Tensor], labels: Tensor, batch: int) -> None:
        from torchmil.data import collate_fn
        from torchmil.models import ABMIL

        import milscope.encoders  # noqa: F401 - lets torchvision, which torchmil imports, load beside a torch for processors

        torch.manual_seed(0)
        embed = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Dropout(DROPOUT))
        self.model = ABMIL((FEATURES,), att_dim=ATTENTION, gated=True, feat_ext=embed)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE_OF_LEARNING, weight_decay=1e-3)
        self.bags, self.labels, self.batch, self.collate = bags, labels, batch, collate_fn

    def epoch(self) -> None:
        """One pass, a step a batch."""
        self.model.train()
        for together in self._batches(torch.randperm(len(self.bags)).tolist(), self.bags, self.labels):
            loss = self.model.criterion(self.model(together["X"], together["mask"]), together["Y"])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    @torch.no_grad()
    def auc(self, bags: Sequence[Tensor], labels: Tensor) -> float:
        """On other slides."""
        self.model.eval()
        logits = [self.model(each["X"], each["mask"]) for each in self._batches(list(range(len(bags))), bags, labels)]
        return float(roc_auc_score(labels, torch.cat(logits)))

    def _batches(self, order: Sequence[int], bags: Sequence[Tensor], labels: Tensor) -> Iterator[dict[str, Tensor]]:
        for start in range(0, len(order), self.batch):
            own = order[start : start + self.batch]
            yield self.collate([{"X": bags[slide], "Y": labels[slide].float()} for slide in own])
