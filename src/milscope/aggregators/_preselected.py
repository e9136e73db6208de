"""A transformer over the few cells of a slide that a first stage, which looks at them one by one, finds worth it."""

from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._routing import perceptron
from milscope.aggregators._runs import cells_by_run, content_keys, from_highest, runs_of, slides_by_run
from milscope.aggregators._segments import attend, exact, segment_softmax
from milscope.store import Bags
from milscope.types import refuse


class _Chosen(NamedTuple):
    """The cells of slides of equal length that go on."""

    rows: Int[Tensor, "slide kept"]
    """Their places in the slide."""
    there: Bool[Tensor, "slide kept"]
    """False where there is no such cell."""
    cells: Float[Tensor, "slide kept width"]
    length: int
    """Places in a slide."""


class Preselected(Aggregator):
    r"""Attention pooling that selects k cells, and a transformer with a class token over these.

    $$ h = \mathrm{ReLU}(E f), \quad a = \mathrm{softmax}_i(w^T \tanh(V h_i)), \quad y^{(1)} = W_1 \sum_i a_i h_i + b_1, \quad
       y = W \, \mathrm{LN}(\mathrm{Transformer}(c, h_{(1)} \dots h_{(k)}))_c + b $$

    with $h_{(1)}, \dots$ the cells of highest a. While training, the mean of the losses of $y^{(1)}$ and $y$; y predicts. The
    attention of a cell is what the class token takes from it in the last layer, mean of the heads, without its own share; 0
    for cells that are not selected.

    Args:
        features: Width of the features.
        classes: Number of logits; all share the selection.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of cells and class token.
        attention: Width of the selecting attention's hidden layer.
        kept: k; a smaller slide keeps all its cells.
        heads: Number of heads, which divide the width.
        layers: Number of layers of the transformer.

    Raises:
        InputError: If an option is out of range.

    Source:
        Cao et al., Detection-free pipeline for cervical cancer screening of whole slide images, MICCAI 2023: slide labels
        only, a first stage that selects, a transformer that decides. Left out: its pretraining by MoCo (see `pretrain`), and
        the second encoder that looks at the selected cells anew; both stages learn at once here.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 256, attention: int = 128,
        kept: int = 64, heads: int = 4, layers: int = 2,
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention, kept=kept, heads=heads, layers=layers)
        if heads < 1 or hidden % heads:
            raise refuse("heads", f"a divisor of `hidden`, {hidden}", heads, "Change one of the two.")
        for name in ("kept", "layers"):
            if self.options[name] < 1:
                raise refuse(name, "at least 1", self.options[name], "Correct it.")
        self.kept = kept
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout))
        self.select = nn.Sequential(nn.Linear(hidden, attention), nn.Tanh(), nn.Linear(attention, 1))
        self.classify_first = nn.Linear(hidden, classes)
        self.token = nn.Parameter(torch.randn(hidden) / sqrt(hidden))
        self.layers = nn.ModuleList(_Layer(hidden, heads) for _ in range(layers))
        self.classify = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        cells, runs, keys = exact(self.embed(bags.features)), runs_of(bags), content_keys(bags.features)
        scores = exact(self.select(cells))
        dense = [cells_by_run(each, runs) for each in (cells, scores.detach(), keys)]
        chosen = [self._choose(*each) for each in zip(*dense, strict=True)]
        most = max(each.rows.shape[1] for each in chosen)
        tokens = torch.cat([functional.pad(each.cells, (0, 0, 0, most - each.cells.shape[1])) for each in chosen])
        there = torch.cat([functional.pad(each.there, (0, most - each.there.shape[1])) for each in chosen])
        logits, shares = self._decide(tokens, there)
        spread = [_spread(share, each) for share, each in zip(slides_by_run(shares, runs), chosen, strict=True)]
        attention = torch.cat([share[:, :length].flatten() for share, length in zip(spread, runs.lengths, strict=True)])
        streams = None
        if self.training:
            pooled = attend(segment_softmax(scores, runs.owner, runs.n_slides), cells, runs.owner, runs.n_slides).squeeze(1)
            streams = torch.stack([self.classify_first(pooled).to(logits.dtype), logits])
        return Aggregated(logits, attention[:, None].expand(-1, self.classes), logits.new_zeros(()), streams)

    def _choose(
        self, cells: Float[Tensor, "slide cell width"], scores: Float[Tensor, "slide cell 1"], keys: Float[Tensor, "slide cell"]
    ) -> _Chosen:
        count = self.kept
        if torch.compiler.is_exporting():  # there may be fewer than k, which a graph cannot ask
            cells, keys = functional.pad(cells, (0, 0, 0, count)), functional.pad(keys, (0, count))
            scores = functional.pad(scores, (0, 0, 0, count), value=-torch.inf)
        rows = from_highest(scores, keys)[:, :count, 0]
        there = scores.squeeze(2).gather(1, rows).isfinite()
        return _Chosen(rows, there, cells.gather(1, rows[:, :, None].expand(-1, -1, cells.shape[2])), cells.shape[1])

    def _decide(
        self, cells: Float[Tensor, "slide kept width"], there: Bool[Tensor, "slide kept"]
    ) -> tuple[Float[Tensor, "slide class"], Float[Tensor, "slide kept"]]:
        tokens = torch.cat([self.token.expand(len(cells), 1, -1), cells], 1)
        there, shares = functional.pad(there, (1, 0), value=True), cells.new_zeros(there.shape)
        for place, layer in enumerate(self.layers):
            tokens, shares = layer(tokens, there, only_class=place == len(self.layers) - 1)
        return self.classify(tokens[:, 0]), shares


class _Layer(nn.Module):
    """Attention and FFN, each of what is normalised and added to what there was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_wide = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.wide = nn.Linear(width, width), perceptron(width, 2 * width, width)

    def forward(
        self, tokens: Float[Tensor, "slide token width"], there: Bool[Tensor, "slide token"], *, only_class: bool
    ) -> tuple[Float[Tensor, "slide _ width"], Float[Tensor, "slide _"]]:
        """The tokens after the layer, or that of the class, which is the first; and its attention to the others."""
        normed = self.norm(tokens)
        asking = (tokens[:, :1], normed[:, :1]) if only_class else (tokens, normed)
        parts = (self.query(asking[1]), self.key(normed), self.value(normed))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = exact(query @ key.mT) / sqrt(query.shape[3])
        shares = scores.masked_fill(~there[:, None, None], -torch.inf).softmax(3)
        mixed = self.out((shares.to(value.dtype) @ value).transpose(1, 2).flatten(2))
        found = asking[0] + mixed
        with torch.no_grad():
            of_cells = scores[:, :, 0, 1:].masked_fill(~there[:, None, 1:], -torch.inf)
            given = functional.logsigmoid(of_cells.logsumexp(2, keepdim=True) - scores[:, :, :1, 0]).softmax(1)
            watched = (of_cells.softmax(2) * given).sum(1)
        return found + self.wide(self.norm_wide(found)), watched


def _spread(shares: Float[Tensor, "slide kept"], chosen: _Chosen) -> Float[Tensor, "slide cell"]:
    """The shares at the places of their cells, 0 elsewhere."""
    own = shares[:, :chosen.rows.shape[1]]
    return own.new_zeros(len(own), chosen.length).scatter(1, chosen.rows, own)
