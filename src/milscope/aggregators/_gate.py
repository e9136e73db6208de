"""Gated attention, as several aggregators score cells with it."""

from jaxtyping import Float
from torch import Tensor, nn


class GatedScores(nn.Module):
    r"""Scores of cells, whose softmax over a slide is the attention.

    $$ s_{ic} = w_c^T (\tanh(V h_i + v) \odot \sigma(U h_i + u)) + b_c $$

    Args:
        features: Width of h.
        attention: Width of the hidden layer.
        branches: How many scores a cell gets.

    Source:
        Ilse, Tomczak, Welling, Attention-based Deep Multiple Instance Learning, 2018, equation 9.
    """

    def __init__(self, features: int, attention: int, branches: int = 1) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(features, attention), nn.Tanh())
        self.gate = nn.Sequential(nn.Linear(features, attention), nn.Sigmoid())
        self.weigh = nn.Linear(attention, branches)

    def forward(self, cells: Float[Tensor, "cell feature"]) -> Float[Tensor, "cell branch"]:
        """The scores before the softmax."""
        return self.weigh(self.content(cells) * self.gate(cells))
