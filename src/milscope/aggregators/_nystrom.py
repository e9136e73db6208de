"""Attention of all tokens to all through a few landmarks, in memory that grows with the tokens alone."""

from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._dropout import Dropout

GROUPS = 4
"""Groups of heads that are computed one after the other where memory is to be saved."""
KERNEL = 33
"""Tokens that the convolution over the values looks at."""
STEPS = 6
"""Of the iteration for the pseudo-inverse."""

Few = Float[Tensor, "head landmark width"]
Inverse = Float[Tensor, "head landmark landmark"]
Filled = Float[Tensor, "filled hidden"]
Tokens = Float[Tensor, "token hidden"]


class Nystrom(nn.Module):
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
        self.out = nn.Sequential(nn.Linear(width, width), Dropout(dropout))

    def forward(self, tokens: Tokens, *, lean: bool) -> Tokens:
        """All tokens, each with what it takes from the others."""
        if self._few(tokens):
            return self.whole(tokens[None])[0][0]
        cells, landmarks = self._landmarks(tokens)
        taken = torch.cat(self._by_head(self._take, cells, landmarks, lean=lean), 1)
        return tokens + self.out(taken[-len(tokens):])

    def read(self, tokens: Tokens, *, lean: bool) -> tuple[Float[Tensor, " hidden"], Float[Tensor, " token"]]:
        """The first token after `forward`, and how much it takes from each token: nearly 1 in all."""
        if self._few(tokens):
            found, shares = self.whole(tokens[None])
            return found[0, 0], shares[0, :, 0].detach().mean(0)
        cells, landmarks = self._landmarks(tokens)
        places = torch.arange(KERNEL // 2 + 1, device=tokens.device)
        first = self.norm(tokens[places.clamp(max=len(tokens) - 1)]) * (places < len(tokens))[:, None]
        parts = self._by_head(partial(self._read, first), cells, landmarks, lean=lean)
        taken = torch.cat([part for part, _ in parts])
        return tokens[0] + self.out(taken), sum(row for _, row in parts)[len(cells) - len(tokens):] / self.heads

    def whole(
        self, tokens: Float[Tensor, "slide token hidden"]
    ) -> tuple[Float[Tensor, "slide token hidden"], Float[Tensor, "slide head token token"]]:
        """All tokens of slides with no more tokens than landmarks, after `forward`; and what they take from each other.

        Then every token is a landmark, and so is each zero before them. The zeros give and take alike: they count as one
        token that has their number as its weight.
        """
        cells = self.norm(tokens)
        queries, keys, values = (layer(cells).unflatten(2, (self.heads, -1)).transpose(1, 2)
                                 for layer in (self.query, self.key, self.value))
        counts = queries.new_ones(tokens.shape[1] + 1)
        counts[0] = self.landmarks - tokens.shape[1]
        logits = functional.pad(queries @ keys.transpose(2, 3) / sqrt(keys.shape[3]), (1, 0, 1, 0))
        roots, inverse_roots = counts.sqrt(), torch.where(counts > 0, counts.rsqrt(), 0)
        shares = (logits + counts.log()).softmax(3) * roots[:, None] * inverse_roots
        columns = (roots[:, None] * shares).sum(2) * inverse_roots
        shares = shares @ _inverse(shares, columns.amax((1, 2))[:, None, None, None]).to(shares.dtype) @ shares
        shares = shares[:, :, 1:, 1:]
        taken = (shares + self._band(tokens.shape[1])).to(values.dtype) @ values
        return tokens + self.out(taken.transpose(1, 2).flatten(2)), shares

    def _band(self, tokens: int) -> Float[Tensor, "head token token"]:
        """The convolution over so many values, as a matrix."""
        places = torch.arange(tokens, device=self.near.weight.device)
        places = (places - places[:, None] + KERNEL // 2 + 1).clamp(0, KERNEL + 1)
        return functional.pad(self.near.weight[:, 0], (1, 1))[:, places]

    def _few(self, tokens: Tokens) -> bool:
        """Whether `whole` does for these; an exported model, which has one way for any number, goes the long way."""
        return not torch.compiler.is_exporting() and len(tokens) <= self.landmarks

    def _landmarks(self, tokens: Tokens) -> tuple[Filled, "_Landmarks"]:
        """What the heads see, a multiple of the landmarks, and their landmarks: the key of a mean is the mean of the keys."""
        stretch = (len(tokens) + self.landmarks - 1) // self.landmarks
        cells = functional.pad(self.norm(tokens), (0, 0, stretch * self.landmarks - len(tokens), 0))
        means = cells.unflatten(0, (self.landmarks, stretch)).mean(1)
        queries, keys = (self._project(layer, means, range(self.heads)) for layer in (self.query, self.key))
        shares = _softmax(queries, keys)
        return cells, _Landmarks(queries, keys, _inverse(shares, shares.sum(1).amax()).to(keys.dtype))

    def _by_head(self, part: Callable[..., Any], cells: Filled, landmarks: "_Landmarks", *, lean: bool) -> list[Any]:
        if not lean:
            return [part(cells, range(self.heads), landmarks)]
        size = max(1, self.heads // GROUPS)
        groups = zip(range(0, self.heads, size), *(of_all.split(size) for of_all in landmarks), strict=True)
        return [checkpoint(part, cells, range(first, first + len(few[0])), _Landmarks(*few), use_reentrant=False)
                for first, *few in groups]

    def _take(self, cells: Filled, heads: range, landmarks: "_Landmarks") -> Float[Tensor, "filled part"]:
        queries, keys, values = (self._project(layer, cells, heads) for layer in (self.query, self.key, self.value))
        taken = landmarks.inverse @ _attend(landmarks.queries, keys, values)
        taken = _attend(queries, landmarks.keys, taken) + self._near(values, heads)
        return taken.transpose(0, 1).flatten(1)

    def _read(
        self, first: Float[Tensor, "near hidden"], cells: Filled, heads: range, landmarks: "_Landmarks"
    ) -> tuple[Float[Tensor, " part"], Float[Tensor, " filled"]]:
        """What the first token takes; `first` are the tokens that the convolution sees from there: before it are zeros."""
        query = self._project(self.query, first[:1], heads)
        keys, values = (self._project(layer, cells, heads) for layer in (self.key, self.value))
        row = _softmax(query, landmarks.keys).to(keys.dtype) @ landmarks.inverse
        kernels = self.near.weight[heads.start:heads.stop, :, KERNEL // 2:]
        near = (kernels.to(keys.dtype) @ self._project(self.value, first, heads))[:, 0]
        taken = (row @ _attend(landmarks.queries, keys, values))[:, 0] + near
        return taken.flatten(), _row(row, landmarks.queries, keys)

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

    queries: Few
    keys: Few
    inverse: Inverse
    """The pseudo-inverse of their attention to each other."""


def _attend(
    queries: Float[Tensor, "head query width"], keys: Float[Tensor, "head key width"],
    values: Float[Tensor, "head key width"],
) -> Float[Tensor, "head query width"]:
    return functional.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]


def _softmax(
    queries: Float[Tensor, "head query width"], keys: Float[Tensor, "head key width"]
) -> Float[Tensor, "head query key"]:
    return (queries @ keys.transpose(1, 2) / sqrt(keys.shape[2])).softmax(2)


def _inverse(
    matrix: Float[Tensor, "*slide head landmark landmark"], scale: Float[Tensor, "*broadcast"]
) -> Float[Tensor, "*slide head landmark landmark"]:
    """Their pseudo-inverse, by an iteration of the third order from the transposed over that scale; in float32 at least."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    with torch.autocast(matrix.device.type, enabled=False):
        found = matrix.mT / scale
        for _ in range(STEPS):
            product = matrix @ found
            found = found @ (13 * one - product @ (15 * one - product @ (7 * one - product))) / 4
    return found


@torch.no_grad()
def _row(
    row: Float[Tensor, "head 1 landmark"], queries: Few, keys: Float[Tensor, "head token width"]
) -> Float[Tensor, " token"]:
    """The row times the softmax over tokens, one head at a time; the sum of the heads."""
    heads = zip(row, queries, keys, strict=True)
    return sum(share[0] @ _softmax(query[None], key[None])[0].to(share.dtype) for share, query, key in heads)
