"""One transformer for many tasks: each has its token, its routers and its experts, and tasks can be added later."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._isolated import READS, Cells, IsolatedAttention, Tokens
from milscope.aggregators._routing import FeatureRouting, perceptron
from milscope.aggregators._runs import Turn, content_keys, runs_of
from milscope.aggregators._segments import exact
from milscope.store import Bags
from milscope.types import refuse

LEAN = 16_384
"""Packed cells above which a step computes the blocks twice rather than keep what is within them."""
MODES = ("strict", "shared")


class Heard(NamedTuple):
    """What a task says."""

    logits: Float[Tensor, "slide output"]
    attention: Float[Tensor, "cell output"] | None
    routing: Float[Tensor, "cell output"] | None


class Through(NamedTuple):
    """What a block leaves."""

    tokens: Tokens
    cells: Cells
    attention: Float[Tensor, "cell task"] | None = None
    routing: Float[Tensor, "cell task"] | None = None


class MECDS(Aggregator):
    r"""Blocks of task-isolated attention and dynamic feature routing over the cells and a token a task.

    $$ h = E f, \quad [t, h] \mathrel{+}= A(\mathrm{LN}[t, h]), \quad [t, h] \mathrel{+}= \mathrm{FFN}(\mathrm{LN}[t, h]), \quad
       [t, h] \mathrel{+}= A'(\mathrm{LN}[t, h]), \quad [t, h] \mathrel{+}= R(\mathrm{LN}[t, h]), \quad
       y_m = W_m \mathrm{LN}(t_m) + b_m $$

    with the attention A of `IsolatedAttention` and the routing R of `FeatureRouting`; the line is a block. The attention of
    a cell is the last block's, mean of the heads, the token's own share left out; its routing the last block's weight. All
    logits of a task share both.

    A task is of a generation. Tasks of one generation go through the blocks together, with cells that the experts of this
    and of earlier generations change; so what a task says depends on no later generation.

    Memory grows with the number of cells. Time too, unless `cells` see each other.

    Args:
        features: Width of the features.
        classes: Number of logits, of all tasks together.
        dropout: Share of the embedding's features dropped while training.
        outputs: Number of logits of each task; empty: each logit is a task.
        width: Width of tokens and cells.
        heads: Number of heads, which divide the width.
        blocks: Number of blocks.
        feedforward: How many times as wide as the tokens the FFN's hidden layer is.
        share: p of the routing, from 0 (one cell) to 1 (all).
        cells: What cells attend to: `nothing`, the `cells` of their slide, or `all`: these and the tokens of all tasks.
        gather: Whether a token receives what its expert makes of the cells kept for it. Without, the last block's routers
            have no gradient, since nobody reads the cells after it.
        routing: Whether there is routing; without, an FFN that is common to all is in its place.
        generations: The generation of each task; empty: all are of generation 0.

    Raises:
        InputError: If an option is out of range, or does not fit the others.

    Source:
        MECDS, MICCAI 2025, paper 1643, whose authors published no code. Ours: `gather`, generations, and that cells see
        nothing by default, which the paper leaves open.
    """

    by_task: ClassVar[bool] = True

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.1, *, outputs: Sequence[int] = (), width: int = 128,
        heads: int = 4, blocks: int = 2, feedforward: int = 2, share: float = 0.5, cells: str = "nothing", gather: bool = True,
        routing: bool = True, generations: Sequence[int] = (),
    ) -> None:
        outputs = list(outputs) or [1] * classes
        generations = list(generations) or [0] * len(outputs)
        super().__init__(features, classes, dropout, outputs=outputs, width=width, heads=heads, blocks=blocks,
                         feedforward=feedforward, share=share, cells=cells, gather=gather, routing=routing,
                         generations=generations)
        self._check_options()
        self.outputs, self.generations, self.routing = outputs, generations, routing
        self.embed = nn.Sequential(nn.Linear(features, width), Dropout(dropout))
        self.tokens = nn.ParameterList(torch.randn(width) / width ** 0.5 for _ in outputs)
        self.blocks = nn.ModuleList(_Block(self.options) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, each) for each in outputs)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        cells, runs, keys = exact(self.embed(bags.features)), runs_of(bags), content_keys(bags.features)
        found: dict[int, Heard] = {}
        for generation in sorted(set(self.generations)):
            own = [task for task, each in enumerate(self.generations) if each == generation]
            others = [task for task, each in enumerate(self.generations) if each < generation]
            found.update(zip(own, self._through(cells, Turn(runs, keys, own, others)), strict=True))
        heard = [found[task] for task in range(len(self.outputs))]
        logits = torch.cat([each.logits for each in heard], 1)
        attention = torch.cat([each.attention for each in heard if each.attention is not None], 1)
        routing = torch.cat([each.routing for each in heard if each.routing is not None], 1) if self.routing else None
        return Aggregated(logits, attention, logits.new_zeros(()), routing=routing)

    def extended(self, outputs: int, *, mode: str) -> "MECDS":
        """A model with a further task, of which only what is new can be trained.

        All weights are taken over. New are a token and a head and, in each block, a router and an expert.

        Args:
            outputs: Number of logits of the new task.
            mode: `strict`: the task is of a new generation, so that the old ones say bit by bit what they said; `shared`, as
                in the paper: it is of the newest there is, whose other tasks read cells that its expert changes too.

        Raises:
            InputError: If it is neither, or is `strict` where cells see tokens.
        """
        if mode not in MODES:
            raise refuse("mode", " or ".join(MODES), f"`{mode}`", "Choose one.")
        generation = max(self.generations) + (mode == "strict")
        options: dict[str, Any] = {**self.options, "classes": self.classes + outputs, "outputs": [*self.outputs, outputs],
                                   "generations": [*self.generations, generation]}
        model = MECDS(**options)
        model.to(self.tokens[0].device, self.tokens[0].dtype)
        model.load_state_dict({**model.state_dict(), **self.state_dict()})
        old = dict(self.named_parameters())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in old)
        return model.train(self.training)

    def _through(self, cells: Cells, turn: Turn) -> list[Heard]:
        tokens = torch.stack([self.tokens[task] for task in turn.own]).expand(turn.runs.n_slides, -1, -1)
        lean = cells.shape[0] > LEAN and torch.is_grad_enabled()
        through = Through(tokens, cells)
        for place, block in enumerate(self.blocks):
            given = (through.tokens, through.cells, turn, place == len(self.blocks) - 1)
            through = checkpoint(block, *given, use_reentrant=False) if lean else block(*given)
        attention, routing = through.attention, through.routing
        heard = []
        for place, task in enumerate(turn.own):
            logits = self.heads[task](self.norm(through.tokens[:, place]))
            heard.append(Heard(logits, *(None if shares is None else shares[:, place, None].expand(-1, self.outputs[task])
                                         for shares in (attention, routing))))
        return heard

    def _check_options(self) -> None:
        own = self.options
        for name in ("width", "heads", "blocks", "feedforward"):
            if own[name] < 1:
                raise refuse(name, "at least 1", own[name], "Correct it.")
        if own["width"] % own["heads"]:
            raise refuse("heads", f"a divisor of `width`, {own['width']}", own["heads"], "Change one of the two.")
        if not 0 <= own["share"] <= 1:
            raise refuse("share", "from 0 to 1", own["share"], "Correct it.")
        if own["cells"] not in READS:
            raise refuse("cells", "of " + ", ".join(READS), f"`{own['cells']}`", "Choose among them.")
        outputs, generations = own["outputs"], own["generations"]
        if sum(outputs) != self.classes or min(outputs) < 1:
            raise refuse("outputs", f"the tasks' numbers of logits, {self.classes} together", outputs, "Correct them.")
        if len(generations) != len(outputs) or min(generations) < 0:
            raise refuse("generations", f"{len(outputs)} numbers, at least 0", generations, "Give one for each task.")
        if own["cells"] == "all" and len(set(generations)) > 1:
            raise refuse("cells", "`nothing` or `cells` where tasks are of several generations", "`all`",
                         "Cells that see tokens would show the old tasks the new one; extend with `--mode shared`.")


class _Block(nn.Module):
    """Attention and FFN, then attention and routing, each of what is normalised and added to what there was."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        width, heads, reads, wide = (options[name] for name in ("width", "heads", "cells", "feedforward"))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.first, self.second = (IsolatedAttention(width, heads, reads) for _ in range(2))
        self.feedforward = perceptron(width, wide * width, width)
        self.route = FeatureRouting(width, len(options["outputs"]), options["share"], gather=options["gather"]) \
            if options["routing"] else None
        self.instead = nn.Identity() if options["routing"] else perceptron(width, wide * width, width)

    def forward(self, tokens: Tokens, cells: Cells, turn: Turn, last: bool) -> Through:
        """Tokens and cells after the block; of the last also who was looked at."""
        tokens, cells, _ = self._attend(0, tokens, cells, turn, watch=False)
        tokens, cells = tokens + self.feedforward(self.norms[1](tokens)), cells + self.feedforward(self.norms[1](cells))
        tokens, cells, attention = self._attend(2, tokens, cells, turn, watch=last)
        norm = self.norms[3]
        if self.route is None:
            tokens = tokens + self.instead(norm(tokens))
            return Through(tokens, cells if last else cells + self.instead(norm(cells)), attention)
        routed = self.route(norm(tokens), norm(cells), turn, last=last)
        cells = cells if routed.cells is None else cells + routed.cells
        return Through(tokens + routed.tokens, cells, attention, routed.weights)

    def _attend(
        self, place: int, tokens: Tokens, cells: Cells, turn: Turn, *, watch: bool
    ) -> tuple[Tokens, Cells, Float[Tensor, "cell task"] | None]:
        norm, attend = self.norms[place], self.second if place else self.first
        seen = attend(norm(tokens), norm(cells), turn.runs, watch=watch)
        return tokens + seen.tokens, cells if seen.cells is None else cells + seen.cells, seen.attention
