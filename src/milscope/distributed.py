"""Several processes that train as one: who this process is, sums over all, and gathering with gradients.

Started by `torchrun --nproc-per-node N -m milscope pretrain …`. Every process computes the loss of the whole batch from
the projections of all, and sends back through its own cells only: what it finds is its share of the gradient, and the
sum over the processes is the gradient of the whole batch.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.autograd import Function

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Team:
    """The processes that share each step, and which of them this one is."""

    rank: int = 0
    ranks: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.ranks > 1:
            distributed.barrier()

    def share(self, count: int) -> slice:
        """This process's part of so many cells: parts differ by one at most, the first processes have the larger."""
        return slice(*(-(-count * place // self.ranks) for place in (self.rank, self.rank + 1)))

    def gather(self, part: Float[Tensor, "mine ..."], count: int) -> Float[Tensor, "all ..."]:
        """The rows of all processes in order, of which this one has its share; gradients go to its own rows."""
        if self.ranks == 1:
            return part
        shares = [Team(rank, self.ranks).share(count) for rank in range(self.ranks)]
        return _Gather.apply(part, shares, self.rank)

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the processes."""
        if self.ranks == 1:
            return list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def synchronise(self, network: nn.Module) -> nn.Module:
        """The network with batch normalisation over the cells of all processes."""
        if self.ranks == 1:
            return network
        if next(network.parameters()).is_cuda:
            from timm.layers.norm_act import convert_sync_batchnorm

            return convert_sync_batchnorm(network)
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
                    setattr(parent, name, SynchronisedNorm(child))
        return network


@contextmanager
def team(device: torch.device = CPU) -> Generator[Team]:
    """The processes started together by torchrun, or this one alone; a group that exists already is used.

    Args:
        device: This process's own, which decides how they talk.
    """
    if distributed.is_available() and distributed.is_initialized():
        yield Team(distributed.get_rank(), distributed.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Team()
    else:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL makes what it needs itself
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield Team(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()


class SynchronisedNorm(nn.Module):
    """Batch normalisation whose statistics are those of the cells of all processes, on any device.

    Shares weights and running statistics with the layer that it stands for, under the same names. torch's own
    `SyncBatchNorm` needs CUDA.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        super().__init__()
        self.eps, self.momentum = layer.eps, 0.1 if layer.momentum is None else layer.momentum
        self.weight, self.bias = nn.Parameter(layer.weight), nn.Parameter(layer.bias)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        for name in ("drop", "act"):  # timm's normalisation layers hold their activation
            if hasattr(layer, name):
                self.add_module(name, getattr(layer, name))
        self.train(layer.training)

    def forward(self, values: Float[Tensor, "cell channel ..."]) -> Float[Tensor, "cell channel ..."]:
        """The normalised values."""
        shape = (1, -1, *(1,) * (values.dim() - 2))
        exact = values if values.dtype == torch.float64 else values.float()
        mean, variance = self._statistics(exact, shape) if self.training else (self.running_mean, self.running_var)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normal = (exact - mean.view(shape)) * scale.view(shape) + self.bias.view(shape)
        for name in ("drop", "act"):
            normal = getattr(self, name)(normal) if name in self._modules else normal
        return normal.to(values.dtype)

    def _statistics(self, values: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mean and variance over all processes; the running ones follow as in torch."""
        over = (0, *range(2, values.dim()))
        count = _SumOver.apply(values.new_tensor([values.numel() / values.shape[1]]))
        mean = _SumOver.apply(values.sum(over)) / count
        variance = _SumOver.apply((values - mean.view(shape)).square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * count / (count - 1).clamp_min(1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, variance


class _SumOver(Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ANN401
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total


class _Gather(Function):
    """Rows of all processes; the gradient of a process's own rows is its part of the whole loss's gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, shares: Sequence[slice], rank: int) -> Tensor:  # noqa: ANN401
        ctx.own = shares[rank]
        longest = max(share.stop - share.start for share in shares)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        everyone = [torch.empty_like(padded) for _ in shares]
        distributed.all_gather(everyone, padded)
        return torch.cat([rows[: share.stop - share.start] for rows, share in zip(everyone, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        return gradients[0][ctx.own].contiguous(), None, None
