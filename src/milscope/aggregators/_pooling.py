"""The two aggregators without attention: what every other one has to beat."""

from torch import nn

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._segments import segment_argmax, segment_mean
from milscope.store import Bags


class MeanPooling(Aggregator):
    r"""The logits of a slide's mean cell.

    $$ y = W \frac{1}{n} \sum_i h_i + b, \qquad a_i = \frac{1}{n} $$

    Args:
        features: Width of the features.
        classes: Number of classes.
        dropout: Share of the mean cell's features dropped while training.
    """

    def __init__(self, features: int, classes: int = 2, dropout: float = 0.25) -> None:
        super().__init__(features, classes, dropout)
        self.classify = nn.Sequential(Dropout(dropout), nn.Linear(features, classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        owner = bags.owner
        logits = self.classify(segment_mean(bags.features, owner, bags.n_slides))
        share = bags.lengths.to(logits.dtype).reciprocal().index_select(0, owner)
        return Aggregated(logits, share[:, None].expand(-1, self.classes), logits.new_zeros(()))


class MaxPooling(Aggregator):
    r"""For each class the highest logit among the cells; that cell, the first of equal ones, has all the attention.

    $$ y_c = \max_i (W h_i + b)_c, \qquad a_{ic} = [i = \arg\max] $$

    Args:
        features: Width of the features.
        classes: Number of classes.
        dropout: Share of each cell's features dropped while training.
    """

    def __init__(self, features: int, classes: int = 2, dropout: float = 0.25) -> None:
        super().__init__(features, classes, dropout)
        self.classify = nn.Sequential(Dropout(dropout), nn.Linear(features, classes))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        cells = self.classify(bags.features)
        highest = segment_argmax(cells, bags.owner, bags.n_slides)
        attention = cells.new_zeros(cells.shape).scatter(0, highest, 1.0)
        return Aggregated(cells.gather(0, highest), attention, cells.new_zeros(()))
