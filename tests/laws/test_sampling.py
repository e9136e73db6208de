"""What the order of training cells must be, for any number of processes."""

import numpy as np
import pytest

from milscope.distributed import Team
from milscope.store import HalvesSampler


def sampler(positive: int, negative: int, batch: int = 16) -> HalvesSampler:
    rows = np.arange(positive + negative)
    return HalvesSampler(rows[:positive], rows[positive:], batch=batch, seed=3)


@pytest.mark.parametrize("sizes", [(40, 60), (3, 200), (7, 5), (16, 16)])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_cell_once_an_epoch(sizes: tuple[int, int], ranks: int) -> None:
    seen = [row for rank in range(ranks) for step in sampler(*sizes).epoch(0) for half in step
            for row in half[Team(rank, ranks).share(len(half))]]
    assert sorted(seen) == list(range(sum(sizes)))


@pytest.mark.parametrize("count", [0, 1, 5, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_shares_differ_by_one_cell_at_most(count: int, ranks: int) -> None:
    sizes = [share.stop - share.start for share in (Team(rank, ranks).share(count) for rank in range(ranks))]
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sizes", [(40, 60), (100, 900)])
def test_halves_keep_their_ratio(sizes: tuple[int, int]) -> None:
    steps = list(sampler(*sizes, batch=20).epoch(0))
    for half, total in zip(zip(*steps, strict=True), sizes, strict=True):
        assert {len(part) for part in half} <= {total // len(steps), -(-total // len(steps))}


def test_halves_stay_apart() -> None:
    for step in sampler(40, 60).epoch(1):
        assert (step.positive < 40).all()
        assert (step.negative >= 40).all()


def test_steps_hold_no_more_than_the_batch() -> None:
    assert max(len(step.positive) + len(step.negative) for step in sampler(41, 62, batch=16).epoch(0)) <= 17


def test_same_seed_same_order_and_another_each_epoch() -> None:
    first, again, later = (np.concatenate([step.positive for step in sampler(40, 60).epoch(epoch)]) for epoch in (0, 0, 1))
    assert (first == again).all()
    assert (first != later).any()


def test_an_epoch_goes_on_at_any_step() -> None:
    whole, rest = list(sampler(40, 60).epoch(2)), list(sampler(40, 60).epoch(2, start=3))
    assert len(rest) == len(whole) - 3
    assert all((a.positive == b.positive).all() for a, b in zip(whole[3:], rest, strict=True))
