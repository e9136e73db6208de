"""One step end to end: which cells are looked at, the loss of their slides, and the gradient back to the encoder."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from milscope.aggregators import Aggregated
from milscope.checkpoints import step_seed
from milscope.configs import EndToEndConfig
from milscope.devices import mixed_precision
from milscope.distributed import Team
from milscope.endtoend._networks import Moved
from milscope.endtoend._rows import Rows, Seen, joined
from milscope.memory import Plan
from milscope.recompute import encode_apart, learn_apart, statistics_kept
from milscope.samplers import Sampler
from milscope.store import Bags, measure_scale
from milscope.tasks import JointLoss, Questions

HEAD = 32_768
"""Most rows that the slide model takes at a time."""

Features = Float[Tensor, "row feature"]


class Asked(NamedTuple):
    """What there is to learn."""

    questions: Questions
    loss: JointLoss
    targets: Float[Tensor, "slide column"]

    @property
    def compares(self) -> bool:
        """Whether the loss of a slide depends on the others of the step."""
        return any(task.compares for task in self.questions.tasks)


class Step:
    r"""What moves encoder and slide model together.

    The features of all rows that the sampler looks at make the slides; the loss L of the slides gives the gradient of each
    feature, $g_i = \partial L / \partial f_i$; and the encoder $\theta$ learns from the rows S that the sampler lets learn,

    $$ \frac{\partial L}{\partial \theta} = \sum_{i \in S} g_i^T \, \frac{\partial f_i}{\partial \theta} $$

    If S is all rows, that is the gradient of the loss itself. What does not fit the memory at once is encoded without a graph
    first and once more, chunk by chunk, when the gradients of the features are known.

    Args:
        moved: Encoder and slide model.
        rows: The cells.
        asked: What there is to learn.
        sampler: Which rows are looked at, and which learn.
        plan: How many rows are encoded at a time, and in which arithmetic.
        config: The settings.
        team: The processes that share each step; each has its share of the slides.

    Source:
        Tang et al., arXiv 2506.02408, 2025: sampling, and one loss for encoder and aggregator. The exact way is ours; the order
        of computing is known as gradient caching (Gao et al., Scaling deep contrastive learning batch size under memory
        limited setup, 2021).
    """

    def __init__(self, moved: Moved, rows: Rows, asked: Asked, *, sampler: Sampler, plan: Plan, config: EndToEndConfig,
                 team: Team) -> None:
        self.moved, self.rows, self.asked, self.sampler, self.plan = moved, rows, asked, sampler, plan
        self.config, self.team = config, team
        first = next(moved.networks.parameters())
        self.device, self.kind = first.device, first.dtype

    def __call__(self, slides: Int[Tensor, " slide"], place: tuple[int, int], rate: float) -> tuple[Tensor, int]:
        """One step on the slides of all processes; gives the loss summed over slides, and the rows that were looked at.

        Args:
            slides: Their places; at least as many as processes.
            place: Epoch and step, from which all chance follows.
            rate: The learning rate.
        """
        seen = self._seen(slides, place)
        loss = self._learn(seen, slides, place)
        told = loss if self.team.leads or not self.asked.compares else torch.zeros_like(loss)  # all of them have the same
        gradients = self.team.add_up([*self.moved.gradients(), told.to(self.kind)[None]])
        self.moved.step(gradients[:-1], rate)
        return gradients[-1][0] * len(slides), len(seen.numbers)

    @torch.no_grad()
    def fit_scale(self, slides: Int[Tensor, " slide"], most: int) -> None:
        """Measures by which mean and deviation features are standardised, on so many rows; it stays as it is at the start."""
        chosen = self.rows.some_of(slides.tolist(), most, self._chance((-1, -1), 0, 0))
        encoder = self.moved.networks.encoder.train()
        with statistics_kept(encoder), mixed_precision(self.device, self.plan.precision):
            features = [encoder(self.rows.middles(part)).cpu() for part in chosen.split(self.plan.chunk)]
        self.moved.set_scale(measure_scale(features))

    def _seen(self, slides: Int[Tensor, " slide"], place: tuple[int, int]) -> Seen:
        """The rows that the own slides consist of in this step."""
        numbers, lengths, draws = [], [], []
        for who in self._own(slides):
            slide = int(slides[who])
            chosen = self.sampler.seen(self.rows.of(slide), self._chance(place, who, 0))
            numbers.append(self.rows.numbers(slide, chosen))
            lengths.append(len(chosen))
            draws.append(self.rows.draw(len(chosen), self.config.seed, *place, who, 1))
        return Seen(torch.cat(numbers), lengths, joined(draws))

    def _own(self, slides: Int[Tensor, " slide"]) -> range:
        """Which of the step's slides are this process's."""
        share = self.team.share(len(slides))
        return range(share.start, share.stop)

    def _learn(self, seen: Seen, slides: Int[Tensor, " slide"], place: tuple[int, int]) -> Float[Tensor, ""]:
        """The loss, over the number of slides in the step; the gradients are left in the parameters."""
        encoder = self.moved.networks.encoder.train()
        at_once = self.sampler.learns_all and len(seen.numbers) <= self.plan.chunk

        def encode(some: Int[Tensor, " some"]) -> Float[Tensor, "some feature"]:
            views = self.rows.views_of(seen.numbers[some], seen.draw.of(some))
            with mixed_precision(self.device, self.plan.precision):
                return encoder(views).to(self.kind)

        parts, seed = self._parts(torch.arange(len(seen.numbers)), place), self._seed(place, self.team.rank, 3)
        with self._drawing(seed):
            features = encode(parts[0]) if at_once else encode_apart(encode, parts, seed=seed)
        leaf = features.detach()[torch.cat(parts).argsort().to(self.device)].requires_grad_()
        loss, attention = self._head(leaf, seen, slides, place)
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if not self.sampler.learns_all:
            parts = self._parts(self._learned(attention, seen, self._own(slides), place), place)
        gradients = [gradient[part.to(self.device)] for part in parts]
        if at_once:
            features.backward(gradients[0])
        else:
            with statistics_kept(encoder):
                learn_apart(encode, parts, gradients, seed=seed)
        return loss

    def _parts(self, some: Int[Tensor, " some"], place: tuple[int, int]) -> list[Int[Tensor, " part"]]:
        """Rows in parts of at most a chunk, as even as can be; mixed, if those of a part share their statistics."""
        if not self.moved.networks.fixed:
            some = some[torch.randperm(len(some), generator=self._chance(place, self.team.rank, 2))]
        return list(some.tensor_split(max(1, -(-len(some) // self.plan.chunk))))

    def _head(self, features: Features, seen: Seen, slides: Int[Tensor, " slide"],
              place: tuple[int, int]) -> tuple[Float[Tensor, ""], Float[Tensor, " row"]]:
        """The loss of the own slides, whose gradient is left in the features, and the attention that was paid to each row."""
        total, attentions = features.new_zeros(()), []
        own, start = slides[self.team.share(len(slides))], 0
        ends = torch.tensor([0, *seen.lengths]).cumsum(0)
        with self._drawing(self._seed(place, self.team.rank, 5)):
            for stop in self._groups(seen.lengths):
                bags = Bags(features[ends[start] : ends[stop]], (ends[start : stop + 1] - ends[start]).to(self.device))
                targets = self.asked.targets[own[start:stop]].to(self.device)
                with mixed_precision(self.device, self.plan.precision):
                    aggregator = self.moved.networks.aggregator.train()
                    found = aggregator(bags, self.asked.questions.membership(targets))
                loss = self._loss(found, targets, slides) + found.penalty.to(self.kind) * (stop - start) / len(slides)
                loss.backward()
                total = total + loss.detach()
                attentions.append(self._attention(found))
                start = stop
        return total, torch.cat(attentions)

    def _groups(self, lengths: Sequence[int]) -> list[int]:
        """Where groups of slides end that have at most so many rows; all together, if slides are compared."""
        if self.asked.compares:
            return [len(lengths)]
        ends, held = [], 0
        for number, length in enumerate(lengths):
            if held and held + length > HEAD:
                ends.append(number)
                held = 0
            held += length
        return [*ends, len(lengths)]

    def _loss(self, found: Aggregated, targets: Float[Tensor, "_ column"], slides: Int[Tensor, " slide"]) -> Float[Tensor, ""]:
        """The part of the step's mean loss that these slides are."""
        streams = [found.logits] if found.streams is None else list(found.streams)
        if self.asked.compares:
            streams = [self.team.gather(logits, len(slides)) for logits in streams]
            targets = self.asked.targets[slides].to(self.device)
        losses = [self.asked.loss(logits.to(self.kind), targets.to(self.kind)) for logits in streams]
        return torch.stack(losses).mean() / len(slides)

    def _attention(self, found: Aggregated) -> Float[Tensor, " row"]:
        """How much each row counts for what is asked, the mean over tasks."""
        shares = self.asked.questions.logits(found.attention.detach().float())
        return torch.stack([task.attention(own) for task, own in zip(self.asked.questions.tasks, shares, strict=True)]).mean(0)

    def _learned(self, attention: Float[Tensor, " row"], seen: Seen, slides: range,
                 place: tuple[int, int]) -> Int[Tensor, " learned"]:
        """The places, among the rows looked at, of those that learn."""
        chosen, start = [], 0
        for who, own in zip(slides, attention.cpu().split(seen.lengths), strict=True):
            chosen.append(start + self.sampler.learned(own, self._chance(place, who, 4)))
            start += len(own)
        return torch.cat(chosen)

    def _chance(self, place: tuple[int, int], who: int, what: int) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(place, who, what))

    def _seed(self, place: tuple[int, int], who: int, what: int) -> int:
        return step_seed(self.config.seed, *place, who, what)

    @contextmanager
    def _drawing(self, seed: int) -> Generator[None]:
        """A context in which what the networks draw follows from the seed."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
