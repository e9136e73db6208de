"""Multi-head attention pooling whose scores are first smoothed over cells that are alike."""

from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._base import CHUNK, Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._smoothing import smooth
from milscope.store import Bags
from milscope.types import refuse

ROWS = 16_384
"""Packed cells above which a step computes their embedding twice, so many at a time, rather than keep all of it."""


class ABMILX(Aggregator):
    r"""Attention pooling per head, in which cells that are alike share their attention.

    $$ h = \mathrm{Dropout}(\mathrm{GELU}(E \, \mathrm{LN}(f))) = [h^1 \dots h^m], \quad
       A^j = w^T \mathrm{GELU}(V h^j), \quad
       U^j = \mathrm{softmax}(Q K^T / \sqrt d), \; Q = \mathrm{LN}(h^j) W_q, \; K = \mathrm{LN}(h^j) W_k $$
    $$ G^j = A^j + \alpha U^j A^j, \quad Z^j = \mathrm{softmax}_i(G^j)^T h^j, \quad
       y = W \, \mathrm{LN}(\mathrm{FFN}(P [Z^1 \dots Z^m])) $$

    The attention of a cell is the mean over heads of $\mathrm{softmax}_i(G^j)$.

    U is never held: memory grows with the number of cells. Time grows with its square; a fixed alpha of 0 does without U.

    Args:
        features: Width of the features.
        classes: Number of logits; all share the attention.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        heads: Number of heads, which divide the width and share V, w, W_q and W_k.
        alpha: Weight of the smoothed scores, or where it starts.
        learn_alpha: Whether alpha is learned.
        feedforward: Whether there is an FFN, with a hidden layer four times as wide.

    Raises:
        InputError: If the heads do not divide the width.

    Source:
        Tang et al., Revisiting End-to-End Learning with Slide-level Supervision in Computational Pathology, arXiv
        2506.02408, 2025, the section on ABMILX; layer sizes and the absence of biases (but in the FFN) as in the authors'
        code. Theirs draws alpha from a normal distribution, so that half of the runs start by sharpening what is to be
        smoothed; this starts at 0.1, not at 0, where W_q and W_k would have no gradient. Their LayerNorm before Q and K has
        a bias.
    """

    alpha: Tensor

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 512, heads: int = 8,
        alpha: float = 0.1, learn_alpha: bool = True, feedforward: bool = False,
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, heads=heads, alpha=alpha, learn_alpha=learn_alpha,
                         feedforward=feedforward)
        if heads < 1 or hidden % heads:
            raise refuse("heads", f"a divisor of `hidden`, {hidden}", heads, "Change one of the two.")
        self.heads, width = heads, hidden // heads
        self.embed = nn.Sequential(nn.LayerNorm(features, bias=False), nn.Linear(features, hidden, bias=False), nn.GELU(),
                                   Dropout(dropout))
        self.weigh = nn.Sequential(nn.Linear(width, width, bias=False), nn.GELU(), nn.Linear(width, 1, bias=False))
        self.smooths = learn_alpha or alpha != 0
        if self.smooths:
            self.norm = nn.LayerNorm(width, bias=False)
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)
        if learn_alpha:
            self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        else:
            self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.merge = nn.Linear(hidden, hidden, bias=False)
        self.feedforward = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 4 * hidden), nn.GELU(),
                                         nn.Linear(4 * hidden, hidden)) if feedforward else None
        self.classify = nn.Sequential(nn.LayerNorm(hidden, bias=False), nn.Linear(hidden, classes, bias=False))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        return self._aggregate(*self._embed(bags.features), bags)

    def with_cells_alone(self, bags: Bags) -> tuple[Aggregated, Float[Tensor, "cell class"]]:
        """See `Aggregator.with_cells_alone`: a cell alone has all the attention of every head."""
        self.check(bags)
        embedded, scores = self._embed(self.standardised(bags))
        alone = [self._logits(cells.flatten(1)) for cells in embedded.split(CHUNK)]
        return self._aggregate(embedded, scores, bags), torch.cat(alone)

    def _aggregate(
        self, embedded: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"], bags: Bags
    ) -> Aggregated:
        lengths = bags.lengths.tolist()
        slides = [self._slide(*slide) for slide in zip(embedded.split(lengths), scores.split(lengths), strict=True)]
        logits = self._logits(torch.stack([vector for vector, _ in slides]))
        attention = torch.cat([shares.mean(1) for _, shares in slides])[:, None]
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))

    def _logits(self, vectors: Float[Tensor, "slide hidden"]) -> Float[Tensor, "slide class"]:
        merged = self.merge(vectors)
        if self.feedforward is not None:
            merged = merged + self.feedforward(merged)
        return self.classify(merged)

    def _embed(
        self, features: Float[Tensor, "cell feature"]
    ) -> tuple[Float[Tensor, "cell head width"], Float[Tensor, "cell head"]]:
        if len(features) <= ROWS or not torch.is_grad_enabled():
            return self._embed_rows(features)
        parts = [checkpoint(self._embed_rows, rows, use_reentrant=False) for rows in features.split(ROWS)]
        return torch.cat([embedded for embedded, _ in parts]), torch.cat([scores for _, scores in parts])

    def _embed_rows(
        self, features: Float[Tensor, "cell feature"]
    ) -> tuple[Float[Tensor, "cell head width"], Float[Tensor, "cell head"]]:
        embedded = self.embed(features).unflatten(1, (self.heads, -1))
        return embedded, self.weigh(embedded).squeeze(2)

    def _slide(
        self, embedded: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"]
    ) -> tuple[Float[Tensor, " hidden"], Float[Tensor, "cell head"]]:
        if self.smooths:
            smoothed = smooth(self.norm(embedded), scores, self.query.weight / sqrt(embedded.shape[2]), self.key.weight)
            scores = scores + self.alpha * smoothed
        shares = scores.softmax(0)
        vectors = [share.to(cells.dtype) @ cells for share, cells in zip(shares.T, embedded.unbind(1), strict=True)]
        return torch.cat(vectors), shares
