"""State-space layers along the cells of a slide, in their order and in another, then attention pooling."""

from math import ceil, log
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from milscope.aggregators._base import CHUNK, Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._scan import Selected, State, scan
from milscope.aggregators._segments import attend, segment_softmax
from milscope.store import Bags
from milscope.types import refuse

KERNEL = 4
"""Cells that the convolution before the scan looks back at, the cell itself among them."""
LEAN = 4096
"""Packed cells above which a step computes the layers twice, so many cells at a time, rather than keep all of them."""
PIECE = 16_384
"""Cells of a sequence computed at a time; with shorter pieces the allocator keeps what is freed between them."""
STEPS = (0.001, 0.1)
"""The range of the step at the start of training."""

Cells = Float[Tensor, "cell hidden"]
Inner = Float[Tensor, "cell inner"]


class MambaMIL(Aggregator):
    r"""Layers of two selective scans, one along the cells as they are and one along every r-th cell in turn.

    $$ h = \mathrm{Dropout}(\mathrm{ReLU}(E f)), \quad h \leftarrow h + O \sum_b \pi_b^{-1} M_b(\pi_b \mathrm{LN}(h)), \quad
       a = \mathrm{softmax}_i (w^T \tanh(V \mathrm{LN}(h_i))), \quad y = W \sum_i a_i \mathrm{LN}(h_i) + b $$

    where $\pi_1$ leaves the cells as they are, $\pi_2$ puts cells 0, r, 2r, … first, then 1, r + 1, …, and $M_b$ is
    Mamba's layer, with $[x, z] = W_{in} h$ common to both:

    $$ x \leftarrow \mathrm{SiLU}(\mathrm{conv}_4(x)), \quad [\delta, B, C] = W_x x, \quad
       \Delta = \mathrm{softplus}(W_\Delta \delta + b_\Delta) $$
    $$ s_t = e^{\Delta_t A} s_{t-1} + \Delta_t x_t B_t, \quad M_t = (C_t s_t + D x_t) \, \mathrm{SiLU}(z_t), \quad A = -e^L $$

    The attention of a cell is its weight a; by then a cell holds what the cells before it left behind.

    Memory grows with the number of cells times the width: states are kept at a few cells only.

    Args:
        features: Width of the features.
        classes: Number of logits; all share the one attention.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h; a scan is twice as wide.
        attention: Width of the attention's hidden layer.
        layers: Number of layers.
        state: Length of the state s of each feature.
        reorder: Whether there is the second scan. Without it the layers are Mamba's.
        stride: r, in cells.

    Raises:
        InputError: If `layers`, `state` or `stride` is below 1.

    Source:
        Yang, Wang, Chen, MambaMIL: Enhancing Long Sequence Modeling with Sequence Reordering in Computational Pathology,
        2024, the section on SR-Mamba; Gu and Dao, Mamba, 2023, algorithm 2. The authors' code fills the sequence up to a
        multiple of r with zeros, which the second scan then passes; here nothing is filled up. It also starts the bias of
        the step at 0, by an initialisation of all layers, where Mamba's, and this, starts the step between 0.001 and 0.1.
    """

    order_matters: ClassVar[bool] = True

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 512, attention: int = 128,
        layers: int = 2, state: int = 16, reorder: bool = True, stride: int = 10,
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention, layers=layers, state=state,
                         reorder=reorder, stride=stride)
        for name in ("layers", "state", "stride"):
            if self.options[name] < 1:
                raise refuse(name, "at least 1", self.options[name], "Correct it.")
        self.stride = stride
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout))
        self.layers = nn.ModuleList(_Layer(hidden, state, branches=2 if reorder else 1) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.weigh = nn.Sequential(nn.Linear(hidden, attention), nn.Tanh(), nn.Linear(attention, 1))
        self.classify = nn.Linear(hidden, classes)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        del targets
        lean = len(bags.features) > LEAN and torch.is_grad_enabled()
        embedded = checkpoint(self.embed, bags.features, use_reentrant=False) if lean else self.embed(bags.features)
        slides = []
        for cells in embedded.split(bags.lengths.tolist()):
            turns = _turns(len(cells), self.stride, cells.device)
            for layer in self.layers:
                cells = layer(cells, turns, lean=lean)
            slides.append(cells)
        cells, owner = self.norm(torch.cat(slides)), bags.owner
        attention = segment_softmax(self.weigh(cells), owner, bags.n_slides)
        logits = self.classify(attend(attention, cells, owner, bags.n_slides).squeeze(1))
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))

    def with_cells_alone(self, bags: Bags) -> tuple[Aggregated, Float[Tensor, "cell class"]]:
        """See `Aggregator.with_cells_alone`: a cell alone finds every state empty and has all the attention."""
        alone = []
        found = self(bags)
        for cells in self.standardised(bags).split(CHUNK):
            cells = self.embed(cells)
            for layer in self.layers:
                cells = cast(_Layer, layer).alone(cells)
            alone.append(self.classify(self.norm(cells)))
        return found, torch.cat(alone)


def _turns(cells: int, stride: int, device: torch.device) -> Int[Tensor, " cell"]:
    """When each cell is taken if cells 0, r, 2r, … come first, then 1, r + 1, …"""
    place = torch.arange(cells, device=device)
    start = place % stride
    return start * (cells // stride) + start.clamp(max=cells % stride) + place // stride


class _Layer(nn.Module):
    """What the scans find, added to the cells."""

    def __init__(self, width: int, state: int, *, branches: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.enter = nn.Linear(width, 4 * width, bias=False)
        self.branches = nn.ModuleList(_Branch(2 * width, state, ceil(width / 16)) for _ in range(branches))
        self.leave = nn.Linear(2 * width, width, bias=False)

    def forward(self, cells: Cells, turns: Int[Tensor, " cell"], *, lean: bool) -> Cells:
        """The cells after the layer; `turns` says when each is taken by the second branch."""
        found = cells + self._along(cells, 0, lean=lean)
        if len(self.branches) == 1:
            return found
        order = torch.empty_like(turns).scatter(0, turns, torch.arange(len(turns), device=turns.device))
        return found + self._along(cells[order], 1, lean=lean)[turns]

    def alone(self, cells: Cells) -> Cells:
        """Each cell after the layer, were it the only one of its slide."""
        entered, gates = self.enter(self.norm(cells)).chunk(2, dim=1)
        outputs = torch.stack([cast(_Branch, branch).alone(entered) for branch in self.branches]).sum(0)
        return cells + self.leave(outputs * functional.silu(gates))

    def _along(self, cells: Cells, branch: int, *, lean: bool) -> Cells:
        past, state = None, None
        outputs = []
        for rows in [cells] if torch.compiler.is_exporting() else cells.split(PIECE):
            given = (rows, branch, past, state)
            output, past, state = checkpoint(self._piece, *given, use_reentrant=False) if lean else self._piece(*given)
            outputs.append(output)
        return torch.cat(outputs)

    def _piece(
        self, cells: Cells, branch: int, past: Float[Tensor, "past inner"] | None, state: State | None
    ) -> tuple[Cells, Float[Tensor, "past inner"], State]:
        entered, gates = self.enter(self.norm(cells)).chunk(2, dim=1)
        outputs, past, state = self.branches[branch](entered, past, state)
        return self.leave(outputs * functional.silu(gates)), past, state


class _Branch(nn.Module):
    """A convolution and a selective scan along a piece of the cells, which takes over from the piece before."""

    def __init__(self, inner: int, state: int, rank: int) -> None:
        super().__init__()
        self.sizes = (rank, state, state)
        self.near = nn.Conv1d(inner, inner, KERNEL, groups=inner)
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step = nn.Linear(rank, inner)
        self.decay = nn.Parameter(torch.arange(1.0, state + 1).log()[:, None].repeat(1, inner))
        self.skip = nn.Parameter(torch.ones(inner))
        nn.init.uniform_(self.step.weight, -rank ** -0.5, rank ** -0.5)
        low, high = STEPS
        steps = torch.exp(torch.rand(inner) * (log(high) - log(low)) + log(low))
        with torch.no_grad():
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus gives the steps back

    def forward(
        self, cells: Inner, past: Float[Tensor, "past inner"] | None, state: State | None
    ) -> tuple[Inner, Float[Tensor, "past inner"], State]:
        """The outputs, and what the next piece begins with: the last cells before the convolution, and the state."""
        past = cells.new_zeros(KERNEL - 1, cells.shape[1]) if past is None else past
        state = torch.zeros_like(self.decay) if state is None else state
        joined = torch.cat([past, cells])
        cells = functional.silu(self.near(joined.T[None])[0].T)
        outputs, state = scan(cells, self._selected(cells), -self.decay.exp(), state)
        past = joined[1 - KERNEL:].clone()  # a view would keep all of it in memory
        return outputs + self.skip * cells, past, state

    def alone(self, cells: Inner) -> Inner:
        """The outputs of cells with none before them, where the scan is a product."""
        cells = functional.silu(cells * self.near.weight[:, 0, -1] + self.near.get_parameter("bias"))
        selected = self._selected(cells)
        return cells * (selected.steps * (selected.enter * selected.leave).sum(1, keepdim=True) + self.skip)

    def _selected(self, cells: Inner) -> Selected:
        steps, enter, leave = self.select(cells).split(self.sizes, dim=1)
        return Selected(functional.softplus(self.step(steps)), enter, leave)
