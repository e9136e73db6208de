"""A step of an aggregator: everything it gives, and whether its gradient is the slope of what it computes."""

import torch
from torch import Tensor, nn

from milscope.aggregators import Aggregator
from milscope.store import Bags


def step(model: Aggregator, bags: Bags) -> list[Tensor]:
    """Logits, attention and all gradients of the sum of the first logits."""
    found = model(bags)
    found.logits[:, 0].sum().backward()
    return [found.logits, found.attention, *(parameter.grad for parameter in model.parameters())]


def assert_slope(model: Aggregator, bags: Bags, weight: nn.Parameter) -> None:
    """With dropout: what is computed again in the backward pass has to drop what the forward pass dropped."""
    direction = torch.randn_like(weight)

    def value(step: float) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weight.data += step * direction
            found = model(bags).logits[:, 0].sum()
            weight.data -= step * direction
            return found

    value(0.0).backward()
    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    torch.testing.assert_close((weight.grad * direction).sum(), slope, rtol=1e-5, atol=1e-7)
