"""What a computation takes: the bytes of its tensors at each moment, as they grow with the number of rows."""

import ctypes
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from milscope.recompute import statistics_kept


class Cost(NamedTuple):
    """Memory of a computation at each of its moments, a line in the number of rows; bytes."""

    each: Float[np.ndarray, " moment"]
    once: Float[np.ndarray, " moment"]

    def of(self, rows: int) -> float:
        """The most memory that it takes with so many rows."""
        return max(0.0, float((self.each * rows + self.once).max())) if rows else 0.0

    @classmethod
    def measured(cls, compute: Callable[[int], object], rows: int) -> "Cost":
        """What a computation takes, seen with so many rows and with twice as many.

        The moment of the most memory is another one with few rows, where weights count, than with many: so the line of
        each moment is drawn out, and not that of the peak.
        """
        few, many = held_during(compute, rows), held_during(compute, 2 * rows)
        if len(few) != len(many):  # other steps with other numbers of rows: the peak is all there is
            few, many = few.max(keepdims=True), many.max(keepdims=True)
        return cls((many - few) / rows, 2 * few - many)


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, after each operation, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.after = 0, [0]
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: object, args: Sequence[Any] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - whatever the operation gives
        """Runs the operation, and counts what it made."""
        del types
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, list | tuple) else [found]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.after.append(self.now)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        if (name := storage._cdata) not in self._known:
            self._known.add(name)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._free, name, storage.nbytes())

    def _free(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


def held_during(compute: Callable[[int], object], rows: int) -> Float[np.ndarray, " moment"]:
    """Bytes that a computation of so many rows holds after each of its operations, beyond what was there before."""
    with Held() as held:
        compute(rows)
    return np.array(held.after, dtype=float)


@contextmanager
def untouched(*networks: nn.Module) -> Generator[None]:
    """A context in which networks train, with gradients in place; afterwards all is as before, chance too."""
    training = [(module, module.training) for network in networks for module in network.modules()]
    gradients = [(each, each.grad) for network in networks for each in network.parameters() if each.requires_grad]
    for each, _ in gradients:
        each.grad = torch.zeros_like(each)
    devices = {each.device for each, _ in gradients if each.is_cuda}
    try:
        with statistics_kept(nn.ModuleList(networks)), torch.random.fork_rng(devices=list(devices)):
            for network in networks:
                network.train()
            yield
    finally:
        for module, was in training:
            module.training = was
        for each, gradient in gradients:
            each.grad = gradient


def give_back() -> None:
    """Hands what the probes have left in the C library's hands back to the system, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
