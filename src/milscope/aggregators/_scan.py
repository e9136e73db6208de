"""The selective scan: a state that decays and takes in, both as each cell says, in memory of a few cells' states."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 16
"""Cells whose states are held at a time."""

Inner = Float[Tensor, "cell inner"]
State = Float[Tensor, "state inner"]
States = Float[Tensor, "cell state inner"]
Select = Float[Tensor, "cell state"]


def scan(cells: Inner, steps: Inner, decay: State, enter: Select, leave: Select, state: State) -> tuple[Inner, State]:
    r"""What the state says at each cell, and the last state.

    $$ s_t = e^{\Delta_t A} s_{t-1} + \Delta_t x_t B_t, \qquad y_t = \sum_n C_{tn} s_{tn} $$

    In chunks: whatever does not depend on the state before is computed for the whole chunk at once, and the recurrence
    is one fused multiply-add per cell, while the chunk lies in the processor's cache. Nothing is divided and no decay is
    multiplied up, so that no decay is too strong. The backward pass computes the states of a chunk again, from the one it
    began with. In float32 at least, also under autocast.

    Args:
        cells: x.
        steps: Delta, at least 0.
        decay: A, below 0.
        enter: B.
        leave: C.
        state: The state before the first cell.

    Source:
        Gu and Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, equation 2a with the
        discretisation of algorithm 2, where the input is discretised by Euler's rule, as in the authors' code.
    """
    wide = torch.promote_types(cells.dtype, torch.float32)
    with torch.autocast(cells.device.type, enabled=False):
        outputs, last = _Scan.apply(*(tensor.to(wide) for tensor in (cells, steps, decay, enter, leave, state)))
    return outputs, last


class _Scan(torch.autograd.Function):
    """Keeps its arguments and the state at the start of each chunk."""

    @staticmethod
    def forward(
        ctx: Any, cells: Inner, steps: Inner, decay: State, enter: Select, leave: Select, state: State  # noqa: ANN401
    ) -> tuple[Inner, State]:
        outputs, starts = torch.empty_like(cells), [state]
        for rows in _chunks(cells):
            kept, states = _states(cells[rows], steps[rows], decay, enter[rows], starts[-1])
            del kept
            outputs[rows] = (leave[rows, None] @ states)[:, 0]
            starts.append(states[-1].clone())
        ctx.save_for_backward(cells, steps, decay, enter, leave, torch.stack(starts[:-1]))
        return outputs, starts[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Inner, carried: State) -> tuple[Tensor, ...]:  # noqa: ANN401
        cells, steps, decay, enter, leave, starts = ctx.saved_tensors
        of_cells, of_steps, of_decay = torch.empty_like(cells), torch.empty_like(steps), torch.zeros_like(decay)
        of_enter, of_leave = torch.empty_like(enter), torch.empty_like(leave)
        carried = carried.clone()  # gradient of the state after the chunk
        for rows, start in reversed(list(zip(_chunks(cells), starts, strict=True))):
            kept, states = _states(cells[rows], steps[rows], decay, enter[rows], start)
            of_leave[rows] = (states @ gradient[rows, :, None])[:, :, 0]
            of_states = leave[rows, :, None] * gradient[rows, None]
            of_states[-1] += carried
            for later in range(len(kept) - 1, 0, -1):
                of_states[later - 1].addcmul_(kept[later], of_states[later])
            carried = kept[0] * of_states[0]
            of_taken = (enter[rows, None] @ of_states)[:, 0]
            of_enter[rows] = (of_states @ (steps[rows] * cells[rows])[:, :, None])[:, :, 0]
            of_cells[rows] = of_taken * steps[rows]
            before = torch.cat([start[None], states[:-1]])
            of_logs = before.mul_(kept).mul_(of_states)
            of_steps[rows] = of_taken * cells[rows] + (of_logs * decay).sum(1)
            of_decay += of_logs.mul_(steps[rows, None]).sum(0)
        return of_cells, of_steps, of_decay, of_enter, of_leave, carried


def _chunks(cells: Inner) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, len(cells), CHUNK))


def _states(cells: Inner, steps: Inner, decay: State, enter: Select, start: State) -> tuple[States, States]:
    """How much of the state each cell keeps, and the state after each cell."""
    kept = (steps[:, None] * decay).exp_()
    states = (steps * cells)[:, None] * enter[:, :, None]
    before = start
    for share, state in zip(kept.unbind(), states.unbind(), strict=True):
        before = state.addcmul_(share, before)
    return kept, states
