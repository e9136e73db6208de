"""Several tasks: a missing label changes nothing for the others, and every task counts alike."""

import math

import pytest
import torch

from milscope.tasks import Answers, Binary, JointLoss, Loss, MultiClass, Questions, sampling_weights

TWO = Questions((Binary("y"), MultiClass("kind", ("n", "a", "b"))))
NAN = math.nan
TARGETS = torch.tensor([[0, 0], [1, NAN], [1, 2], [NAN, 1], [0, NAN], [1, 0]])
LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_mean_of_the_tasks_means():
    joint = JointLoss.of(TWO, TARGETS, "cross-entropy", weighted=False)
    expected = []
    for task, own, column in ((TWO.tasks[0], LOGITS[:, :2], 0), (TWO.tasks[1], LOGITS[:, 2:], 1)):
        has = ~TARGETS[:, column].isnan()
        expected.append(task.loss(Answers(own[has], TARGETS[has, column : column + 1]), Loss()).mean())
    torch.testing.assert_close(joint(LOGITS, TARGETS) / len(TARGETS), torch.stack(expected).mean())


def test_a_slide_without_the_label_gives_no_gradient_to_that_task():
    logits = LOGITS.clone().requires_grad_()
    JointLoss.of(TWO, TARGETS, "focal", weighted=True)(logits, TARGETS).backward()
    assert ((logits.grad[:, :2] != 0).all(1) == ~TARGETS[:, 0].isnan()).all()
    assert ((logits.grad[:, 2:] != 0).all(1) == ~TARGETS[:, 1].isnan()).all()


def test_a_batch_without_any_label_of_a_task_is_no_nan():
    rows = TARGETS[[1, 4]]
    assert JointLoss.of(TWO, TARGETS, "cross-entropy", weighted=True)(LOGITS[[1, 4]], rows).isfinite()


def test_membership_and_measures_lie_side_by_side():
    assert TWO.outputs == 5
    found = TWO.membership(TARGETS)
    assert found[0].tolist() == [1, 0, 1, 0, 0]
    assert found[1][:2].tolist() == [0, 1]
    assert found[1][2:].isnan().all()
    assert TWO.measures(LOGITS, TARGETS).keys() == {"y", "kind"}


def test_sampled_by_their_weights_classes_come_alike_often():
    one = Questions((Binary("y"),))
    targets = torch.tensor([[1.0], *[[0.0]] * 9])
    weights = sampling_weights(one, targets)
    assert weights[0].item() == pytest.approx(weights[1:].sum().item())
    both = sampling_weights(TWO, TARGETS)
    assert (both > 0).all()
    assert both[3].item() == pytest.approx(TWO.tasks[1].class_weights(TARGETS[:, 1:])[1].item())
