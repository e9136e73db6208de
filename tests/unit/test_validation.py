"""Intervals of validation figures are those of the same figures elsewhere, and of patients, not of slides."""

import math

import numpy as np
import pytest
import torch

from milscope.metrics import (
    Bootstrap,
    ClassScores,
    SlideScores,
    SurvivalScores,
    bounds,
    class_metrics,
    resample,
    slide_metrics,
    survival_metrics,
)
from milscope.tasks import Answers, Binary, Cox, Hazards, MultiClass, Ordinal, Questions
from milscope.validation import validation_intervals

SLIDES = 60
PATIENTS = [f"p{number // 2}" for number in range(SLIDES)]
FEW = Bootstrap(draws=200, seed=3)
BINARY, CLASSES = Binary("abnormal"), MultiClass("kind", ("a", "b", "c"))
GRADES = Ordinal("grade", ("a", "b", "c"))
COX = Cox("death", time="months", event="died", horizon=5.0)
HAZARDS = Hazards("late", time="months", event="died", horizon=5.0, bounds=(2.0, 5.0))


def answers(task, signal=1.0):
    """Labels by chance, every patient's two slides alike; logits that know something of them."""
    random = torch.Generator().manual_seed(0)
    if task.kind in ("cox", "hazards"):
        time = torch.rand(SLIDES // 2, generator=random) * 10 + 0.1
        targets = torch.stack([time, (torch.rand(SLIDES // 2, generator=random) < 0.6).float()], 1)
        told = -time[:, None]
    else:
        targets = torch.randint(len(task.classes), (SLIDES // 2, 1), generator=random).float()
        places = torch.arange(task.outputs)
        told = targets - places if task.kind == "ordinal" else (targets == places).float()
    logits = signal * told.repeat_interleave(2, 0) + torch.randn(SLIDES, task.outputs, generator=random)
    return Answers(logits, targets.repeat_interleave(2, 0))


def interval(task, given, **options):
    return validation_intervals(Questions((task,)), given.logits, given.targets, PATIENTS, FEW, **options)[task.name]


def test_of_yes_and_no_it_is_that_of_the_auc():
    given = answers(BINARY)
    probabilities = BINARY.suspicion(given.logits).double().sigmoid().numpy()
    labels = given.targets[:, 0].numpy() == 1
    expected = slide_metrics(SlideScores(labels, probabilities, probabilities > 0.5, PATIENTS), FEW)["auc"]
    assert interval(BINARY, given) == pytest.approx(expected)


def test_of_classes_it_is_that_of_the_macro_auc():
    given = answers(CLASSES)
    shares = CLASSES.probabilities(given.logits.double()).numpy()
    labels = given.targets[:, 0].numpy().astype(int)
    expected = class_metrics(ClassScores(labels, shares, shares.argmax(1), PATIENTS), FEW)["macro_auc"]
    assert interval(CLASSES, given) == pytest.approx(expected)


@pytest.mark.parametrize("task", [COX, HAZARDS], ids=lambda task: task.kind)
def test_of_times_it_is_that_of_the_c_index(task):
    given = answers(task)
    times, events = given.targets.double().numpy().T
    scores = SurvivalScores(times, events == 1, task.risk(given.logits.double()).numpy(), PATIENTS)
    assert interval(task, given) == pytest.approx(survival_metrics(scores, FEW)["c_index"])


def test_of_grades_it_is_the_measure_in_every_draw():
    given = answers(GRADES)
    measures = []
    for weights in resample(PATIENTS, given.targets[:, 0].long().numpy(), FEW):
        for draw in weights.astype(int):
            rows = torch.arange(SLIDES).repeat_interleave(torch.from_numpy(draw))
            measures.append(GRADES.measure(Answers(given.logits[rows], given.targets[rows])))
    found = interval(GRADES, given)
    assert found == pytest.approx((GRADES.measure(given), *bounds(np.array(measures), FEW.confidence)))


@pytest.mark.parametrize("task", [BINARY, CLASSES, GRADES, COX, HAZARDS], ids=lambda task: task.kind)
def test_it_holds_the_measure_that_is_told(task):
    given = answers(task)
    found = interval(task, given)
    assert found.value == task.measure(given)
    assert found.low < found.value < found.high


def test_slides_of_a_patient_are_drawn_together():
    given = answers(BINARY)
    alone = validation_intervals(Questions((BINARY,)), given.logits, given.targets, [str(n) for n in range(SLIDES)], FEW)
    twice = Answers(given.logits[::2].repeat_interleave(2, 0), given.targets)
    once = validation_intervals(Questions((BINARY,)), given.logits[::2], given.targets[::2], PATIENTS[::2], FEW)["abnormal"]
    assert interval(BINARY, twice) == pytest.approx(once), "a second slide that says the same adds nothing"
    assert interval(BINARY, given) != alone["abnormal"]


def test_several_tasks_take_the_slides_that_have_their_label():
    binary, cox = answers(BINARY), answers(COX)
    cox.targets[10:30] = math.nan
    logits, targets = torch.cat([binary.logits, cox.logits], 1), torch.cat([binary.targets, cox.targets], 1)
    found = validation_intervals(Questions((BINARY, COX)), logits, targets, PATIENTS, FEW)
    assert found["abnormal"] == interval(BINARY, binary)
    keep = [*range(10), *range(30, SLIDES)]
    alone = validation_intervals(Questions((COX,)), cox.logits[keep], cox.targets[keep], [PATIENTS[n] for n in keep], FEW)
    assert found["death"] == alone["death"]


def test_where_nothing_can_be_told_apart_there_is_no_number():
    given = answers(BINARY)
    assert all(math.isnan(each) for each in interval(BINARY, Answers(given.logits, torch.zeros(SLIDES, 1))))
