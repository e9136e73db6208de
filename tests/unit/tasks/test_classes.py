"""Yes or no and several classes: losses by hand, suspicion as the one number, labels that are missing."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from milscope.slides import read_slides
from milscope.tasks import Answers, Binary, Loss, MultiClass
from milscope.types import InputError

LOGITS = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TRUTH = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0, 1], dtype=torch.float64)[:, None]
THREE = MultiClass("kind", ("normal", "a", "b"))


def test_the_cross_entropy_is_torchs():
    found = THREE.loss(Answers(LOGITS, TRUTH), Loss())
    torch.testing.assert_close(found, functional.cross_entropy(LOGITS, TRUTH[:, 0].long(), reduction="none"))


def test_with_weights_every_class_counts_alike():
    weights = THREE.class_weights(TRUTH)
    losses = THREE.loss(Answers(torch.zeros_like(LOGITS), TRUTH), Loss(weights=weights))
    sums = [losses[TRUTH[:, 0] == place].sum().item() for place in range(3)]
    assert sums == pytest.approx([3 * math.log(3)] * 3)


@pytest.mark.parametrize("truth", [0, 1])
def test_focal_and_asymmetric_by_hand(truth):
    logits = torch.tensor([[0.3, 1.1]], dtype=torch.float64)
    shares = logits.softmax(1)[0].tolist()
    own, answers = shares[truth], Answers(logits, torch.tensor([[float(truth)]], dtype=torch.float64))
    task = Binary("y")
    assert task.loss(answers, Loss("focal")).item() == pytest.approx(-(1 - own) ** 2 * math.log(own))
    if truth:
        expected = -math.log(own)
    else:
        missed = max(shares[1] - 0.05, 0)
        expected = -missed**4 * math.log(1 - missed)
    assert task.loss(answers, Loss("asymmetric")).item() == pytest.approx(expected)


def test_an_easy_normal_slide_counts_nothing_in_the_asymmetric_loss():
    logits = torch.tensor([[4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = Binary("y").loss(Answers(logits, torch.zeros(1, 1, dtype=torch.float64)), Loss("asymmetric")).sum()
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", ["cross-entropy", "focal", "asymmetric"])
def test_every_loss_has_the_gradient_of_finite_differences(name):
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: THREE.loss(Answers(values, TRUTH), Loss(name)), (logits,))


def test_suspicion_is_the_logit_of_not_being_normal():
    task = MultiClass("kind", THREE.classes, temperature=1.7)
    torch.testing.assert_close(task.suspicion(LOGITS).sigmoid(), 1 - task.probabilities(LOGITS)[:, 0])
    binary = Binary("y")
    torch.testing.assert_close(binary.suspicion(LOGITS[:, :2]), LOGITS[:, 1] - LOGITS[:, 0])


def test_the_measure_is_the_mean_auc_of_each_against_the_rest():
    found = THREE.measure(Answers(LOGITS, TRUTH))
    expected = roc_auc_score(TRUTH[:, 0], LOGITS.softmax(1), multi_class="ovr", average="macro")
    assert found == pytest.approx(expected)
    assert Binary("y").measure(Answers(LOGITS[:, :2], (TRUTH > 0).double())) == pytest.approx(
        roc_auc_score(TRUTH[:, 0] > 0, LOGITS[:, 1] - LOGITS[:, 0]))
    assert math.isnan(Binary("y").measure(Answers(LOGITS[:, :2], torch.zeros(9, 1, dtype=torch.float64))))


def test_labels_become_numbers_and_missing_ones_stay_missing():
    frame = read_slides(pd.DataFrame({"slide": list("abcd"), "y": [0, 1, None, 1], "kind": ["b", "", "normal", "a"],
                                      "grade": [0, 2, 1, None]}))
    np.testing.assert_array_equal(Binary("y").targets(frame)[:, 0], [0, 1, np.nan, 1])
    np.testing.assert_array_equal(THREE.targets(frame)[:, 0], [2, np.nan, 0, 1])
    assert MultiClass("kind").fitted(frame).classes == ("a", "b", "normal")
    assert MultiClass("grade").fitted(frame).classes == ("0", "1", "2")
    assert MultiClass("y").fitted(frame).classes == ("0", "1")
    np.testing.assert_array_equal(MultiClass("y").fitted(frame).targets(frame)[:, 0], [0, 1, np.nan, 1])
    np.testing.assert_array_equal(THREE.suspicious(THREE.targets(frame)), [1, np.nan, 0, 1])
    np.testing.assert_array_equal(THREE.membership(THREE.targets(frame))[:2], [[0, 0, 1], [np.nan] * 3])


def test_a_class_that_was_not_named_is_refused_in_training_and_unknown_afterwards():
    frame = read_slides(pd.DataFrame({"slide": list("abc"), "kind": ["normal", "a", "odd"]}))
    with pytest.raises(InputError, match=r"one of normal, a, b\. Found `odd`"):
        THREE.fitted(frame)
    assert math.isnan(THREE.targets(frame)[2, 0])


def test_a_temperature_softens_and_keeps_the_order():
    """Logits twice too large: the best temperature is 2."""
    chance = np.random.default_rng(0)
    truth = chance.normal(size=(4000, 1)) * 2
    labels = torch.from_numpy((chance.random(4000) < 1 / (1 + np.exp(-truth[:, 0]))).astype(float))[:, None]
    logits = torch.from_numpy(np.concatenate([np.zeros_like(truth), 2 * truth], 1))
    held = Answers(logits, labels)
    task = Binary("y").calibrated(held, held, temperature=True)
    assert task.temperature == pytest.approx(2, rel=0.1)
    assert Binary("y").calibrated(held, held, temperature=False).temperature == 1
    assert (task.suspicion(logits).argsort() == Binary("y").suspicion(logits).argsort()).all()
    assert task.measure(held) == Binary("y").measure(held)
