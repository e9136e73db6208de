"""Encoder and slide model as one network: how they start, are moved, averaged, and kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from milscope.aggregators import Aggregator
from milscope.checkpoints import optimizer_tensors, restore_optimizer, step_seed
from milscope.configs import EndToEndConfig
from milscope.encoders import Encoder, freeze, quicken
from milscope.fitting import new_aggregator
from milscope.learner import start_encoder
from milscope.recompute import fixed_statistics
from milscope.store import Scale

Tensors = tuple[Tensor, ...] | list[Tensor]


class Networks(nn.Module):
    """Encoder and slide model as one network.

    Args:
        config: The settings.
        outputs: Number of logits of each task.
        init: An `encoder` artifact to start from.
        trained: Whether the encoder has learned anything before.

    Raises:
        InputError: If the encoder or the slide model cannot be made, or nothing of the encoder is left to train.
    """

    def __init__(self, config: EndToEndConfig, outputs: Sequence[int], init: Path | None, *, trained: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(config.seed, -1))
            encoder = start_encoder(config, init)
            self.aggregator: Aggregator = new_aggregator(config.aggregator, encoder.features, outputs, config.dropout,
                                                         config.options)
        freeze(encoder, config.freeze)
        quicken(encoder)
        self.fixed = (config.statistics if config.statistics != "auto" else "fixed" if trained else "chunk") == "fixed"
        if self.fixed:
            fixed_statistics(encoder)
        self.encoder: Encoder = encoder


class Moved:
    """The networks on their way: one optimizer's step after the other, and the average over all that went before.

    Args:
        networks: On their device, of their arithmetic.
        config: The settings.
    """

    def __init__(self, networks: Networks, config: EndToEndConfig) -> None:
        self.networks, self.decay = networks, config.average
        self.parameters = [each for each in networks.parameters() if each.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, config.learning_rate, weight_decay=config.weight_decay,
                                           fused=True)
        self._average = AveragedModel(networks, multi_avg_fn=self._approach, use_buffers=True) if config.average else None

    def set_scale(self, scale: Scale) -> None:
        """By which features are standardised, from the start and for good."""
        self.networks.aggregator.set_scale(scale)
        self.kept.aggregator.set_scale(scale)

    @property
    def kept(self) -> Networks:
        """What is judged and kept: the average, or without one the networks themselves."""
        return self.networks if self._average is None else cast(Networks, self._average.module)

    def step(self, gradients: list[Tensor], rate: float) -> None:
        """Moves the networks by the gradients of their parameters, and the average after them."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = _laid_out(gradient, parameter)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self.networks)

    def gradients(self) -> list[Tensor]:
        """What backward passes have left; zero where none went through."""
        return [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has to hold."""
        average = {} if self._average is None else self._average.state_dict()
        return {**{f"networks.{name}": tensor for name, tensor in self.networks.state_dict().items()},
                **{f"average.{name}": tensor for name, tensor in average.items()}, **optimizer_tensors(self.optimizer)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back to what `tensors` gave."""
        own = {name.removeprefix("networks."): tensor for name, tensor in tensors.items() if name.startswith("networks.")}
        self.networks.load_state_dict(own)
        if self._average is not None:
            self._average.load_state_dict({name: tensors[f"average.{name}"] for name in self._average.state_dict()})
        restore_optimizer(self.optimizer, tensors)

    @torch.no_grad()
    def _approach(self, average: Tensors, current: Tensors, steps: Tensor | int) -> None:
        """Early steps count more, so that the start is soon forgotten: (1 + t) / (10 + t) until that is the decay."""
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, 1 - decay)
        else:
            torch._foreach_copy_(average, current)


def _laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient as its parameter lies in memory, which fused optimizers take for granted."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
