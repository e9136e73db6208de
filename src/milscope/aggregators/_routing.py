"""Each task's expert gets the few cells that the task's router sends to it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from milscope.aggregators._isolated import Cells, Tokens
from milscope.aggregators._runs import Runs, Turn, cells_by_run, from_highest
from milscope.aggregators._segments import exact

NARROWER = 4
"""How many times as wide as a router's hidden layer the cells are."""


def top_share(
    scores: Float[Tensor, "slide cell task"], keys: Float[Tensor, "slide cell"], share: float
) -> Float[Tensor, "slide cell task"]:
    r"""The softmax over a slide's cells, kept for the fewest that together hold more than a share of it, made to sum to 1.

    A share of 0 keeps one cell, one of 1 all. Of cells with equal scores those with the smaller key are kept first, of
    equal keys those that are stored first.

    Args:
        scores: Logits of the softmax.
        keys: What orders cells of equal scores, whatever their place: a number that is made of the cell.
        share: p, from 0 to 1.
    """
    scores = exact(scores)
    with torch.no_grad():
        order = from_highest(scores, keys)
        before = scores.softmax(1).gather(1, order).cumsum(1)[:, :-1].clamp(max=1)  # by rounding it may exceed 1
        kept = functional.pad(before <= share, (0, 0, 1, 0), value=True)
        kept = torch.zeros_like(kept).scatter(1, order, kept)
    return scores.masked_fill(~kept, -torch.inf).softmax(1)


class Routed(NamedTuple):
    """What routing gives."""

    tokens: Tokens
    """Of the tasks that are asked for."""
    cells: Cells | None
    """None unless asked for."""
    weights: Float[Tensor, "cell task"]
    """How much of each cell is sent to the expert of each task that is asked for; sums to 1 over the cells of a slide."""


class FeatureRouting(nn.Module):
    r"""A router and an expert a task: the expert gets the task's token and the cells that the router keeps.

    $$ \varphi_m = \mathrm{softmax}_i(r_m(h_i)), \quad w_m = \mathrm{top}_p(\varphi_m), \quad
       h_i' = \sum_m w_{mi} e_m(h_i), \quad t_m' = e_m(t_m) \left[ + \sum_i w_{mi} e_m(h_i) \right] $$

    with r and e of one hidden layer (GELU). The sum in brackets is there if `gather`.

    Args:
        width: Width of tokens and cells.
        tasks: How many there are.
        share: p, the share of the softmax that the kept cells exceed.
        gather: Whether the token receives what its expert makes of the cells.

    Source:
        MECDS, MICCAI 2025, paper 1643, the section on dynamic feature routing; the sum in brackets is ours.
    """

    def __init__(self, width: int, tasks: int, share: float, *, gather: bool) -> None:
        super().__init__()
        self.share, self.gather = share, gather
        narrow = max(1, width // NARROWER)
        self.routers = nn.ModuleList(perceptron(width, narrow, 1, bias=False) for _ in range(tasks))
        self.experts = nn.ModuleList(perceptron(width, width, width) for _ in range(tasks))

    def forward(self, tokens: Tokens, cells: Cells, turn: Turn, *, last: bool) -> Routed:
        """What tokens and cells take over.

        Args:
            tokens: Of each slide, for the tasks of the turn.
            cells: Of all slides, packed.
            turn: Which tasks, and which cells are of which slide.
            last: Whether nobody reads the cells afterwards; then they are not changed.
        """
        tasks = turn.own if last else turn.own + turn.others
        weights = self._weights(cells, turn, tasks)
        changes, taken = torch.zeros_like(cells), []
        for place, task in enumerate(tasks):
            expert = self.experts[task]
            own = [expert(tokens[:, place])] if place < len(turn.own) else []
            if self.gather or not last:
                rows, sent = self._sent(expert, cells, weights[:, place])
                if not last:
                    changes = changes + sent if rows is None else changes.index_add(0, rows, sent)
                if self.gather:
                    own = [made + _sums(sent, rows, turn.runs) for made in own]
            taken += own
        return Routed(torch.stack(taken, 1), None if last else changes, weights[:, :len(turn.own)])

    def _weights(self, cells: Cells, turn: Turn, tasks: Sequence[int]) -> Float[Tensor, "cell task"]:
        scores = torch.cat([self.routers[task](cells) for task in tasks], 1)
        parts = zip(cells_by_run(scores, turn.runs), cells_by_run(turn.keys, turn.runs), strict=True)
        return torch.cat([top_share(dense, keys, self.share).flatten(0, 1) for dense, keys in parts])

    def _sent(
        self, expert: nn.Module, cells: Cells, weights: Float[Tensor, " cell"]
    ) -> tuple[Int[Tensor, " kept"] | None, Float[Tensor, "kept width"]]:
        """What the expert makes of the kept cells, weighted, and their rows; of all, where rows cannot be chosen."""
        if torch.compiler.is_exporting():
            return None, expert(cells) * weights[:, None]
        rows = weights.detach().nonzero().squeeze(1)
        return rows, exact(expert(cells.index_select(0, rows))) * weights.index_select(0, rows)[:, None]


def _sums(sent: Float[Tensor, "kept width"], rows: Int[Tensor, " kept"] | None, runs: Runs) -> Float[Tensor, "slide width"]:
    """The sum over the cells of each slide, in their order: bit by bit the same whenever it is computed, on GPUs too."""
    if rows is None or runs.n_slides == 1:
        return sent.sum(0, keepdim=True)
    counts = runs.owner.index_select(0, rows).bincount(minlength=runs.n_slides)
    return torch.segment_reduce(sent, "sum", lengths=counts, unsafe=True)  # ty: ignore[missing-attribute]


def perceptron(width: int, hidden: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    """One hidden layer; a bias before a softmax over cells would do nothing."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs, bias=bias))
