"""Several trained models that speak with one voice."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.store import Bags


class Ensemble(Aggregator):
    r"""The mean of the logits, the attention and, if all have one, the routing of several models, of other folds or seeds.

    $$ y = \frac{1}{m} \sum_j y^{(j)}, \qquad a_i = \frac{1}{m} \sum_j a_i^{(j)} $$

    Each model standardises the features by its own mean and deviation.

    Args:
        features: Width of the features.
        classes: Number of logits.
        dropout: Not used; each model has its own.
        members: Name and options of each model, as plain values.
        find: Name → class.
    """

    def __init__(self, features: int, classes: int = 2, dropout: float = 0.0, *,
                 members: Sequence[Sequence[Any]], find: Callable[[str], type[Aggregator]]) -> None:
        super().__init__(features, classes, dropout, members=[[name, dict(options)] for name, options in members])
        self.members = nn.ModuleList(find(name)(**options) for name, options in members)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        found = [member(bags) for member in self.members]
        logits = torch.stack([each.logits for each in found]).mean(0)
        attention = torch.stack([each.attention for each in found]).mean(0)
        routes = [each.routing for each in found if each.routing is not None]
        routing = torch.stack(routes).mean(0) if len(routes) == len(found) else None
        return Aggregated(logits, attention, logits.new_zeros(()), routing=routing)
