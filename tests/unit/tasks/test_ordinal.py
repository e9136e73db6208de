"""Grades: the steps multiply to probabilities that sum to 1 and never cross."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from milscope.slides import read_slides
from milscope.tasks import Answers, Loss, MultiClass, Ordinal
from milscope.types import InputError

GRADES = Ordinal("grade", ("low", "middle", "high", "worst"))
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
TRUTH = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3], dtype=torch.float64)[:, None]


def test_probabilities_sum_to_one_and_the_chance_to_go_beyond_falls():
    shares = GRADES.probabilities(LOGITS)
    torch.testing.assert_close(shares.sum(1), torch.ones(8, dtype=torch.float64))
    assert (shares >= 0).all()
    torch.testing.assert_close(GRADES.suspicion(LOGITS).sigmoid(), 1 - shares[:, 0])


def test_the_loss_is_minus_the_log_of_the_probability():
    expected = -GRADES.probabilities(LOGITS).log().gather(1, TRUTH.long())[:, 0]
    torch.testing.assert_close(GRADES.loss(Answers(LOGITS, TRUTH), Loss()), expected)


def test_steps_that_a_slide_did_not_reach_have_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    GRADES.loss(Answers(logits, TRUTH), Loss("focal")).sum().backward()
    reached = torch.arange(3) <= TRUTH
    assert ((logits.grad != 0) == reached).all()


def test_the_measure_counts_pairs_in_the_right_order():
    expected = (GRADES.probabilities(LOGITS) @ torch.arange(4).double()).tolist()
    pairs = [(i, j) for i, j in itertools.permutations(range(8), 2) if TRUTH[i] > TRUTH[j]]
    right = sum(expected[i] > expected[j] for i, j in pairs)
    assert GRADES.measure(Answers(LOGITS, TRUTH)) == pytest.approx(right / len(pairs))


def test_a_temperature_is_fitted_on_the_steps():
    chance = np.random.default_rng(0)
    truth = chance.normal(size=(6000, 3))
    steps = chance.random((6000, 3)) < 1 / (1 + np.exp(-truth))
    grade = torch.from_numpy(np.cumprod(steps, 1).sum(1).astype(float))[:, None]
    held = Answers(torch.from_numpy(3 * truth), grade)
    assert GRADES.calibrated(held, held, temperature=True).temperature == pytest.approx(3, rel=0.1)


def test_the_order_has_to_be_given():
    frame = read_slides(pd.DataFrame({"slide": list("ab"), "grade": ["low", "high"]}))
    with pytest.raises(InputError, match=r"grade:ordinal\(low<middle<high\)"):
        Ordinal("grade").fitted(frame)
    np.testing.assert_array_equal(GRADES.targets(frame), MultiClass("grade", GRADES.classes).targets(frame))
