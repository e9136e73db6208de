"""DSMIL: the highest cell, and attention by the likeness to it."""

import torch
from torch import nn

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._segments import attend, segment_argmax, segment_softmax
from milscope.store import Bags


class DSMIL(Aggregator):
    r"""The mean of two streams: the highest cell of each class, and all cells by their likeness to that one.

    $$ s_{ic} = (A f_i + \alpha)_c, \quad m_c = \arg\max_i s_{ic}, \quad q_i = Q f_i + \kappa, \quad
       a_{ic} = \mathrm{softmax}_i \frac{\langle q_i, q_{m_c} \rangle}{\sqrt d} $$
    $$ v_c = \sum_i a_{ic} (V f_i + \nu), \quad
       y_c = \tfrac12 \Big( s_{m_c c} + \sum_{c'} W_{c c'}^T v_{c'} + \beta_c \Big) $$

    While training, the loss is the mean of the two streams' losses.

    Args:
        features: Width of the features.
        classes: Number of classes, each with its own highest cell and attention; each reads the vectors v of all.
        dropout: Share of the features dropped in V while training.
        query: d, width of q.
        values: Width of v; None: as wide as the features.

    Source:
        Li, Li, Eliceiri, Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification with
        Self-supervised Contrastive Learning, 2021, section 3. The root of d is in the authors' code, not in the
        paper. Their first code chose the highest cell of every class but the first in a wrong order of cells; later
        code has a hidden layer in Q, and no V: this follows the paper. The code predicts by the second stream alone in
        places; this by the mean, as the paper. As the weights sum to 1, V is applied to the sum, which is the same.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, query: int = 128, values: int | None = None
    ) -> None:
        super().__init__(features, classes, dropout, query=query, values=values)
        values = features if values is None else values
        self.score = nn.Linear(features, classes)
        self.query = nn.Linear(features, query)
        self.dropout = Dropout(dropout)
        self.value = nn.Linear(features, values)
        self.classify = nn.Linear(classes * values, classes)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        owner, slides, cells = bags.owner, bags.n_slides, bags.features
        scores, queries = self.score(cells), self.query(cells)
        highest = segment_argmax(scores, owner, slides)
        likeness = [(queries * queries.index_select(0, rows.index_select(0, owner))).sum(1) for rows in highest.unbind(1)]
        attention = segment_softmax(torch.stack(likeness, 1) / queries.shape[1] ** 0.5, owner, slides)
        dropped = self.dropout(cells)
        means = [attend(head, dropped, owner, slides) for head in attention.split(1, dim=1)]  # one at a time: memory
        streams = torch.stack([scores.gather(0, highest), self.classify(self.value(torch.cat(means, 1)).flatten(1))])
        return Aggregated(streams.mean(0), attention, scores.new_zeros(()), streams if self.training else None)
