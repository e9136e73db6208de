"""A transformer over all cells of a slide, whose attention goes through landmarks; the slide is read off a class token."""

from math import ceil, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._base import CHUNK, Aggregated, Aggregator, Targets
from milscope.aggregators._nystrom import Nystrom, Tokens
from milscope.store import Bags
from milscope.types import refuse

LEAN = 16_384
"""Packed cells above which a step computes much of it twice rather than keep it."""


class TransMIL(Aggregator):
    r"""Two layers of Nyström attention over the cells and a class token, with a convolution over their square between.

    $$ h = \mathrm{ReLU}(E f), \quad t = [c, h_1 \dots h_n, h_1 \dots h_{s^2 - n}], \quad s = \lceil \sqrt n \rceil $$
    $$ t' = t + A(\mathrm{LN}(t)), \quad t'' = \mathrm{PPEG}(t'), \quad
       y = W \, \mathrm{LN}(t'' + A(\mathrm{LN}(t'')))_c + b $$
    $$ A(x) = O \left( \sigma(q \tilde k^T) \, \sigma(\tilde q \tilde k^T)^+ \, \sigma(\tilde q k^T) \, v + D v \right) $$

    with $\sigma$ the softmax over rows of products divided by $\sqrt d$, per head; $\tilde q, \tilde k$ the means over
    equal stretches of tokens (landmarks); $D$ a convolution of 33 tokens, one kernel a head; and PPEG the sum of depthwise
    convolutions of 7, 5 and 3 cells a side and of the cells themselves. Cells lie in their square row by row, so their
    order matters.

    The attention of a cell is what the class token takes from its value in the second layer: the row of the product of
    the three softmaxes, the mean of the heads. It is an approximation of a softmax and can fall below 0, where it is set
    to 0; a cell that fills up the square gets back what its copy has; the class token is left out and the rest is
    divided by its sum. No gradient goes through it.

    Memory grows with the number of cells times the width. Nothing of size cells × landmarks is kept; in the second layer
    only what the class token needs is computed.

    Args:
        features: Width of the features.
        classes: Number of logits; all share the one attention.
        dropout: Share of the outputs of each attention dropped while training.
        hidden: Width of the tokens.
        heads: Number of heads, which divide the width.
        landmarks: Number of landmarks; None: half of `hidden`.

    Raises:
        InputError: If the heads do not divide the width, or there is no landmark.

    Source:
        Shao et al., TransMIL: Transformer based Correlated Multiple Instance Learning, 2021, section 3; Xiong et al.,
        Nyströmformer, 2021, equation 15 and the iteration for the pseudo-inverse. As in the authors' code, zeros are put
        in front of the tokens up to a multiple of the landmarks, and take part; and the iteration starts with one scale
        for all heads. Theirs divides by the largest sum of a row too, which is 1.
    """

    order_matters: ClassVar[bool] = True

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.1, *,
        hidden: int = 512, heads: int = 8, landmarks: int | None = None,
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, heads=heads, landmarks=landmarks)
        if heads < 1 or hidden % heads:
            raise refuse("heads", f"a divisor of `hidden`, {hidden}", heads, "Change one of the two.")
        landmarks = hidden // 2 if landmarks is None else landmarks
        if landmarks < 1:
            raise refuse("landmarks", "at least 1", landmarks, "Correct it.")
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, hidden))
        self.first = Nystrom(hidden, heads, landmarks, dropout)
        self.position = _Position(hidden)
        self.second = Nystrom(hidden, heads, landmarks, dropout)
        self.classify = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        lean = len(bags.features) > LEAN and torch.is_grad_enabled()
        slides = [self._slide(cells, lean=lean) for cells in bags.features.split(bags.lengths.tolist())]
        logits = self.classify(torch.stack([read for read, _ in slides]))
        attention = torch.cat([share for _, share in slides])[:, None]
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))

    def with_cells_alone(self, bags: Bags) -> tuple[Aggregated, Float[Tensor, "cell class"]]:
        """See `Aggregator.with_cells_alone`: thousands of slides of two tokens at a time."""
        if self.first.landmarks < 2:
            return super().with_cells_alone(bags)
        alone = [self._alone(cells) for cells in self.standardised(bags).split(CHUNK)]
        return self(bags), torch.cat(alone)

    def _alone(self, cells: Float[Tensor, "cell feature"]) -> Float[Tensor, "cell class"]:
        embedded = self.embed(cells)
        tokens, _ = self.first.whole(torch.stack([self.token.to(embedded.dtype).expand_as(embedded), embedded], 1))
        tokens, _ = self.second.whole(torch.stack([tokens[:, 0], self.position.alone(tokens[:, 1])], 1))
        return self.classify(tokens[:, 0])

    def _slide(
        self, cells: Float[Tensor, "cell feature"], *, lean: bool
    ) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " cell"]]:
        side = ceil(sqrt(len(cells)))
        tokens = checkpoint(self._tokens, cells, use_reentrant=False) if lean else self._tokens(cells)
        tokens = self.position(self.first(tokens, lean=lean), side)
        read, row = self.second.read(tokens, lean=lean)
        return read, _shares(row, len(cells))

    def _tokens(self, cells: Float[Tensor, "cell feature"]) -> Tokens:
        embedded = self.embed(cells)
        copies = ceil(sqrt(len(cells))) ** 2 - len(cells)
        return torch.cat([self.token.to(embedded.dtype), embedded, embedded[:copies]])


class _Position(nn.Module):
    """The cells in their square plus three depthwise convolutions of it, done as the one that they add up to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.middle, self.narrow = (
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3))

    def forward(self, tokens: Tokens, side: int) -> Tokens:
        """The tokens; the first, which is of the class, as it is."""
        width = tokens.shape[1]
        kernel = self.wide.weight + functional.pad(self.middle.weight, [1] * 4) + functional.pad(self.narrow.weight, [2] * 4)
        kernel = kernel + functional.pad(kernel.new_ones(1, 1, 1, 1), [3] * 4)
        bias = torch.stack([scale.get_parameter("bias") for scale in (self.wide, self.middle, self.narrow)]).sum(0)
        image = tokens[1:].T.reshape(1, width, side, side)
        image = functional.conv2d(image, kernel, bias, padding=3, groups=width)
        return torch.cat([tokens[:1].to(image.dtype), image[0].flatten(1).T])

    def alone(self, cells: Float[Tensor, "cell hidden"]) -> Float[Tensor, "cell hidden"]:
        """The only cells of their squares."""
        image = cells[:, :, None, None]
        return (image + self.wide(image) + self.middle(image) + self.narrow(image))[:, :, 0, 0]


@torch.no_grad()
def _shares(row: Float[Tensor, " token"], cells: int) -> Float[Tensor, " cell"]:
    """The shares of the cells from the row of the class token; equal ones if nothing of it is above 0."""
    copies = row[1 + cells:].clamp(min=0)
    shares = row[1:1 + cells].clamp(min=0) + functional.pad(copies, (0, cells - len(copies)))
    total = shares.sum()
    return torch.where(total > 0, shares / total, 1 / cells)
