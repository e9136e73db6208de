"""Attention whose value is one number a cell, in blocks: but for few cells nothing of the softmax's size is ever held."""

from math import log
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BLOCK = 1024
"""Rows and columns of the softmax that a processor holds at a time."""
WIDER = 4
"""How many times as many other devices hold, which take longer to be told of a block than to compute it."""
AT_ONCE = 256
"""Cells up to which all heads are computed at once, the softmax held: many small blocks would take longer."""
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
    if len(cells) <= AT_ONCE:
        return _whole(cells, scores, query, key)
    return _Smooth.apply(cells, scores, query, key)


def _whole(
    cells: Float[Tensor, "cell head width"], scores: Float[Tensor, "cell head"], query: Weight, key: Weight
) -> Float[Tensor, "cell head"]:
    """The same as it is written."""
    queries, keys = ((cells @ weight.T).transpose(0, 1) for weight in (query, key))
    wide = torch.promote_types(scores.dtype, torch.float32)
    shares = (queries @ keys.mT).to(wide).softmax(2)
    with torch.autocast(cells.device.type, enabled=False):
        return (shares @ scores.to(wide).T[:, :, None]).squeeze(2).T.to(scores.dtype)


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
    """One head: what the blocks are computed from, logits to the base of 2.

    On processors a power of 2 takes a quarter of the time of one of e, and a tenth where the outcome is near 0.
    """

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
    return _Head(cells @ (query.T / log(2)).to(product), cells @ key.T.to(product), scores.to(wide))


def _blocks(cells: Cells) -> list[slice]:
    size = BLOCK if cells.device.type == "cpu" else WIDER * BLOCK
    return [slice(start, start + size) for start in range(0, len(cells), size)]


def _forward(head: _Head) -> tuple[Scores, Scores]:
    """The outcome, and the logarithm (to the base of 2) of each row's sum of exponentials."""
    smoothed, sums = torch.empty_like(head.scores), torch.empty_like(head.scores)
    blocks = _blocks(head.queries)
    for rows in blocks:
        queries = head.queries[rows]
        highest = smoothed.new_full((len(queries),), -torch.inf)
        total, weighted = torch.zeros_like(highest), torch.zeros_like(highest)
        for columns in blocks:
            logits = (queries @ head.keys[columns].T).to(smoothed.dtype)
            higher = torch.maximum(highest, logits.amax(1))
            before, shares = (highest - higher).exp2_(), logits.sub_(higher[:, None]).exp2_()
            total = total * before + shares.sum(1)
            weighted = weighted * before + shares @ head.scores[columns]
            highest = higher
        smoothed[rows] = weighted / total
        sums[rows] = highest + total.log2()
    return smoothed, sums


def _backward(head: _Head, smoothed: Scores, sums: Scores, gradient: Scores) -> tuple[Cells, Cells, Scores]:
    """Gradients of queries, keys and scores: with P the softmax, that of its logits is $g_i P_{ij} (A_j - o_i)$."""
    of_queries = torch.zeros_like(head.queries, dtype=smoothed.dtype)
    of_keys, of_scores = torch.zeros_like(of_queries), torch.zeros_like(smoothed)
    product, blocks = head.queries.dtype, _blocks(head.queries)
    for rows in blocks:
        queries, weights = head.queries[rows], gradient[rows]
        weighted = (weights[:, None] * log(2) * queries).to(product)
        for columns in blocks:
            keys = head.keys[columns]
            shares = (queries @ keys.T).to(smoothed.dtype).sub_(sums[rows, None]).exp2_()
            of_scores[columns] += weights @ shares
            shares = shares.mul_(head.scores[columns] - smoothed[rows, None]).to(product)
            of_queries[rows] += shares @ keys
            of_keys[columns] += shares.T @ weighted
        of_queries[rows] *= weights[:, None]
    return of_queries, of_keys, of_scores
