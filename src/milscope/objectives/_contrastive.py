"""Contrast between cells: each cell should be recognised among all others from its other view."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from milscope.objectives._directions import directions


@dataclass(frozen=True)
class NTXent:
    r"""Normalised temperature-scaled cross-entropy over two views of every cell.

    $$ L = -\frac{1}{2B} \sum_i \log \frac{\exp(\cos(z_i, z_i') / t)}{\sum_{k \ne i} \exp(\cos(z_i, z_k) / t)} $$

    Args:
        temperature: t; the smaller, the more the nearest other cells count.

    Source:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020, equation 1; in
        SLAM-AGS (arXiv 2511.14639) on cells of positive slides.
    """

    temperature: float = 0.07

    def __call__(self, projections: Float[Tensor, "view=2 cell projection"],
                 positive: Bool[Tensor, " cell"] | None = None) -> Float[Tensor, ""]:
        """The loss of two views of the same cells, whatever their labels."""
        cells = projections.shape[1]
        unit = directions(projections)
        logits = unit @ unit.T / self.temperature
        itself = torch.eye(2 * cells, dtype=torch.bool, device=logits.device)
        other_view = torch.arange(2 * cells, device=logits.device).roll(cells)
        return functional.cross_entropy(logits.masked_fill(itself, -torch.inf), other_view)

    @staticmethod
    def chance(cells: int) -> float:
        """The loss when all projections are alike: log(2B - 1). Training that stays there has collapsed."""
        return math.log(2 * cells - 1)
