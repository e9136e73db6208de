"""One step of pretraining: views of cells, the losses of every task, their gradients joined, the networks moved."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from milscope.augment import Views
from milscope.checkpoints import optimizer_tensors, restore_optimizer, step_seed
from milscope.configs import EndToEndConfig, PretrainConfig
from milscope.devices import choose_device, choose_precision, mixed_precision
from milscope.distributed import Team
from milscope.encoders import Encoder, Projector, freeze, load_encoder, quicken
from milscope.objectives import METHODS, Method, NTXent
from milscope.surgery import SURGERIES, Conflict
from milscope.types import refuse

Projections = Float[Tensor, "view=2 _ projection"]
Cells = UInt8[Tensor, "_ side side 3"]
PARTS = {"positive": ("positive",), "negative": ("negative",), "all": ("positive", "negative")}
"""Cells of a task → the halves of the batch that they are."""
SIZE = 64
"""Side of a view where neither the settings nor an encoder to start from say it, pixels."""


class Said(NamedTuple):
    """What a step tells of itself; nothing in it has been waited for."""

    losses: dict[str, Tensor]
    """Each task's loss before its weight, and the contrast over its chance value."""
    conflict: Conflict
    gradients: list[list[Tensor]]
    """Per task, the gradient of each parameter."""
    features: Float[Tensor, "view feature"]
    """The features of this process's views."""


class Learner:
    """Encoder, head and optimizer of a pretraining, and the step that moves them.

    Args:
        config: The settings.
        team: The processes that share each step; each brings its share of the cells.
        method: Tasks and their cells; None: the one that the settings name.
        init: An `encoder` artifact to go on from.

    Raises:
        InputError: If the encoder cannot be made, or nothing of it is left to train.
    """

    def __init__(self, config: PretrainConfig, team: Team, *, method: Method | None = None,
                 init: Path | None = None) -> None:
        self.config, self.team, self.method = config, team, method or named_method(config)
        self.device = own_device(config.device)
        exact = config.precision == "float64"
        self.precision = torch.float32 if exact else choose_precision(config.precision, self.device)
        self.kind = torch.float64 if exact else torch.float32
        self.views = Views(config.size, colour=config.colour, stain=config.stain, orientations=config.orientations)
        self.surgery = SURGERIES[config.surgery or self.method.surgery](config.rescale_bound)
        self.halves = {half for task in self.method.tasks for half in PARTS[task.cells]}
        self._build(init)

    def _build(self, init: Path | None) -> None:
        config = self.config
        with torch.random.fork_rng():
            torch.manual_seed(step_seed(config.seed, -1))
            encoder = start_encoder(config, init)
            head = Projector(encoder.features, config.projection) if self.method.head == "projector" else nn.Linear(
                encoder.features, 1)
        freeze(encoder, config.freeze)
        quicken(encoder)
        encoder = encoder.to(self.device, self.kind, memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]
        self.encoder: Encoder = self.team.synchronise(encoder).train()  # ty: ignore[invalid-assignment]
        self.head = head.to(self.device, self.kind).train()
        self.networks = nn.ModuleDict({"encoder": self.encoder, "projector": self.head})
        named = [(name, each) for name, each in self.networks.named_parameters() if each.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [each for _, each in named]
        common: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "foreach": True}
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(self.parameters, momentum=0.9, **common) if config.optimizer == "sgd"
            else torch.optim.AdamW(self.parameters, **common))

    def step(self, cells: Mapping[str, Cells], counts: Mapping[str, int], chance: torch.Generator, rate: float) -> Said:
        """One step on the batch of all processes.

        Args:
            cells: Half ("positive", "negative") → this process's share of its cells, on the device.
            counts: Half → its cells in all processes together.
            chance: Where the views come from, the same in every process.
            rate: The learning rate.
        """
        features, projections = self._forward(cells, counts, chance)
        losses, chances = self._losses(projections)
        gradients = [self.team.add_up(self._gradient(self.weight(name) * loss, keep=self._needed_again(place)))
                     for place, (name, loss) in enumerate(losses.items())]
        joined, conflict = self.surgery(gradients)
        for parameter, gradient in zip(self.parameters, joined, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        told = {name: loss.detach() for name, loss in losses.items()}
        return Said(told | chances, conflict, gradients, features)

    def weight(self, task: str) -> float:
        """The weight of a task's loss: a setting of the name `<task>_weight`, else 1."""
        return getattr(self.config, f"{task}_weight", 1.0)

    def _forward(self, cells: Mapping[str, Cells], counts: Mapping[str, int],
                 chance: torch.Generator) -> tuple[Tensor, dict[str, Projections]]:
        """Features of the own views, and the projections of all processes' views, by half."""
        used = [half for half in PARTS["all"] if half in self.halves]
        draw = self.views.draw(2 * sum(counts[half] for half in used), cells[used[0]].shape[1], chance)
        parts, start = [], 0
        for half in used:
            own = self.team.share(counts[half])
            for _ in range(2):
                place = slice(start + own.start, start + own.stop)
                parts.append(self.views.apply(cells[half], draw.of(place, self.device)))
                start += counts[half]
        encoded = list(self._encode(parts))
        projected = itertools.chain.from_iterable(each for _, each in encoded)
        gathered = [self.team.gather(part, counts[half]) for part, half in zip(projected, np.repeat(used, 2), strict=True)]
        return (torch.cat([features.detach() for features, _ in encoded]),
                {half: torch.stack(gathered[2 * place : 2 * place + 2]) for place, half in enumerate(used)})

    def _encode(self, parts: list[Tensor]) -> Iterator[tuple[Tensor, Sequence[Tensor]]]:
        """Features, and the projections of each part; parts that share the statistics of normalisation share a graph."""
        together = {"joint": len(parts), "per-task": 2, "per-view": 1}[self.config.statistics]
        for first in range(0, len(parts), together):
            group = parts[first : first + together]
            views = torch.cat(group).to(self.kind, memory_format=torch.channels_last)
            with mixed_precision(self.device, self.precision):
                features = self.encoder(views)
                projected = self.head(features)
            yield features, projected.to(self.kind).split([len(part) for part in group])

    def _needed_again(self, place: int) -> bool:
        """Whether a later task sends its gradient through the same graph as this one."""
        task, *later = self.method.tasks[place:]
        if self.config.statistics == "joint":
            return bool(later)
        return any(set(PARTS[task.cells]) & set(PARTS[other.cells]) for other in later)

    def _losses(self, projections: dict[str, Projections]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each task's loss; and of contrasts, how near they are to chance."""
        losses, chances = {}, {}
        for task in self.method.tasks:
            halves = PARTS[task.cells]
            chosen = torch.cat([projections[half] for half in halves], dim=1)
            losses[task.name] = task.objective(chosen, _labels(projections, halves))
            if isinstance(task.objective, NTXent):
                floor = NTXent.chance(max(2, chosen.shape[1]))
                chances[f"{task.name}_over_chance"] = losses[task.name].detach() / floor
        return losses, chances

    def _gradient(self, loss: Tensor, *, keep: bool) -> list[Tensor]:
        parts = torch.autograd.grad(loss, self.parameters, retain_graph=keep, allow_unused=True)
        return [torch.zeros_like(parameter) if part is None else part
                for part, parameter in zip(parts, self.parameters, strict=True)]

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint has to hold."""
        return {**self.networks.state_dict(), **optimizer_tensors(self.optimizer)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes back to what `tensors` gave."""
        self.networks.load_state_dict({name: tensors[name] for name in self.networks.state_dict()})
        restore_optimizer(self.optimizer, tensors)


def named_method(config: PretrainConfig) -> Method:
    """The method that the settings name."""
    name = "slam-ags" if config.method == "random" else config.method
    if name not in METHODS:
        raise refuse("method", "one of " + ", ".join([*METHODS, "random"]), f"`{name}`", "Choose one.")
    return METHODS[name](config.contrast_temperature, config.similarity_temperature)


def start_encoder(config: PretrainConfig | EndToEndConfig, init: Path | None) -> Encoder:
    """The encoder as training finds it: random, with weights from elsewhere, or an earlier artifact."""
    if init is None:
        return Encoder(config.encoder, size=config.size or SIZE, options=config.encoder_options, weights=config.weights)
    if config.weights:
        raise refuse("weights", "empty where `init` is given", f"`{config.weights}`", "Give one of the two.")
    return load_encoder(init, size=config.size or None)


def own_device(name: str) -> torch.device:
    """The device of that name; of several CUDA devices, under torchrun, this process's own."""
    device = choose_device(name)
    if device.type == "mps":
        raise refuse("device", "cpu or CUDA for pretraining", f"`{name}`, which has no float64", "Use `--device cpu`.")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def _labels(projections: Mapping[str, Tensor], halves: tuple[str, ...]) -> Bool[Tensor, " cell"]:
    """The label of each cell's slide."""
    return torch.cat([torch.full((projections[half].shape[1],), half == "positive", device=projections[half].device)
                      for half in halves])
