"""Similarity among normal cells: all cells of negative slides should lie together."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from milscope.objectives._directions import directions


@dataclass(frozen=True)
class Similarity:
    r"""One minus the mean cosine of all pairs of projections, over the temperature.

    $$ L = \frac{1}{t} \Bigl( 1 - \frac{|\sum_i z_i|^2 - n}{n (n - 1)} \Bigr), \quad |z_i| = 1, \; n = 2B $$

    It has no repulsion: a constant projection is its minimum, 0. What keeps the encoder from it is the contrast.

    Args:
        temperature: t; only scales the loss.

    Source:
        SLAM-AGS (arXiv 2511.14639), the loss of negative slides. The authors' code spells the pairs out in 90 lines;
        the closed form is equal to it.
    """

    temperature: float = 0.07

    def __call__(self, projections: Float[Tensor, "view=2 cell projection"],
                 positive: Bool[Tensor, " cell"] | None = None) -> Float[Tensor, ""]:
        """The loss of both views of all cells together, whatever their labels."""
        unit = directions(projections)
        n = len(unit)
        mean_cosine = (unit.sum(0).square().sum() - n) / (n * (n - 1))
        return (1 - mean_cosine) / self.temperature
