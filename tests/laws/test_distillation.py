"""Distillation: its optimum in closed form, what no gradient reaches, what is masked; soft labels as torch has them."""

import pytest
import torch
from torch.nn import functional

from milscope.objectives import AsymmetricDistillation, Guide, SoftLabels, check_distilled
from milscope.objectives._distillation import log_odds, log_shares
from milscope.tasks import Binary, Cox, JointLoss, MultiClass, Ordinal, Questions
from milscope.types import InputError

ASYMMETRIC = AsymmetricDistillation()
PLAIN = AsymmetricDistillation(focus_positive=0, focus_negative=0)
TASKS = (Binary("a"), MultiClass("b", ("x", "y", "z")), Ordinal("c", ("x", "y", "z", "w")))
WAYS = (ASYMMETRIC, SoftLabels())


def numbers(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(student, teacher, softening=2.0, positive=1.0, negative=4.0, margin=0.2):
    """The formula, number by number."""
    p, p_hat = 1 / (1 + torch.exp(-student)), 1 / (1 + torch.exp(-teacher))
    z, z_hat = 1 / (1 + torch.exp(-student / softening)), 1 / (1 + torch.exp(-teacher / softening))
    sure, deemed = (1 - p) ** positive, max(p_hat - margin, 0) ** negative
    return softening**2 * (sure * z_hat * torch.log(z_hat / z) + deemed * (1 - z_hat) * torch.log((1 - z_hat) / (1 - z)))


@pytest.mark.parametrize("settings", [(2.0, 1.0, 4.0, 0.2), (1.0, 0.0, 0.0, 0.0), (3.0, 2.0, 1.0, 0.5)])
def test_equals_the_formula(settings):
    student, teacher = numbers(20), numbers(20, seed=1)
    expected = torch.stack([slow(mine, theirs, *settings) for mine, theirs in zip(student, teacher, strict=True)])
    torch.testing.assert_close(AsymmetricDistillation(*settings)(student, teacher), expected)


@pytest.mark.parametrize("teacher", [-1.0, 0.4, 3.0])
@pytest.mark.parametrize(("focus", "margin"), [(4.0, 0.2), (1.0, 0.0), (0.0, 0.5)])
def test_with_fixed_weights_the_slope_vanishes_at_the_closed_form(teacher, focus, margin):
    """z / (1 - z) = w+ ẑ / (w- (1 - ẑ)); with a focus of 0 the student's weight is 1 wherever it is."""
    told = torch.tensor([teacher], dtype=torch.float64)
    deemed = (told.sigmoid() - margin) ** focus
    optimum = (2 * (told / 2 - deemed.log())).requires_grad_()
    way = AsymmetricDistillation(focus_positive=0.0, focus_negative=focus, margin=margin)
    least = way(optimum, told)
    slope, = torch.autograd.grad(least.sum(), optimum)
    assert abs(slope.item()) < 1e-12
    assert all(way(optimum.detach() + step, told) > least for step in (-0.1, 0.1))


def test_descent_ends_where_the_closed_form_says():
    """The weight w+ moves with the student, so that the end is the fixed point of the closed form."""
    teacher = numbers(6, seed=3, scale=1.0) + 1.5
    student = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([student], 0.3)
    for _ in range(250):
        optimizer.zero_grad()
        ASYMMETRIC(student, teacher).sum().backward()
        optimizer.step()
    sure, deemed = 1 - student.detach().sigmoid(), (teacher.sigmoid() - 0.2) ** 4
    torch.testing.assert_close((student.detach() / 2).exp(), sure / deemed * (teacher / 2).exp(), rtol=1e-4, atol=1e-6)


def test_equal_weights_make_the_teacher_the_optimum():
    teacher = numbers(10)
    student = teacher.clone().requires_grad_()
    loss = PLAIN(student, teacher)
    slope, = torch.autograd.grad(loss.sum(), student)
    assert slope.abs().max() < 1e-12
    assert loss.detach().abs().max() < 1e-12
    assert (PLAIN(teacher + 0.5, teacher) > 0).all()


def test_no_gradient_through_the_weights_or_into_the_teacher():
    student, teacher = numbers(10).requires_grad_(), numbers(10, seed=1).requires_grad_()
    ASYMMETRIC(student, teacher).sum().backward()
    assert teacher.grad is None
    sure = (1 - student.detach().sigmoid())
    deemed = (teacher.detach().sigmoid() - 0.2).clamp_min(0) ** 4
    soft, told = (student.detach() / 2).sigmoid(), (teacher.detach() / 2).sigmoid()
    torch.testing.assert_close(student.grad, 2 * (deemed * (1 - told) * soft - sure * told * (1 - soft)))
    SoftLabels().of(TASKS[1], numbers(4, 3).requires_grad_(), taught := numbers(4, 3, seed=1).requires_grad_()).sum().backward()
    assert taught.grad is None


def test_a_no_of_the_teacher_below_the_margin_counts_nothing():
    student = numbers(5).requires_grad_()
    teacher = torch.full((5,), 0.2, dtype=torch.float64).logit() - 0.1
    loss = ASYMMETRIC(student, teacher)
    told = (teacher / 2).sigmoid()
    torch.testing.assert_close(loss, 4 * (1 - student.sigmoid()).detach() * told * (told / (student / 2).sigmoid()).log())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_finite_however_sure_both_are(task, way, kind):
    ends = torch.tensor([-100.0, 0.0, 100.0], dtype=kind)
    rows = torch.cartesian_prod(*[ends] * task.outputs)
    for shift in range(len(rows)):
        student = rows.clone().requires_grad_()
        loss = way.of(task, student, rows.roll(shift, 0))
        slope, = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all()
        assert slope.isfinite().all()


def test_soft_labels_are_the_divergence_of_torch():
    student, teacher = numbers(7, 3), numbers(7, 3, seed=1)
    own, told = (student / 2).log_softmax(1), (teacher / 2).log_softmax(1)
    expected = 4 * functional.kl_div(own, told, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(SoftLabels(2.0).of(TASKS[1], student, teacher), expected)


def test_asymmetric_without_asymmetry_is_plain_for_yes_and_no():
    student, teacher = numbers(7, 2), numbers(7, 2, seed=1)
    torch.testing.assert_close(PLAIN.of(TASKS[0], student, teacher), SoftLabels().of(TASKS[0], student, teacher))
    torch.testing.assert_close(ASYMMETRIC.of(TASKS[0], student, teacher),
                               ASYMMETRIC(student[:, 1] - student[:, 0], teacher[:, 1] - teacher[:, 0]))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
def test_questions_and_classes_are_those_of_the_task(task):
    logits = numbers(6, task.outputs)
    shares = task.probabilities(logits)
    torch.testing.assert_close(log_shares(task, logits).exp(), shares)
    yes = shares.flip(1).cumsum(1).flip(1)[:, 1:] if task.kind == "ordinal" else shares[:, 1:]
    torch.testing.assert_close(log_odds(task, logits).sigmoid(), yes)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("way", [PLAIN, SoftLabels()], ids=lambda way: type(way).__name__)
def test_who_says_what_the_teacher_says_has_nothing_to_learn(task, way):
    teacher = numbers(6, task.outputs)
    student = teacher.clone().requires_grad_()
    loss = way.of(task, student, teacher)
    slope, = torch.autograd.grad(loss.sum(), student)
    assert max(loss.abs().max().item(), slope.abs().max().item()) < 1e-12
    assert (way.of(task, teacher + numbers(6, task.outputs, seed=2), teacher) > 0).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: type(way).__name__)
def test_where_a_label_is_missing_nothing_is_taken_over(way):
    questions = Questions(TASKS)
    targets = torch.tensor([[1.0, 2.0, 0.0], [0.0, torch.nan, 1.0], [torch.nan, 0.0, torch.nan], [1.0, 1.0, 2.0]]).double()
    labels = JointLoss.of(questions, targets, "cross-entropy", weighted=False)
    student, teacher = numbers(4, questions.outputs).requires_grad_(), numbers(9, questions.outputs, seed=1)
    slides = torch.tensor([7, 1, 0, 4])
    loss = Guide(way, 0.5, teacher).loss(labels, slides, student, targets)
    loss.backward()
    parts = list(questions.logits(student.grad))
    zero = [(part == 0).all(1).tolist() for part in parts]
    assert zero == [[False, False, True, False], [False, True, False, False], [False, False, True, False]]
    expected = 0.0
    for task, own, told, known in zip(TASKS, questions.logits(student.detach()), questions.logits(teacher[slides]), targets.T,
                                      strict=True):
        has = known.isfinite()
        expected += 0.5 * way.of(task, own[has], told[has]).sum().item() / has.double().mean().item() / 3
    assert loss.item() == pytest.approx(expected)


def test_times_are_refused():
    with pytest.raises(InputError, match=r"of classes or grades, to be distilled\. Found `death`, of kind cox"):
        check_distilled([TASKS[0], Cox("death")])
