"""Attention in which the token of a task sees itself and the cells, and never another task's token."""

from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from milscope.aggregators._runs import Runs, cells_by_run, slides_by_run
from milscope.aggregators._segments import exact

ROWS = 64
"""Rows of the cells' attention, of every head, that an exported model holds at a time."""
READS = ("nothing", "cells", "all")
Tokens = Float[Tensor, "slide task width"]
Cells = Float[Tensor, "cell width"]


class Seen(NamedTuple):
    """What attention gives."""

    tokens: Tokens
    cells: Cells | None
    """None if cells read nothing."""
    attention: Float[Tensor, "cell task"] | None
    """The tokens' attention to the cells of their slide, which sums to 1 over them; None unless asked for."""


class IsolatedAttention(nn.Module):
    r"""Attention of several heads, in which every task's token is alone with the cells.

    $$ t_m' = O \left[ \sigma_{\{m\} \cup \mathrm{cells}}(q_m^h K^{hT} / \sqrt d) \, V^h \right]_h $$

    The softmax runs over the token itself and the cells; other tokens are left out before it. For the tokens, keys and
    values of the cells are never made: queries are taken through W_k to the cells, and what they read through W_v, which is
    the same, for a tenth of the work while there are few tasks. Memory grows with the number of cells times tasks and heads.

    Args:
        width: Width of tokens and cells.
        heads: Number of heads, which divide the width.
        reads: What the cells attend to: `nothing`, the `cells` of their slide, or `all`: these and the tokens of all tasks.

    Source:
        MECDS, MICCAI 2025, paper 1643, the section on task-isolated attention. Whether cells see tokens is left open there.
    """

    def __init__(self, width: int, heads: int, reads: str) -> None:
        super().__init__()
        self.heads, self.reads = heads, reads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tokens, cells: Cells, runs: Runs, *, watch: bool) -> Seen:
        """What tokens and cells take over.

        Args:
            tokens: Of each slide.
            cells: Of all slides, packed.
            runs: Which cells are of which slide.
            watch: Whether the attention is asked for.
        """
        read, attention, mixed = [], [], []
        for own, dense in zip(slides_by_run(tokens, runs), cells_by_run(cells, runs), strict=True):
            taken, shares = self._read(own, dense, watch=watch)
            read.append(taken)
            attention += [] if shares is None else [shares.flatten(0, 1)]
            mixed += [] if self.reads == "nothing" else [self._mix(own, dense).flatten(0, 1)]
        return Seen(self.out(torch.cat(read)), self.out(torch.cat(mixed)) if mixed else None,
                    torch.cat(attention) if attention else None)

    def _read(
        self, tokens: Tokens, cells: Float[Tensor, "slide cell width"], *, watch: bool
    ) -> tuple[Tokens, Float[Tensor, "slide cell task"] | None]:
        n_tasks, width = tokens.shape[1:]
        keys, values = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.key, self.value))
        queries = self.query(tokens).unflatten(2, (self.heads, -1)) / sqrt(width / self.heads)
        queries = torch.einsum("sthd,hdw->sthw", queries, keys)
        own = exact((queries * tokens[:, :, None]).sum(3)).flatten(1)[:, None]
        scores = exact(cells @ queries.flatten(1, 2).mT)
        shares = torch.cat([own, scores], 1).softmax(1)
        itself = shares[:, 0].unflatten(1, (n_tasks, self.heads))[..., None] * tokens[:, :, None]
        read = exact(shares[:, 1:].mT @ cells).unflatten(1, (n_tasks, self.heads)) + itself
        read = torch.einsum("sthw,hdw->sthd", read, values).flatten(2)
        return read, _watched(scores, own, self.heads) if watch else None

    def _mix(self, tokens: Tokens, cells: Float[Tensor, "slide cell width"]) -> Float[Tensor, "slide cell width"]:
        seen = torch.cat([cells, tokens], 1) if self.reads == "all" else cells
        parts = (self.query(cells), self.key(seen), self.value(seen))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        if torch.compiler.is_exporting():
            return _exported(query[0], key[0], value[0]).transpose(0, 1).flatten(1)[None]
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def _exported(
    query: Float[Tensor, "head cell part"], key: Float[Tensor, "head seen part"], value: Float[Tensor, "head seen part"]
) -> Float[Tensor, "head cell part"]:
    """One slide's attention as a loop over rows that is part of the graph: the whole matrix is never held."""
    from torch._higher_order_ops import scan

    cells, blocks = query.shape[1], (query.shape[1] + ROWS - 1) // ROWS
    rows = functional.pad(query / sqrt(query.shape[2]), (0, 0, 0, blocks * ROWS - cells))
    rows = rows.unflatten(1, (blocks, ROWS)).transpose(0, 1)
    _, found = scan(lambda turn, part: (turn + 1, (part @ key.mT).softmax(2) @ value), query.new_zeros(1), rows)
    return found.transpose(0, 1).flatten(1, 2)[:, :cells]


@torch.no_grad()
def _watched(
    scores: Float[Tensor, "slide cell _"], own: Float[Tensor, "slide 1 _"], heads: int
) -> Float[Tensor, "slide cell task"]:
    """The mean over heads of the attention, the token's own share left out, divided by its sum over the cells.

    By way of logarithms: it is finite even where every head looks at nothing but the token.
    """
    of_cells = functional.logsigmoid(scores.logsumexp(1, keepdim=True) - own).unflatten(2, (-1, heads)).softmax(3)
    return (scores.softmax(1).unflatten(2, (-1, heads)) * of_cells).sum(3)
