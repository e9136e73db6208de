"""What every aggregator takes, gives and refuses."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from milscope.store import Bags, Scale, cells_alone, measure_scale
from milscope.types import refuse

CHUNK = 8192
"""Cells that are alone at a time."""
Targets = Float[Tensor, "slide class"]
"""1 where a slide is of that class, 0 where it is not, NaN where that is unknown."""


class Aggregated(NamedTuple):
    """What an aggregator says of slides."""

    logits: Float[Tensor, "slide class"]
    """All tasks side by side; what they mean, the tasks say. For one task of classes: the softmax is their probability."""
    attention: Float[Tensor, "cell class"]
    """How much each cell counts for each class: at least 0, sums to 1 over the cells of a slide."""
    penalty: Float[Tensor, ""]
    """What the aggregator adds to the loss, its mean over slides; 0 for most."""
    streams: Float[Tensor, "stream slide class"] | None = None
    """Logits that are trained in place of `logits`: the loss is the mean of theirs."""
    routing: Float[Tensor, "cell class"] | None = None
    """How much of each cell is sent to each class's expert: at least 0, sums to 1 over the cells of a slide."""


class Aggregator(nn.Module, ABC):
    """From the features of a slide's cells to the slide's logits, and the attention paid to each cell.

    Features are standardised first, by the mean and deviation of the training and validation cells (`fit_scale`), which
    are part of the model. Normalising each cell by itself would not do: where the encoder gives all cells much the same large
    vector, what tells them apart would stay as small beside it as it was.

    Args:
        features: Width of the features.
        classes: Number of logits, of all tasks together.
        dropout: Share of hidden features dropped while training.
        options: The subclass's own settings; with the other three they are all that is needed to build it again.
    """

    order_matters: ClassVar[bool] = False
    """Whether the order of a slide's cells is read."""
    by_task: ClassVar[bool] = False
    """Whether it takes `outputs`, the numbers of logits of the tasks, since it has parts of its own for each task."""
    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]

    def __init__(self, features: int, classes: int, dropout: float, **options: Any) -> None:  # noqa: ANN401
        super().__init__()
        self.options: dict[str, Any] = {"features": features, "classes": classes, "dropout": dropout, **options}
        self.classes = classes
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    @abstractmethod
    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """The same as `forward`, of standardised features and slides that have cells."""

    def forward(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """Logits of each slide and attention of each cell.

        Args:
            bags: The slides.
            targets: What is known of them, for aggregators whose penalty depends on it; None when predicting.

        Raises:
            InputError: If a slide has no cells, or the features are of another width.
        """
        self.check(bags)
        return self.aggregate(Bags(self.standardised(bags), bags.offsets), targets)

    def standardised(self, bags: Bags) -> Float[Tensor, "cell feature"]:
        """The features less their mean, over their deviation."""
        return (bags.features - self.mean) / self.deviation

    def check(self, bags: Bags) -> None:
        """Refuses slides without cells, and features of another width."""
        if len(bags.features) == 0 or bool((bags.lengths < 1).any()):
            empty = (bags.lengths < 1).nonzero().flatten().tolist()
            raise refuse("bags", "slides with at least one cell", f"none in slide number {empty or 0}",
                         "Leave slides without cells out.")
        if bags.features.shape[1] != len(self.mean):
            raise refuse("bags", f"features of width {len(self.mean)}", f"width {bags.features.shape[1]}",
                         "Use the encoder that the model was trained with.")

    def with_cells_alone(self, bags: Bags) -> tuple[Aggregated, Float[Tensor, "cell class"]]:
        """What `forward` gives, and the logits that each cell would have, were it alone on its slide.

        A few thousand cells are alone at a time, so that memory is bounded.
        """
        alone = [self(cells_alone(rows)).logits for rows in bags.features.split(CHUNK)]
        return self(bags), torch.cat(alone)

    def fit_scale(self, features: Float[Tensor, "cell feature"]) -> None:
        """Takes over mean and standard deviation of these cells; a feature that does not vary keeps its size."""
        self.set_scale(measure_scale([features]))

    def set_scale(self, scale: Scale) -> None:
        """Takes over the mean and standard deviation by which features are standardised."""
        self.mean.copy_(scale.mean)
        self.deviation.copy_(scale.deviation)
