"""The selective scan: a state that decays and takes in, both as each cell says, in memory of a few cells' states."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 32
"""Cells whose states are held at a time."""

Inner = Float[Tensor, "cell inner"]
State = Float[Tensor, "state inner"]
States = Float[Tensor, "cell state inner"]
Buffers = list[Float[Tensor, "held state inner"]]
Select = Float[Tensor, "cell state"]


class Selected(NamedTuple):
    """What each cell says of the state."""

    steps: Inner
    """How long it lasts, at least 0: the more, the more is forgotten and taken in."""
    enter: Select
    """Where it enters."""
    leave: Select
    """What is read."""


def scan(cells: Inner, selected: Selected, decay: State, state: State) -> tuple[Inner, State]:
    r"""What the state says at each cell, and the last state.

    $$ s_t = e^{\Delta_t A} s_{t-1} + \Delta_t x_t B_t, \qquad y_t = \sum_n C_{tn} s_{tn} $$

    In chunks: whatever does not depend on the state before is computed for the whole chunk at once, and the recurrence
    is one fused multiply-add per cell, while the chunk lies in the processor's cache. Nothing is divided and no decay is
    multiplied up, so that no decay is too strong. The backward pass computes the states of a chunk again, from the one it
    began with. In float32 at least, also under autocast.

    Args:
        cells: x.
        selected: Delta, B and C.
        decay: A, below 0.
        state: The state before the first cell.

    Source:
        Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, equation 2a with the
        discretisation of algorithm 2, where the input is discretised by Euler's rule, as in the authors' code.
    """
    if torch.compiler.is_exporting():
        return _exported(cells, selected, decay, state)
    wide = torch.promote_types(cells.dtype, torch.float32)
    return _Scan.apply(*(tensor.to(wide) for tensor in (cells, *selected, decay, state)))


def _exported(cells: Inner, selected: Selected, decay: State, state: State) -> tuple[Inner, State]:
    """The same as one loop over cells that is part of the graph: for any number of cells."""
    from torch._higher_order_ops import scan as loop

    last, outputs = loop(lambda before, cell: _after(cell, decay, before), state, (cells, *selected))
    return outputs, last


def _after(cell: Sequence[Tensor], decay: State, state: State) -> tuple[State, Float[Tensor, " inner"]]:
    """The state after one cell, and what it says there."""
    value, steps, enter, leave = cell
    state = (steps * decay).exp() * state + enter[:, None] * (steps * value)
    return state, (leave[:, None] * state).sum(0)


class _Scan(torch.autograd.Function):
    """Keeps its arguments and the state at the start of each chunk."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Inner, State]:  # noqa: ANN401
        cells, steps, enter, leave, decay, state = given
        outputs = torch.empty_like(cells)
        starts = state.new_empty(ceil(len(cells) / CHUNK) + 1, *state.shape)
        starts[0] = state
        buffers = _buffers(cells, state, 2)
        for number, rows in enumerate(_chunks(cells)):
            part = Selected(steps[rows], enter[rows], leave[rows])
            _, states = _states(part, cells[rows], decay, starts[number], buffers)
            torch.bmm(leave[rows, None], states, out=outputs[rows, None])
            starts[number + 1] = states[-1]
        ctx.save_for_backward(cells, steps, enter, leave, decay, starts)
        return outputs, starts[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Inner, carried: State) -> tuple[Tensor, ...]:  # noqa: ANN401
        cells, steps, enter, leave, decay, starts = ctx.saved_tensors
        of_cells, of_steps, of_decay = torch.empty_like(cells), torch.empty_like(steps), torch.zeros_like(decay)
        of_enter, of_leave = torch.empty_like(enter), torch.empty_like(leave)
        buffers = _buffers(cells, decay, 4)
        for number, rows in reversed(list(enumerate(_chunks(cells)))):
            part = Selected(steps[rows], enter[rows], leave[rows])
            kept, states = _states(part, cells[rows], decay, starts[number], buffers)
            of_leave[rows] = (states @ gradient[rows, :, None])[:, :, 0]
            of_states = torch.mul(leave[rows, :, None], gradient[rows, None], out=buffers[2][:len(states)])
            of_states[-1] += carried  # the gradient of the state after the chunk
            for later in range(len(kept) - 1, 0, -1):
                of_states[later - 1].addcmul_(kept[later], of_states[later])
            of_logs = torch.mul(of_states, kept, out=buffers[3][:len(states)])
            carried = of_logs[0].clone()
            of_logs[0] *= starts[number]
            of_logs[1:] *= states[:-1]
            of_taken = (enter[rows, None] @ of_states)[:, 0]
            of_enter[rows] = (of_states @ (steps[rows] * cells[rows])[:, :, None])[:, :, 0]
            of_cells[rows] = of_taken * steps[rows]
            of_steps[rows] = of_taken * cells[rows] + torch.mul(of_logs, decay, out=states).sum(1)
            of_decay += of_logs.mul_(steps[rows, None]).sum(0)
        return of_cells, of_steps, of_enter, of_leave, of_decay, carried


def _chunks(cells: Inner) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, len(cells), CHUNK))


def _buffers(cells: Inner, state: State, count: int) -> Buffers:
    """Room for the states of a chunk, used for one chunk after the other: it stays in the cache."""
    return [state.new_empty(min(CHUNK, len(cells)), *state.shape) for _ in range(count)]


def _states(selected: Selected, cells: Inner, decay: State, start: State, buffers: Buffers) -> tuple[States, States]:
    """How much of the state each cell keeps, and the state after each cell, in the first two buffers."""
    kept, states = (buffer[:len(cells)] for buffer in buffers[:2])
    torch.mul(selected.steps[:, None], decay, out=kept).exp_()
    torch.mul((selected.steps * cells)[:, None], selected.enter[:, :, None], out=states)
    before = start
    for share, state in zip(kept.unbind(), states.unbind(), strict=True):
        before = state.addcmul_(share, before)
    return kept, states
