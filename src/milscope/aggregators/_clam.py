"""CLAM: gated attention, and a loss on the most and the least attended cells."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from milscope.aggregators._base import Aggregated, Aggregator, Targets
from milscope.aggregators._dropout import Dropout
from milscope.aggregators._gate import GatedScores
from milscope.aggregators._segments import attend, segment_order, segment_softmax
from milscope.store import Bags
from milscope.types import refuse


class CLAMSB(Aggregator):
    r"""CLAM with a single branch: one attention for all classes, whose extremes a classifier of cells learns to tell apart.

    With $h_i = \mathrm{ReLU}(E f_i + e)$, the gated scores $s_{ib}$ of branch b (one here, one per class in `CLAMMB`)
    and $b(c)$ the branch of class c:

    $$ a_{ib} = \mathrm{softmax}_i\, s_{ib}, \qquad y_c = W_c^T \sum_i a_{i b(c)} h_i + \beta_c. $$

    The penalty needs targets. Of a slide of n cells that is of class c, the $\min(k, \lceil n/2 \rceil)$ cells with the
    highest $s_{i b(c)}$ get the pseudo-label $z = 1$ and the $\min(k, \lfloor n/2 \rfloor)$ with the lowest get
    $z = -1$: no cell gets both, and the only cell of a slide gets 1. Of a slide that is not of class c, the
    $\min(k, n)$ cells with the highest get $z = -1$ if classes exclude each other (`exclusive`), else none does; nor does
    any where the target is NaN. With the margin $m_{ic} = g_c^T h_i + \gamma_c$, such a cell costs

    $$ \ell = \tau \log (1 + \exp ((\alpha - z\, m_{ic}) / \tau)), $$

    the smooth top-1 support vector machine of two classes ($\alpha = 0$, $\tau = 1$: cross-entropy). The penalty is
    $\frac{\rho}{1 - \rho}$ times the mean of $\ell$ over the cells of a class, then over the slide's classes that chose
    any, then over slides: beside a loss of slides of weight 1, the ratio is that of $(1 - \rho)$ to $\rho$.

    Args:
        features: Width of the features.
        classes: Number of classes.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        attention: Width of the attention's hidden layer.
        cells: k, how many cells at either end of the attention get pseudo-labels.
        share: Rho, the cells' share of the loss, from 0 to below 1.
        margin: Alpha, at least 0.
        temperature: Tau, above 0.
        exclusive: Whether a slide that is not of a class shows nothing of it (tumour subtypes). False where it may
            (a tumour slide holds normal tissue): then a class learns from its own slides only.

    Raises:
        InputError: If a setting is outside its range.

    Source:
        Lu, Williamson, Chen, Chen, Barbieri, Mahmood, Data-efficient and weakly supervised computational pathology on
        whole-slide images, 2021, Methods; the loss: Berrada, Zisserman, Kumar, Smooth Loss Functions for Deep Top-k
        Classification, 2018. The authors' instance classifiers have two outputs, of which the loss reads the
        difference, here one output. Their code fails where a slide has fewer than k cells and gives a cell both labels
        where it has fewer than 2k (issues 28 and 48); picks by the attention, whose lowest values are 0 alike in single
        precision, not by the score; and drops out inside the attention too.
    """

    def __init__(
        self, features: int, classes: int = 2, dropout: float = 0.25, *, hidden: int = 512, attention: int = 256,
        cells: int = 8, share: float = 0.3, margin: float = 1.0, temperature: float = 1.0, exclusive: bool = True,
    ) -> None:
        super().__init__(features, classes, dropout, hidden=hidden, attention=attention, cells=cells, share=share,
                         margin=margin, temperature=temperature, exclusive=exclusive)
        if cells < 1 or not 0 <= share < 1 or margin < 0 or temperature <= 0:
            raise refuse("cells, share, margin, temperature", "at least 1, from 0 to below 1, at least 0, above 0",
                         f"{cells}, {share}, {margin}, {temperature}", "Correct them.")
        self.cells, self.share, self.margin, self.temperature = cells, share, margin, temperature
        self.exclusive = exclusive
        self.embed = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), Dropout(dropout))
        self.scores = GatedScores(hidden, attention, self._branches(classes))
        self.classify = nn.Linear(hidden, classes)
        self.judge = nn.Linear(hidden, classes)

    def aggregate(self, bags: Bags, targets: Targets | None = None) -> Aggregated:
        """See `Aggregator.aggregate`."""
        owner, slides, embedded = bags.owner, bags.n_slides, self.embed(bags.features)
        scores = self.scores(embedded)
        attention = segment_softmax(scores, owner, slides)
        vectors = [attend(branch, embedded, owner, slides) for branch in attention.split(1, dim=1)]  # one at a time: memory
        logits = (torch.cat(vectors, 1) * self.classify.weight).sum(2) + self.classify.bias
        penalty = logits.new_zeros(()) if targets is None else self._penalty(scores, embedded, bags, targets)
        return Aggregated(logits, attention.expand(-1, self.classes), penalty)

    @staticmethod
    def _branches(classes: int) -> int:
        return 1

    def _penalty(
        self, scores: Float[Tensor, "cell branch"], embedded: Float[Tensor, "cell hidden"], bags: Bags, targets: Targets
    ) -> Float[Tensor, ""]:
        rows = _extremes(scores, bags, self.cells).expand(-1, -1, self.classes)
        used, label = self._pseudo_labels(bags.lengths, targets)
        chosen = embedded.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        margins = (chosen * self.judge.weight).sum(3) + self.judge.bias
        losses = self.temperature * functional.softplus((self.margin - label * margins) / self.temperature)
        of_classes = (losses * used).sum(1) / used.sum(1).clamp(min=1)
        of_slides = of_classes.sum(1) / used.any(1).sum(1).clamp(min=1)
        return self.share / (1 - self.share) * of_slides.mean()

    def _pseudo_labels(
        self, lengths: Int[Tensor, " slide"], targets: Targets
    ) -> tuple[Bool[Tensor, "slide place class"], Int[Tensor, "slide place class"]]:
        """For the rows that `_extremes` found: whether they have a pseudo-label, and which, 1 or -1."""
        place, n = torch.arange(self.cells, device=lengths.device)[:, None], lengths[:, None, None]
        of_class, of_another = (targets == 1)[:, None], ((targets == 0) & self.exclusive)[:, None]
        top = of_class & (place < (n + 1) // 2) | of_another & (place < n)
        bottom = of_class & (place < n // 2)
        label = torch.where(of_class, 1, -1).expand(top.shape)
        return torch.cat([top, bottom], 1), torch.cat([label, torch.full_like(label, -1)], 1)


class CLAMMB(CLAMSB):
    r"""CLAM with many branches: an attention for each class, by which its logit and its pseudo-labels are made.

    As `CLAMSB`, with $b(c) = c$. Every class chooses cells by its own branch, also on slides that are not of it: what its
    branch attends to there is what it must not take for its own.

    Args:
        features: Width of the features.
        classes: Number of classes.
        dropout: Share of the embedding's features dropped while training.
        hidden: Width of the embedding h.
        attention: Width of the attention's hidden layer.
        cells: k, how many cells at either end of the attention get pseudo-labels.
        share: Rho, the cells' share of the loss, from 0 to below 1.
        margin: Alpha, at least 0.
        temperature: Tau, above 0.
        exclusive: Whether a slide that is not of a class shows nothing of it.

    Source:
        As `CLAMSB`. The authors' function that picks cells, given the attention of all branches at once, would take
        that of the last class without complaint; they call it once per class.
    """

    @staticmethod
    def _branches(classes: int) -> int:
        return classes


def _extremes(scores: Float[Tensor, "cell branch"], bags: Bags, k: int) -> Int[Tensor, "slide place branch"]:
    """The rows of each slide's k highest scores and of its k lowest; what a small slide lacks, any of its rows."""
    place = torch.arange(k, device=scores.device)
    first, last = bags.offsets[:-1, None], bags.offsets[1:, None] - 1
    places = torch.cat([torch.minimum(first + place, last), torch.maximum(last - place, first)], 1)
    return segment_order(scores.detach(), bags.owner)[places]
