"""Prototype attention: a cell counts by its likeness to learned prototypes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._segments import attend, segment_max, segment_mean, segment_softmax
from milscope.store import Bags


class PAMIL(Aggregator):
    r"""Attention per class from the likeness of each cell to each of a few learned prototypes.

    With $u$ the L2-normalised output of one Linear–ReLU shared by cells $f_i$ and prototypes $p_j$:

    $$ P_{ij} = \tanh(W_a u(p_j))^T \sigma(W_b u(f_i)), \quad a_{\cdot c} = \mathrm{softmax}_i (P V + v)_{ic} $$
    $$ y_c = g_c \frac{d_c^T}{|d_c|} \frac{s_c}{|s_c|} + b_c, \quad s_c = \sum_i a_{ic} u(f_i) $$

    and, with the shares $S = \mathrm{softmax}_j P$, the penalty (its mean over slides)

    $$ \lambda (1 - \mathrm{mean}_i \max_j S_{ij}) + \lambda (1 - \mathrm{mean}_j \max_i S_{ij}). $$

    Args:
        features: Width of the features.
        classes: Number of classes, each with its own attention.
        dropout: Share of the embedding's features dropped while training.
        prototypes: Number of prototypes.
        hidden: Width of the embedding u and of the likeness.
        penalty: Lambda.

    Source:
        The slide model of SLAM-AGS (arXiv 2511.14639), by the formulas of its text. Where the text leaves open what a
        share is, this takes the softmax over prototypes, for both terms.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *,
        prototypes: int = 8, hidden: int = 256, penalty: float = 0.005,
    ) -> None:
        super().__init__(features, classes, dropout, prototypes=prototypes, hidden=hidden, penalty=penalty)
        self.penalty = penalty
        self.prototypes = nn.Parameter(torch.randn(prototypes, features))
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        self.dropout = Dropout(dropout)
        self.from_prototypes = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
        self.from_cells = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid())
        self.weigh = nn.Linear(prototypes, classes)
        self.direction = nn.Parameter(torch.randn(classes, hidden))
        self.length = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        owner, slides = bags.owner, bags.n_slides
        cells = functional.normalize(self.dropout(self.embed(bags.features)))
        prototypes = functional.normalize(self.embed(self.prototypes))
        likeness = self.from_cells(cells) @ self.from_prototypes(prototypes).T
        attention = segment_softmax(self.weigh(likeness), owner, slides)
        vectors = functional.normalize(attend(attention, cells, owner, slides), dim=2)
        cosines = (vectors * functional.normalize(self.direction)).sum(2)
        return Aggregated(cosines * self.length + self.bias, attention, self._penalty(likeness, owner, slides))

    def _penalty(
        self, likeness: Float[Tensor, "cell prototype"], owner: Int[Tensor, " cell"], slides: int
    ) -> Float[Tensor, ""]:
        shares = likeness.softmax(1)
        of_cells = segment_mean(shares.amax(1), owner, slides)
        of_prototypes = segment_max(shares, owner, slides).mean(1)
        return self.penalty * (2 - of_cells - of_prototypes).mean()
