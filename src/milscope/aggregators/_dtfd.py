"""DTFD: a slide as several pseudo-bags, and a second attention over what is distilled from each."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._gate import GatedScores
from milscope.aggregators._segments import attend, segment_argmax, segment_order, segment_softmax
from milscope.store import Bags
from milscope.types import refuse

DISTILLATIONS = ("afs", "mas", "maxs", "maxmins")


class PseudoBags(NamedTuple):
    """The cells of slides, dealt to pseudo-bags; those of a slide come one after the other."""

    of_cell: Int[Tensor, " cell"]
    slide: Int[Tensor, " bag"]
    """The slide that each pseudo-bag is part of."""
    first: Int[Tensor, " slide"]
    """Each slide's first pseudo-bag."""
    count: Int[Tensor, " slide"]
    """How many pseudo-bags each slide has."""


class DTFD(Aggregator):
    r"""Double-tier feature distillation: attention within each pseudo-bag of a slide, then over the pseudo-bags.

    The cells of a slide are dealt to $M = \min(P, n)$ pseudo-bags of equal size (to one cell). With
    $h_i = \mathrm{ReLU}(E f_i + e)$, tier 1 is gated attention in each pseudo-bag b, tier 2 gated attention, with
    weights of its own, over the vectors $d_j$ distilled from them:

    $$ a_i = \mathrm{softmax}_{i \in b}\, s(h_i), \quad F_b = \sum_{i \in b} a_i h_i, \quad y_b = W F_b + \beta $$
    $$ t_j = \mathrm{softmax}_j\, s'(d_j), \quad y = W' \sum_j t_j d_j + \beta' $$

    What is distilled: $F_b$ (`afs`); the h of the cell with the largest $a_i$ (`mas`); of that with the largest
    probability $p_i$ (`maxs`); of those with the largest and the smallest (`maxmins`), where $p_i$ is the last class's
    in $\mathrm{softmax}_c\, W_c^T a_i h_i$, the class activation of the cell; with a single logit, that itself.

    Training deals at random, and the loss is half the mean loss of the slide's pseudo-bags and half that of tier 2,
    which does not reach back into tier 1. Otherwise cells are dealt in turn in the order of the sum of their
    standardised features: the same way however they are stored. A cell's attention is $a_i$ times the $t$ of its
    pseudo-bag, whatever is distilled.

    `streams` holds P pseudo-bags, then P times tier 2. A slide of fewer pseudo-bags repeats them in turn: where M does
    not divide P, which takes fewer than P cells, some count once more than others.

    Args:
        features: Width of the features.
        classes: Number of classes; all share the attention.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        attention: Width of the attentions' hidden layers.
        pseudo_bags: P, into how many a slide is divided.
        distill: What goes from a pseudo-bag to tier 2: afs, mas, maxs or maxmins.

    Raises:
        InputError: If a setting is outside its range.

    Source:
        Zhang, Meng, Zhao, Qiao, Yang, Coupland, Zheng, DTFD-MIL: Double-Tier Feature Distillation Multiple Instance
        Learning for Histopathology Whole Slide Image Classification, 2022, section 3. As in the authors' code,
        one cell of a kind is selected per pseudo-bag, and the activation is that of $a_i h_i$; there E has no bias, the
        loss of tier 2 does run back into tier 1 but its gradient is thrown away, and prediction deals at random too.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *,
        hidden: int = 512, attention: int = 128, pseudo_bags: int = 4, distill: str = "afs",
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention, pseudo_bags=pseudo_bags,
                         distill=distill)
        if pseudo_bags < 1 or distill not in DISTILLATIONS:
            raise refuse("pseudo_bags, distill", "at least 1, one of " + ", ".join(DISTILLATIONS),
                         f"{pseudo_bags}, {distill}", "Correct them.")
        self.pseudo_bags, self.distill = pseudo_bags, distill
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout))
        self.scores = GatedScores(hidden, attention)
        self.classify = nn.Linear(hidden, classes)
        self.scores_of_bags = GatedScores(hidden, attention)
        self.classify_slides = nn.Linear(hidden, classes)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        if torch.compiler.is_exporting():
            return self._exported(bags)
        dealt, cells = self._deal(bags), self.embed(bags.features)
        within = segment_softmax(self.scores(cells), dealt.of_cell, len(dealt.slide))
        packed = dealt.of_cell.argsort(stable=True)
        vectors = attend(within[packed], cells[packed], dealt.of_cell[packed], len(dealt.slide)).squeeze(1)
        distilled = self._distil(cells, within, vectors, dealt)
        if self.training:
            distilled = distilled.detach()
        each = distilled.shape[1]
        slide, items = dealt.slide.repeat_interleave(each), distilled.flatten(0, 1)
        among = segment_softmax(self.scores_of_bags(items), slide, bags.n_slides)
        logits = self.classify_slides(attend(among, items, slide, bags.n_slides).squeeze(1))
        attention = within * among.unflatten(0, (-1, each)).sum(1).index_select(0, dealt.of_cell)
        streams = self._streams(self.classify(vectors), logits, dealt) if self.training else None
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()), streams)

    @torch.no_grad()
    def _deal(self, bags: Bags) -> PseudoBags:
        owner, place = bags.owner, torch.arange(len(bags.features), device=bags.offsets.device)
        key = torch.rand(len(place), device=place.device) if self.training else _sums(bags.features)
        order = segment_order(key[:, None], owner).squeeze(1)
        count = bags.lengths.clamp(max=self.pseudo_bags)
        first = count.cumsum(0) - count
        bag = first[owner] + (place - bags.offsets[owner]) % count[owner]
        slide = torch.arange(bags.n_slides, device=place.device).repeat_interleave(count)
        return PseudoBags(torch.empty_like(bag).scatter(0, order, bag), slide, first, count)

    def _distil(
        self, cells: Float[Tensor, "cell hidden"], within: Float[Tensor, "cell 1"],
        vectors: Float[Tensor, "bag hidden"], dealt: PseudoBags,
    ) -> Float[Tensor, "bag item hidden"]:
        if self.distill == "afs":
            return vectors[:, None]
        with torch.no_grad():
            if self.distill == "mas":
                wanted = within
            else:
                activation = nn.functional.linear(cells, self.classify.weight) * within
                wanted = activation.log_softmax(1)[:, -1:] if self.classes > 1 else activation
            if self.distill == "maxmins":
                wanted = torch.cat([wanted, -wanted], 1)
            rows = segment_argmax(wanted, dealt.of_cell, len(dealt.slide))
        return cells.index_select(0, rows.flatten()).unflatten(0, rows.shape)

    def _exported(self, bags: Bags) -> Aggregated:
        """Outside training, one slide of any number of cells: always P pseudo-bags, those without a cell left out of sums."""
        order = _sums(bags.features).argsort(descending=True)  # as ONNX sorts: of equal ones the first
        place = torch.arange(len(order), device=order.device)
        cells, turn = self.embed(bags.features)[order], torch.arange(self.pseudo_bags, device=order.device)
        inside = place[:, None] % self.pseudo_bags == turn
        within = self.scores(cells).masked_fill(~inside, -torch.inf).softmax(0).masked_fill(~inside, 0)
        distilled = self._exported_items(cells, within, inside)
        given = (turn < len(place))[:, None].expand(distilled.shape[:2])
        among = self.scores_of_bags(distilled).squeeze(2).masked_fill(~given, -torch.inf).flatten().softmax(0)
        logits = self.classify_slides(among @ distilled.flatten(0, 1))[None]
        attention = within @ among.unflatten(0, given.shape).sum(1)
        attention = torch.empty_like(attention).scatter(0, order, attention)[:, None]
        return Aggregated(logits, attention.expand(-1, self.classes), logits.new_zeros(()))

    def _exported_items(
        self, cells: Float[Tensor, "cell hidden"], within: Float[Tensor, "cell bag"], inside: Bool[Tensor, "cell bag"]
    ) -> Float[Tensor, "bag item hidden"]:
        """What `_distil` gives; zeros or any cell for pseudo-bags without a cell."""
        if self.distill == "afs":
            return (within.T @ cells)[:, None]
        wanted = [within]
        if self.distill != "mas":
            activation = nn.functional.linear(cells, self.classify.weight)[:, None] * within[:, :, None]
            wanted = [activation.log_softmax(2)[:, :, -1] if self.classes > 1 else activation[:, :, 0]]
        if self.distill == "maxmins":
            wanted.append(-wanted[0])
        rows = torch.stack([each.masked_fill(~inside, -torch.inf).argmax(0) for each in wanted], 1)
        return cells[rows.flatten()].unflatten(0, rows.shape)

    def _streams(
        self, of_bags: Float[Tensor, "bag class"], of_slides: Float[Tensor, "slide class"], dealt: PseudoBags
    ) -> Float[Tensor, "stream slide class"]:
        turn = torch.arange(self.pseudo_bags, device=of_bags.device)[:, None]
        first_tier = of_bags[dealt.first + turn % dealt.count]
        return torch.cat([first_tier, of_slides.expand_as(first_tier)])


def _sums(features: Float[Tensor, "cell feature"]) -> Float[Tensor, " cell"]:
    """The sum of each cell's features, so exact that cells lie in the same order wherever it is computed."""
    return features.sum(1) if features.device.type == "mps" else features.double().sum(1)
