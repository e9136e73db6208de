"""What training takes, measured on a few rows."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from milscope.aggregators import Aggregator
from milscope.augment import Views, centre
from milscope.configs import EndToEndConfig
from milscope.devices import mixed_precision, taken_memory
from milscope.encoders import Encoder
from milscope.memory._cost import Cost, give_back, untouched
from milscope.store import Bags

LOOKED = 4
"""Chunks that are encoded at a time where there is no graph, to judge slides."""
FEATURES = 4
"""Copies of the features of a step that there are: themselves, in the order of slides, their gradients, those by part."""
CHECKPOINT = 5
"""Copies of the networks that are written to a checkpoint: themselves, two moments, their average, the best so far."""
WASTED: Mapping[str, float] = {"cpu": 1.6, "cuda": 1.25}
"""What the memory of a graph comes to over what its tensors hold: gaps that the allocator leaves, room that kernels take.

On processors the worst of twelve trainings was 1.46 (ConvNeXt; ResNet 1.0 to 1.25), beside `SPARE`: in processes of a thread,
ResNet, ViT, ConvNeXt and EfficientNet at 32 to 224 pixels, chunks of 16 to 976, float32 and bfloat16, with ABMILX, TransMIL
and MambaMIL; glibc. That of GPUs is a guess.
"""
SPARE: Mapping[str, float] = {"cpu": 0.15e9, "cuda": 0.15e9}
"""Taken besides, whatever the graph: what libraries make for themselves later on, and the allocator's arenas; bytes."""
PROBE, PROBE_SLIDE = 4, 1024
"""Rows that are encoded, and rows that a slide has, to see what they take; and again with twice as many."""


class Need(NamedTuple):
    """What steps take, from what they are made of; bytes."""

    there: float
    """Taken all the time."""
    checkpoint: float
    """Taken besides while a checkpoint is written."""
    feature: float
    """Of the features of a row, in all copies."""
    learning: Cost
    """Of the encoder's graph, forward and backward, and of the views."""
    looking: Cost
    """Of the encoder without a graph."""
    aggregator: Cost
    """Of the slide model's graph."""
    wasted: float
    """By which what the graphs' tensors hold is multiplied."""

    def of(self, chunk: int, rows: int, together: int, *, one_graph: bool) -> float:
        """The most memory that a step takes, or a look at slides between steps.

        Args:
            chunk: Rows that are encoded at a time.
            rows: Rows that the step looks at.
            together: Those of them that the slide model takes at a time.
            one_graph: Whether the encoder's graph is there while the slide model computes.
        """
        learning, aggregator = self.learning.of(min(chunk, rows)), self.aggregator.of(together)
        graphs = learning + aggregator if one_graph else max(learning, aggregator)
        graphs = max(graphs, self.looking.of(LOOKED * chunk))
        return self.there + max(self.checkpoint, self.feature * rows + self.wasted * graphs)


def measured_need(config: EndToEndConfig, encoder: Encoder, aggregator: Aggregator, *, side: int,
                  precision: torch.dtype) -> Need:
    """What training these networks takes, on the device where they are; they stay as they are.

    Args:
        config: The settings.
        encoder: In the type in which it is trained; its optimizer is not made yet.
        aggregator: Likewise.
        side: Of a decoded cell, pixels.
        precision: Arithmetic of the networks' products.
    """
    weights = [each for network in (encoder, aggregator) for each in network.parameters()]
    first, size = weights[0], sum(each.nbytes for each in weights)
    views, chance = Views(encoder.size, colour=config.colour, stain=config.stain, orientations=config.orientations,
                          resize=config.resize), torch.Generator()

    def encode(views: Tensor) -> Tensor:
        with mixed_precision(first.device, precision):
            return encoder(views.to(first.dtype, memory_format=torch.channels_last)).to(first.dtype)

    def pixels(rows: int) -> Tensor:
        return torch.zeros(rows, side, side, 3, dtype=torch.uint8, device=first.device)

    def learn(rows: int) -> None:
        draw = views.draw(rows, side, chance).of(slice(None), first.device)
        encode(views.apply(pixels(rows), draw)).sum().backward()

    def look(rows: int) -> None:
        with torch.no_grad():
            encode(centre(pixels(rows), encoder.size))

    def aggregate(rows: int) -> None:
        cells = torch.rand(rows, encoder.features, dtype=first.dtype, device=first.device, requires_grad=True)
        bags = Bags(cells, torch.tensor([0, rows], device=first.device))
        with mixed_precision(first.device, precision):
            found = aggregator(bags, torch.ones(1, aggregator.classes, device=first.device, dtype=first.dtype))
        (found.logits if found.streams is None else found.streams).sum().backward()

    with untouched(encoder, aggregator):
        learn(PROBE)  # what is made once only
        learning, looking = Cost.measured(learn, PROBE), Cost.measured(look, PROBE)
        slide = Cost.measured(aggregate, PROBE_SLIDE)
        give_back()
        there = taken_memory(first.device)  # with gradients, and with what libraries make for themselves when first used
    copies = 2 + (config.average > 0) + (first.device.type == "cpu")  # moments, the average, the best so far
    feature = FEATURES * encoder.features * first.itemsize
    there += copies * size + SPARE[first.device.type]
    return Need(there, CHECKPOINT * size, feature, learning, looking, slide, WASTED[first.device.type])
