"""The gradient of an encoder over more rows than a graph of all of them has memory for.

Features of all rows are computed without a graph; whoever has the loss says what its gradient is with respect to them; the
rows are encoded again, a part at a time, each with a graph of its own through which its share of that gradient goes. By the
chain rule the sum over parts is the gradient of the one graph, wherever a row's features do not depend on the other rows.

Batch normalisation makes them depend. With `fixed_statistics` they do not: the result is exact for any division into parts.
Otherwise each part is normalised by its own statistics, and the result is the exact gradient of just that: of one graph that
encodes the same parts. There the second pass, under `statistics_kept`, sees the statistics of the first and moves no running
ones.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Encode = Callable[[Int[Tensor, " row"]], Float[Tensor, "row feature"]]
"""Features of the rows of these numbers, with a graph if gradients are on; the same whenever asked."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def encode_apart(
    encode: Encode, parts: Sequence[Int[Tensor, " _"]], *, seed: int = 0
) -> Float[Tensor, "row feature"]:
    """Features of the rows of all parts, one part after the other, without a graph.

    Args:
        encode: The encoder.
        parts: Numbers of rows, so many as are encoded at a time; at least one part.
        seed: What the network itself draws follows from it (dropout, depth by chance). One for each step, the same in both
            passes.
    """
    features: list[Tensor] = []
    with torch.no_grad():
        for place, part in enumerate(parts):
            with _drawing(seed, place):
                features.append(encode(part))
    return torch.cat(features)


def learn_apart(
    encode: Encode, parts: Sequence[Int[Tensor, " _"]], gradients: Sequence[Float[Tensor, "_ feature"]], *, seed: int = 0
) -> None:
    """Adds to the encoder's `.grad` what the gradient with respect to its features makes of its parameters.

    Args:
        encode: The encoder.
        parts: As in `encode_apart`. Parts of other rows than there are learned from as well, exactly if the network draws
            nothing and normalises by nothing that depends on the company.
        gradients: For each part, that of the loss with respect to its features.
        seed: As in `encode_apart`.
    """
    for place, (part, gradient) in enumerate(zip(parts, gradients, strict=True)):
        with torch.enable_grad(), _drawing(seed, place):
            features = encode(part)
        features.backward(gradient.to(features.dtype))


def fixed_statistics(network: nn.Module) -> None:
    """Makes batch normalisation go by its running statistics in training too, and leave them as they are, for good.

    A network that was to be synchronised between processes has been so before, or need not be: there is nothing left to
    synchronise.

    Args:
        network: Changed in place. Weights, names and everything else stay.
    """
    for module in network.modules():
        if _keeps_statistics(module) and not isinstance(module, _Fixed):
            module.__class__ = _fixed(type(module))
            module.training = False


@contextmanager
def statistics_kept(network: nn.Module) -> Generator[None]:
    """A context in which batch normalisation goes by its batch, as ever in training, and leaves no trace of it."""
    normal = [(module, name) for module in network.modules() if _keeps_statistics(module) for name in STATISTICS]
    kept = [(module, name, found) for module, name in normal if isinstance(found := module._buffers.get(name), Tensor)]
    for module, name, tensor in kept:
        module._buffers[name] = tensor.clone()
    try:
        yield
    finally:
        for module, name, tensor in kept:
            module._buffers[name] = tensor


class _Fixed(nn.Module):
    """What is put before a class of normalisation: whatever is asked of it, it does not train; its activation may."""

    def train(self, mode: bool = True) -> "_Fixed":
        """Training or not, for what it holds."""
        super().train(mode)
        self.training = False
        return self


@cache
def _fixed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Fixed{kind.__name__}", (_Fixed, kind), {})


def _keeps_statistics(module: nn.Module) -> bool:
    return any(isinstance(module._buffers.get(name), Tensor) for name in ("running_mean", "running_var"))


@contextmanager
def _drawing(seed: int, place: int) -> Generator[None]:
    """A context whose random numbers follow from the two, and which leaves those outside as they were."""
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed((seed + place) % 2**63)
        yield
