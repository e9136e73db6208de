"""Attention-based multiple instance learning, plain and gated."""

from jaxtyping import Float
from torch import Tensor, nn

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._segments import attend, segment_softmax
from milscope.store import Bags


class ABMIL(Aggregator):
    r"""The logits of a weighted mean cell; the weights are learned from the cells.

    $$ h_i = \mathrm{ReLU}(E f_i), \quad a = \mathrm{softmax}_i (w^T \tanh(V h_i)), \quad y = W \sum_i a_i h_i + b $$

    Args:
        features: Width of the features.
        classes: Number of classes; all share the one attention.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        attention: Width of the attention's hidden layer.

    Source:
        Ilse, Tomczak, Welling, Attention-based Deep Multiple Instance Learning, 2018, equations 7 and 8.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 256, attention: int = 128
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention)
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout))
        self.attend = nn.Sequential(nn.Linear(hidden, attention), nn.Tanh())
        self.weigh = nn.Linear(attention, 1)
        self.classify = nn.Linear(hidden, classes)

    def scores(self, embedded: Float[Tensor, "cell hidden"]) -> Float[Tensor, "cell 1"]:
        """The attention before the softmax."""
        return self.weigh(self.attend(embedded))

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        return self._aggregate(self.embed(bags.features), bags)

    def with_cells_alone(self, bags: Bags) -> tuple[Aggregated, Float[Tensor, "cell class"]]:
        """See `Aggregator.with_cells_alone`: a cell alone has all the attention, so that its embedding is the slide's."""
        self.check(bags)
        embedded = self.embed(self.standardised(bags))
        return self._aggregate(embedded, bags), self.classify(embedded)

    def _aggregate(self, embedded: Float[Tensor, "cell hidden"], bags: Bags) -> Aggregated:
        owner = bags.owner
        attention = segment_softmax(self.scores(embedded), owner, bags.n_slides)
        logits = self.classify(attend(attention, embedded, owner, bags.n_slides).squeeze(1))
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))


class GatedABMIL(ABMIL):
    r"""ABMIL whose attention has a gate, so that it is not bound to the nearly linear part of tanh.

    $$ a = \mathrm{softmax}_i (w^T (\tanh(V h_i) \odot \sigma(U h_i))) $$

    Args:
        features: Width of the features.
        classes: Number of classes; all share the one attention.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        attention: Width of the attention's hidden layer.

    Source:
        Ilse, Tomczak, Welling, Attention-based Deep Multiple Instance Learning, 2018, equation 9.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 256, attention: int = 128
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention)
        self.gate = nn.Sequential(nn.Linear(hidden, attention), nn.Sigmoid())

    def scores(self, embedded: Float[Tensor, "cell hidden"]) -> Float[Tensor, "cell 1"]:
        """The attention before the softmax."""
        return self.weigh(self.attend(embedded) * self.gate(embedded))
