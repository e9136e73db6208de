"""Weak supervision: every cell should tell its slide's label."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SlideLabel:
    r"""Cross-entropy of one logit per cell with the label of its slide, both labels counting the same.

    $$ L = \frac{1}{|C|} \sum_{c \in C} \frac{1}{2 B_c} \sum_{i: y_i = c} \log(1 + e^{\mp z_i}) $$

    C are the labels that the batch has, B_c the cells of each: a cell weighs 1 / (|C| B_c), so that the rarer label is not
    drowned by the other. Knowing nothing (z = 0) costs log 2. Cells of positive slides that are normal carry a wrong
    label, which is why the method is a comparator only.

    Source:
        The weakly supervised comparator of SLAM-AGS (arXiv 2511.14639).
    """

    def __call__(self, projections: Float[Tensor, "view=2 cell 1"], positive: Bool[Tensor, " cell"]) -> Float[Tensor, ""]:
        """The loss of two views of the same cells.

        Args:
            projections: The logit of each cell.
            positive: Whether the cell's slide is positive.
        """
        logits = projections[..., 0].to(torch.promote_types(projections.dtype, torch.float32))
        truth = positive.to(logits.dtype)
        positives = truth.sum()
        weights = torch.where(positive, 1 / positives, 1 / (len(truth) - positives))
        losses = functional.binary_cross_entropy_with_logits(logits, truth.expand_as(logits), reduction="none").mean(0)
        return (weights * losses).sum() / weights.sum()
