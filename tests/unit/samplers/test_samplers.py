"""What every sampler does, and what is particular to each."""

import dataclasses
import math

import pytest
import torch

from milscope.configs import EndToEndConfig
from milscope.samplers import SAMPLERS, AllRows, AttentionGuided, MultiScale, RandomRows, make_sampler
from milscope.types import InputError

CONFIG = EndToEndConfig(scales=("1", "0.5"))
ROWS = (50, 200)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler(name: str, budget: int = 20, **changes):
    return make_sampler(dataclasses.replace(CONFIG, sampler=name, **changes), budget)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("rows", [ROWS, (1, 4), (3, 0), (1, 1)])
@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_rows_come_once_ascending_and_by_the_seed_alone(name: str, rows: tuple[int, int], budget: int) -> None:
    one, attention = sampler(name, budget), torch.rand(sum(rows), generator=chance(1))
    seen = one.seen(rows, chance())
    learned = one.learned(attention[seen], chance())
    for found, most in ((seen, sum(rows)), (learned, len(seen))):
        assert 1 <= len(found) <= most
        assert found.dtype == torch.int64
        assert (found.diff() > 0).all()
        assert found[0] >= 0
        assert found[-1] < most
    assert torch.equal(seen, one.seen(rows, chance()))
    assert torch.equal(learned, one.learned(attention[seen], chance()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_sampler_says_of_itself_is_true(name: str) -> None:
    one = sampler(name)
    seen = one.seen(ROWS, chance())
    assert (len(seen) == sum(ROWS)) == one.whole
    assert (len(one.learned(torch.rand(len(seen)), chance())) == len(seen)) == one.learns_all


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"all"}))
def test_other_seeds_draw_other_rows_and_in_the_long_run_all(name: str) -> None:
    one, found = sampler(name), set()
    for seed in range(1500):
        seen = one.seen(ROWS, chance(seed))
        found |= set(seen[one.learned(torch.ones(len(seen)), chance(seed))].tolist())
    assert found == set(range(sum(ROWS)))


def test_all_rows_are_all_rows() -> None:
    assert torch.equal(AllRows().seen(ROWS, chance()), torch.arange(250))
    assert torch.equal(AllRows().learned(torch.rand(250), chance()), torch.arange(250))


def test_random_rows_are_so_many_each_as_likely_as_any_other() -> None:
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[RandomRows(3).seen((4, 6), chance(seed))] += 1
    assert counts.sum() == 6000
    assert (counts - 600).abs().max() < 5 * math.sqrt(2000 * 0.3 * 0.7)
    assert torch.equal(RandomRows(10).seen((4, 6), chance()), torch.arange(10))


@pytest.mark.parametrize(("budget", "ratio", "shares"), [
    (20, 4.0, [16, 4]), (128, 4.0, [103, 26]), (10, 1.0, [5, 5]), (1, 4.0, [1, 1]), (110, 10.0, [100, 10]),
])
def test_scales_have_their_shares_rounded_up(budget: int, ratio: float, shares: list[int]) -> None:
    seen = MultiScale(budget, ratio).seen((1000, 4000), chance())
    assert [int((seen < 1000).sum()), int((seen >= 1000).sum())] == shares


def test_three_scales_share_what_the_first_leaves() -> None:
    assert MultiScale(60, 4.0).shares(3) == [40, 10, 10]


def test_a_scale_with_few_rows_gives_all_it_has() -> None:
    seen = MultiScale(20, 4.0).seen((5, 100), chance())
    assert seen[:5].tolist() == [0, 1, 2, 3, 4]
    assert len(seen) == 5 + 4


def test_attention_takes_the_most_attended_and_some_by_chance() -> None:
    attention = torch.linspace(0, 1, 250)[torch.randperm(250, generator=chance(3))]
    most = set(attention.argsort(descending=True)[:15].tolist())
    drawn = [set(AttentionGuided(20, 0.25).learned(attention, chance(seed)).tolist()) for seed in range(20)]
    assert all(most < found and len(found) == 20 for found in drawn)
    assert len(set().union(*drawn)) > 80
    assert set(AttentionGuided(15, 0.0).learned(attention, chance()).tolist()) == most
    assert not most <= set(AttentionGuided(20, 1.0).learned(attention, chance()).tolist())


def test_the_scores_of_a_slide_without_attention_do_not_break_it() -> None:
    assert len(AttentionGuided(20, 0.5).learned(torch.full((250,), torch.nan), chance())) == 20


@pytest.mark.parametrize(("name", "budget", "changes", "said"), [
    ("random", 0, {}, "`budget` should be at least 1"), ("multi-scale", 0, {}, "`budget`"), ("attention", -1, {}, "`budget`"),
    ("nothing", 1, {}, "one of random, multi-scale, attention, all"), ("attention", 1, {"explore": 1.5}, "`explore`"),
    ("multi-scale", 1, {"scale_ratio": 0.0}, "`scale_ratio`"), ("multi-scale", 1, {"scale_ratio": math.nan}, "`scale_ratio`"),
    ("multi-scale", 1, {"scales": ("1",)}, "random where there is one scale"),
])
def test_what_makes_no_sense_is_refused(name: str, budget: int, changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        sampler(name, budget, **changes)


def test_the_settings_reach_the_sampler() -> None:
    assert sampler("multi-scale", 60, scale_ratio=1.0).shares(2) == [30, 30]
    assert sampler("attention", explore=0.0).explore == 0.0
    assert sampler("random", 7).budget == 7
