"""A transformer over all cells of a slide, whose attention goes through landmarks; the slide is read off a class token."""

from collections.abc import Callable
from functools import partial
from math import ceil, sqrt
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.store import Bags
from milscope.types import refuse

GROUPS = 4
"""Groups of heads that are computed one after the other where memory is to be saved."""
KERNEL = 33
"""Tokens that the convolution over the values of an attention looks at."""
LEAN = 16_384
"""Packed cells above which a step computes the heads twice, a few at a time, rather than keep all of them."""
STEPS = 6
"""Of the iteration for the pseudo-inverse."""

Landmarks = Float[Tensor, "head landmark width"]
Tokens = Float[Tensor, "token hidden"]


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
        Shao et al., TransMIL: Transformer based Correlated Multiple Instance Learning, 2021, algorithms 1 to 3; Xiong et
        al., Nyströmformer, 2021, equations 14 and 15. As in the authors' code, zeros are put in front of the tokens up to
        a multiple of the landmarks, and take part; and the iteration for the pseudo-inverse starts with one scale for all
        heads. Theirs divides by the largest sum of a row too, which is 1.
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
        self.first = _Nystrom(hidden, heads, landmarks, dropout)
        self.position = _Position(hidden)
        self.second = _Nystrom(hidden, heads, landmarks, dropout)
        self.classify = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        lean = len(bags.features) > LEAN and torch.is_grad_enabled()
        slides = [self._slide(cells, lean=lean) for cells in bags.features.split(bags.lengths.tolist())]
        logits = self.classify(torch.stack([read for read, _ in slides]))
        attention = torch.cat([share for _, share in slides])[:, None]
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))

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


class _Nystrom(nn.Module):
    """Attention of all tokens to all tokens through landmarks, added to the tokens.

    With `lean` a few heads are computed at a time, and again in the backward pass; neither queries, keys nor values are kept.
    """

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.near = nn.Conv1d(heads, heads, KERNEL, groups=heads, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tokens, *, lean: bool) -> Tokens:
        """All tokens, each with what it takes from the others."""
        cells, landmarks = self._landmarks(tokens)
        taken = torch.cat(self._by_head(self._take, cells, landmarks, lean=lean), 1)
        return tokens + self.out(taken[-len(tokens):])

    def read(self, tokens: Tokens, *, lean: bool) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " token"]]:
        """The first token after `forward`, and how much it takes from each token: nearly 1 in all."""
        cells, landmarks = self._landmarks(tokens)
        parts = self._by_head(partial(self._read, len(cells) - len(tokens)), cells, landmarks, lean=lean)
        taken = torch.cat([part for part, _ in parts])
        return tokens[0] + self.out(taken), sum(row for _, row in parts)[-len(tokens):] / self.heads

    def _landmarks(self, tokens: Tokens) -> tuple[Float[Tensor, "filled hidden"], "_Landmarks"]:
        """What the heads see, a multiple of the landmarks, and their landmarks: the key of a mean is the mean of the keys."""
        cells = functional.pad(self.norm(tokens), (0, 0, -len(tokens) % self.landmarks, 0))
        means = cells.unflatten(0, (self.landmarks, -1)).mean(1)
        queries, keys = (self._project(layer, means, range(self.heads)) for layer in (self.query, self.key))
        return cells, _Landmarks(queries, keys, _inverse(_softmax(queries, keys)).to(keys.dtype))

    def _by_head(
        self, part: Callable[..., Any], cells: Float[Tensor, "filled hidden"], landmarks: "_Landmarks", *, lean: bool
    ) -> list[Any]:
        if not lean:
            return [part(cells, range(self.heads), *landmarks)]
        size = max(1, self.heads // GROUPS)
        groups = zip(range(0, self.heads, size), *(of_all.split(size) for of_all in landmarks), strict=True)
        return [checkpoint(part, cells, range(first, first + len(few[0])), *few, use_reentrant=False)
                for first, *few in groups]

    def _take(
        self, cells: Float[Tensor, "filled hidden"], heads: range, few_queries: Landmarks, few_keys: Landmarks,
        inverse: Float[Tensor, "head landmark landmark"],
    ) -> Float[Tensor, "filled part"]:
        queries, keys, values = (self._project(layer, cells, heads) for layer in (self.query, self.key, self.value))
        taken = _attend(queries, few_keys, inverse @ _attend(few_queries, keys, values))
        return (taken + self._near(values, heads)).transpose(0, 1).flatten(1)

    def _read(
        self, token: int, cells: Float[Tensor, "filled hidden"], heads: range, few_queries: Landmarks,
        few_keys: Landmarks, inverse: Float[Tensor, "head landmark landmark"],
    ) -> tuple[Float[Tensor, " part"], Float[Tensor, " filled"]]:
        query = self._project(self.query, cells[token:token + 1], heads)
        keys, values = (self._project(layer, cells, heads) for layer in (self.key, self.value))
        row = _softmax(query, few_keys).to(inverse.dtype) @ inverse
        start = max(token - KERNEL // 2, 0)
        near = self._near(values[:, start:token + KERNEL // 2 + 1], heads)[:, token - start]
        taken = (row @ _attend(few_queries, keys, values))[:, 0] + near
        return taken.flatten(), _row(row, few_queries, keys)

    def _project(
        self, layer: nn.Linear, cells: Float[Tensor, "row hidden"], heads: range
    ) -> Float[Tensor, "head row width"]:
        width = cells.shape[1] // self.heads
        weight = layer.weight[heads.start * width:heads.stop * width]
        return functional.linear(cells, weight).unflatten(1, (len(heads), -1)).transpose(0, 1)

    def _near(self, values: Float[Tensor, "head row width"], heads: range) -> Float[Tensor, "head row width"]:
        count, _, width = values.shape
        kernels = self.near.weight[heads.start:heads.stop].repeat_interleave(width, 0)[..., None]
        image = values.transpose(1, 2).flatten(0, 1)[None, :, :, None]  # channels last: nothing is copied
        near = functional.conv2d(image, kernels, padding=(KERNEL // 2, 0), groups=count * width)
        return near[0, :, :, 0].unflatten(0, (count, width)).transpose(1, 2)


class _Landmarks(NamedTuple):
    """The landmarks of each head."""

    queries: Landmarks
    keys: Landmarks
    inverse: Float[Tensor, "head landmark landmark"]
    """The pseudo-inverse of their attention to each other."""


class _Position(nn.Module):
    """The cells in their square plus three depthwise convolutions of it, done as the one that they add up to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.middle, self.narrow = (nn.Conv2d(width, width, side, groups=width) for side in (7, 5, 3))

    def forward(self, tokens: Tokens, side: int) -> Tokens:
        """The tokens; the first, which is of the class, as it is."""
        width = tokens.shape[1]
        kernel = self.wide.weight + functional.pad(self.middle.weight, [1] * 4) + functional.pad(self.narrow.weight, [2] * 4)
        kernel = kernel + functional.pad(kernel.new_ones(1, 1, 1, 1), [3] * 4)
        bias = torch.stack([scale.bias for scale in (self.wide, self.middle, self.narrow)]).sum(0)
        image = tokens[1:].T.reshape(1, width, side, side)
        image = functional.conv2d(image, kernel, bias, padding=3, groups=width)
        return torch.cat([tokens[:1].to(image.dtype), image[0].flatten(1).T])


def _attend(
    queries: Float[Tensor, "head query width"], keys: Float[Tensor, "head key width"],
    values: Float[Tensor, "head key width"],
) -> Float[Tensor, "head query width"]:
    return functional.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]


def _softmax(
    queries: Float[Tensor, "head query width"], keys: Float[Tensor, "head key width"]
) -> Float[Tensor, "head query key"]:
    return (queries @ keys.transpose(1, 2) / sqrt(keys.shape[2])).softmax(2)


def _inverse(matrix: Float[Tensor, "head landmark landmark"]) -> Float[Tensor, "head landmark landmark"]:
    """Their pseudo-inverse, by an iteration of the third order; in float32 at least."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    one = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    with torch.autocast(matrix.device.type, enabled=False):
        found = matrix.transpose(1, 2) / matrix.sum(1).amax()
        for _ in range(STEPS):
            product = matrix @ found
            found = found @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return found


@torch.no_grad()
def _row(
    row: Float[Tensor, "head 1 landmark"], queries: Landmarks, keys: Float[Tensor, "head token width"]
) -> Float[Tensor, " token"]:
    """The row times the softmax over tokens, one head at a time; the sum of the heads."""
    heads = zip(row, queries, keys, strict=True)
    return sum(share[0] @ _softmax(query[None], key[None])[0].to(share.dtype) for share, query, key in heads)


@torch.no_grad()
def _shares(row: Float[Tensor, " token"], cells: int) -> Float[Tensor, " cell"]:
    """The shares of the cells from the row of the class token; equal ones if nothing of it is above 0."""
    copies = row[1 + cells:].clamp(min=0)
    shares = row[1:1 + cells].clamp(min=0)
    shares[:len(copies)] += copies
    total = shares.sum()
    return torch.where(total > 0, shares / total, 1 / cells)
