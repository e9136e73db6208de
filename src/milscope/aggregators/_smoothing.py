"""Attention whose value is one number a cell, in blocks: neither the softmax nor anything of its size is ever held."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BLOCK = 1024
"""Rows and columns of the softmax that are held at a time."""
ROWS = 64
"""Rows of the softmax, of every head, that an exported model holds at a time."""

Cells = Float[Tensor, "cell width"]
Scores = Float[Tensor, " cell"]
Weight = Float[Tensor, "width width"]


def smooth(
    cells: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"], query: Weight, key: Weight
) -> Float[Tensor, "cell head"]:
    r"""The mean of all cells' scores as each cell sees them, per head.

    $$ o^j = \mathrm{softmax}(Q K^T) A^j, \qquad Q = x^j W_q^T, \; K = x^j W_k^T $$

    The blocks' products are made in the precision of autocast if it is on, all else in float32 at least.

    Args:
        cells: x.
        scores: A.
        query: W_q; the division by the root of the width belongs here.
        key: W_k.

    Source:
        The order of computing follows Dao et al., FlashAttention, 2022; written out because the values are one number
        wide, for which torch's kernel needs them filled up to the width of the keys (on processors its backward pass took
        eight times as long).
    """
    if torch.compiler.is_exporting():
        return _exported(cells, scores, query, key)
    return _Smooth.apply(cells, scores, query, key)


def _exported(
    cells: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"], query: Weight, key: Weight
) -> Float[Tensor, "cell head"]:
    """The same as one loop over rows that is part of the graph: for any number of cells."""
    from torch._higher_order_ops import scan

    queries, keys = ((cells @ weight.T).transpose(0, 1) for weight in (query, key))
    values, blocks = scores.T[:, :, None], (len(cells) + ROWS - 1) // ROWS
    rows = functional.pad(queries, (0, 0, 0, blocks * ROWS - len(cells))).unflatten(1, (blocks, ROWS)).transpose(0, 1)
    _, found = scan(lambda turn, part: (turn + 1, (part @ keys.mT).softmax(2) @ values), queries.new_zeros(1), rows)
    return found.transpose(0, 1).flatten(1)[:, :len(cells)].T


class _Head(NamedTuple):
    """One head: what the blocks are computed from."""

    queries: Cells
    keys: Cells
    scores: Scores


class _Smooth(torch.autograd.Function):
    """Keeps cells, scores, the outcome and each row's log of the sum of exponentials; the softmax is computed again."""

    @staticmethod
    def forward(
        ctx: Any, cells: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"], query: Weight,  # noqa: ANN401
        key: Weight,
    ) -> Float[Tensor, "cell head"]:
        device = cells.device.type
        ctx.product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else cells.dtype
        wide = torch.promote_types(cells.dtype, torch.float32)
        smoothed = torch.empty_like(scores, dtype=wide)
        sums = torch.empty_like(smoothed)
        with torch.autocast(device, enabled=False):
            for number in range(cells.shape[1]):
                head = _head(cells[:, number], scores[:, number], query, key, ctx.product)
                smoothed[:, number], sums[:, number] = _forward(head)
        ctx.save_for_backward(cells, scores, query, key, smoothed, sums)
        return smoothed.to(scores.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "cell head"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: ANN401
        cells, scores, query, key, smoothed, sums = ctx.saved_tensors
        wide = smoothed.dtype
        of_cells, of_scores = torch.empty_like(cells), torch.empty_like(scores)
        of_query, of_key = torch.zeros_like(query, dtype=wide), torch.zeros_like(key, dtype=wide)
        for number in range(cells.shape[1]):
            head = _head(cells[:, number], scores[:, number], query, key, ctx.product)
            queries, keys, of_scores[:, number] = _backward(
                head, smoothed[:, number], sums[:, number], gradient[:, number].to(wide))
            of_cells[:, number] = queries @ query.to(wide) + keys @ key.to(wide)
            of_query += queries.T @ cells[:, number].to(wide)
            of_key += keys.T @ cells[:, number].to(wide)
        return of_cells, of_scores, of_query.to(query.dtype), of_key.to(key.dtype)


def _head(cells: Cells, scores: Scores, query: Weight, key: Weight, product: torch.dtype) -> _Head:
    cells = cells.to(product)
    wide = torch.promote_types(scores.dtype, torch.float32)
    return _Head(cells @ query.T.to(product), cells @ key.T.to(product), scores.to(wide))


def _forward(head: _Head) -> tuple[Scores, Scores]:
    """The outcome, and the log of each row's sum of exponentials."""
    values = torch.stack([head.scores, torch.ones_like(head.scores)], 1)
    smoothed, sums = torch.empty_like(head.scores), torch.empty_like(head.scores)
    for start in range(0, len(smoothed), BLOCK):
        rows = slice(start, start + BLOCK)
        queries = head.queries[rows]
        highest = values.new_full((len(queries), 1), -torch.inf)
        total = values.new_zeros(len(queries), 2)
        for keys, block in zip(head.keys.split(BLOCK), values.split(BLOCK), strict=True):
            logits = (queries @ keys.T).to(values.dtype)
            higher = torch.maximum(highest, logits.amax(1, keepdim=True))
            total = total * (highest - higher).exp() + logits.sub_(higher).exp_() @ block
            highest = higher
        smoothed[rows] = total[:, 0] / total[:, 1]
        sums[rows] = highest[:, 0] + total[:, 1].log()
    return smoothed, sums


def _backward(head: _Head, smoothed: Scores, sums: Scores, gradient: Scores) -> tuple[Cells, Cells, Scores]:
    """Gradients of queries, keys and scores: with P the softmax, that of its logits is $g_i P_{ij} (A_j - o_i)$."""
    of_queries = torch.zeros_like(head.queries, dtype=smoothed.dtype)
    of_keys, of_scores = torch.zeros_like(of_queries), torch.zeros_like(smoothed)
    product = head.queries.dtype
    for start in range(0, len(smoothed), BLOCK):
        rows = slice(start, start + BLOCK)
        queries, weights = head.queries[rows], gradient[rows]
        weighted = (weights[:, None] * queries).to(product)
        for other in range(0, len(smoothed), BLOCK):
            columns = slice(other, other + BLOCK)
            keys = head.keys[columns]
            shares = (queries @ keys.T).to(smoothed.dtype).sub_(sums[rows, None]).exp_()
            of_scores[columns] += weights @ shares
            shares = shares.mul_(head.scores[columns] - smoothed[rows, None]).to(product)
            of_queries[rows] += shares @ keys
            of_keys[columns] += shares.T @ weighted
        of_queries[rows] *= weights[:, None]
    return of_queries, of_keys, of_scores
