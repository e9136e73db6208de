"""Survival: losses by slow loops, baselines by hand, concordance against all pairs."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from milscope.slides import read_slides
from milscope.tasks import Answers, Cox, Hazards, Loss
from milscope.tasks._survival import concordance
from milscope.types import InputError

CHANCE = np.random.default_rng(0)
TIME = CHANCE.integers(1, 12, 30).astype(float)
EVENT = (CHANCE.random(30) < 0.6).astype(float)
TARGETS = torch.from_numpy(np.stack([TIME, EVENT], 1))
FRAME = pd.DataFrame({"slide": [f"s{i}" for i in range(30)], "months": TIME, "died": EVENT})


def test_the_partial_likelihood_of_cox_is_that_of_the_slow_loop():
    logits = torch.from_numpy(CHANCE.normal(size=(30, 1)))
    found = Cox("death", "months", "died").loss(Answers(logits, TARGETS), Loss())
    risk = logits[:, 0].tolist()
    expected = [EVENT[i] * (math.log(sum(math.exp(risk[j]) for j in range(30) if TIME[j] >= TIME[i])) - risk[i])
                for i in range(30)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_cox_finds_the_effect_that_made_the_times():
    covariate = CHANCE.normal(size=800)
    time = CHANCE.exponential(size=800) / np.exp(1.5 * covariate)
    targets = torch.from_numpy(np.stack([time, np.ones(800)], 1))
    task, slope = Cox("death"), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([slope], line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = task.loss(Answers(slope * torch.from_numpy(covariate)[:, None], targets), Loss()).mean()
        loss.backward()
        return loss

    for _ in range(5):
        optimizer.step(closure)
    assert slope.item() == pytest.approx(1.5, abs=0.15)
    logits = slope.detach() * torch.from_numpy(covariate)[:, None]
    task = Cox("death", horizon=0.5).calibrated(Answers(logits, targets), Answers(logits, targets), temperature=False)
    assert dict(task.baseline)[max(t for t, _ in task.baseline if t <= 0.5)] == pytest.approx(0.5, rel=0.15)  # H0(t) = t
    chance = task.suspicion(logits).sigmoid().numpy()
    np.testing.assert_allclose(chance, 1 - np.exp(-0.5 * np.exp(1.5 * covariate)), atol=0.1)
    assert np.mean(time <= 0.5) == pytest.approx(chance.mean(), abs=0.03)


def test_hazards_are_the_likelihood_of_the_interval_or_of_outliving_it():
    task = Hazards("death", "months", "died", intervals=4).fitted(read_slides(FRAME))
    logits = torch.from_numpy(CHANCE.normal(size=(30, task.outputs)))
    found = task.loss(Answers(logits, TARGETS), Loss())
    for i in range(30):
        hazards = logits[i].sigmoid().tolist()
        interval = sum(TIME[i] > bound for bound in task.bounds)
        survived = math.prod(1 - h for h in hazards[:interval])
        likelihood = survived * (hazards[interval] if EVENT[i] else 1 - hazards[interval])
        assert found[i].item() == pytest.approx(-math.log(likelihood))
    within = task.bounds.index(task.horizon) + 1
    expected = 1 - (1 - logits.sigmoid())[:, :within].prod(1)
    torch.testing.assert_close(task.suspicion(logits).sigmoid(), expected)
    told = task.told(logits)
    np.testing.assert_allclose(told[f"S:{task.horizon:g}"], 1 - expected)
    assert next(iter(told)) == "risk"


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e4])
def test_all_stays_finite_at_any_scale(scale):
    logits = (torch.randn(30, 4) * scale).requires_grad_()
    for task in (Hazards("d", "months", "died").fitted(read_slides(FRAME)), Cox("d", "months", "died", horizon=5.0)):
        own = logits[:, : task.outputs]
        loss = task.loss(Answers(own, TARGETS.float()), Loss()).sum()
        assert loss.isfinite()
        assert torch.autograd.grad(loss, own, allow_unused=True)[0].isfinite().all()
        assert task.suspicion(own.detach()).isfinite().all()


def test_concordance_counts_the_pairs_that_can_be_compared():
    risk = CHANCE.integers(0, 5, 30).astype(float)
    good = pairs = 0
    for i, j in itertools.permutations(range(30), 2):
        if EVENT[i] and (TIME[j] > TIME[i] or (TIME[j] == TIME[i] and not EVENT[j])):
            pairs += 1
            good += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
    assert concordance(TIME, EVENT, risk) == pytest.approx(good / pairs)
    assert math.isnan(concordance(TIME, 0 * EVENT, risk))


def test_suspicious_is_an_event_by_the_horizon_and_unknown_when_lost_before():
    task = Cox("death", "months", "died", horizon=6.0)
    targets = torch.tensor([[5.0, 1], [5, 0], [7, 1], [7, 0], [6, 1], [6, 0], [math.nan, 1]])
    np.testing.assert_array_equal(task.suspicious(targets), [1, np.nan, 0, 0, 1, 0, np.nan])


def test_a_given_horizon_is_kept_and_an_event_at_that_very_time_is_within_it():
    frame = read_slides(FRAME.assign(months=TIME + 0.3))
    assert Cox("death", "months", "died", horizon=5.3).fitted(frame).horizon == 5.3
    late = Hazards("death", "months", "died", bounds=(2.3, 5.3)).fitted(frame)
    assert (late.bounds, late.outputs) == ((2.3, 5.3), 3)
    assert late.horizon == min(late.bounds, key=lambda bound: abs(bound - Cox("d", "months", "died").fitted(frame).horizon))
    task = Cox("death", "months", "died", horizon=5.3)
    targets = task.targets(pd.DataFrame({"months": [1.3, 5.3, 9.3], "died": [1, 1, 1]}))
    given = Answers(torch.zeros(3, 1), targets)
    told = task.calibrated(given, given, temperature=False).told(torch.zeros(3, 1))
    np.testing.assert_allclose(told["S:5.3"], math.exp(-(1 / 3 + 1 / 2)))
    assert task.suspicious(targets).tolist() == [1, 1, 0]


@pytest.mark.parametrize(("column", "value", "line"), [
    ("months", "soon", "`months` should be a number. Found `soon`"),
    ("months", "-1", "a time above 0. Found -1"),
    ("died", "3", "0 or 1. Found 3"),
])
def test_impossible_labels_are_refused(column, value, line):
    frame = FRAME.astype({column: object})
    frame.loc[3, column] = value
    frame["died"] = frame["died"].astype(str)
    with pytest.raises(InputError, match=line):
        Cox("death", "months", "died").targets(frame)


def test_too_few_events_are_refused():
    with pytest.raises(InputError, match=r"at least 2 with an event of `death`\. Found 0"):
        Cox("death", "months", "died").fitted(read_slides(FRAME.assign(died=0, months=FRAME["months"])))
