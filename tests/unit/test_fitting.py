"""One aggregator's fit: every slide once an epoch, classes that count alike, a rate that falls along a cosine."""

import math

import pytest
import torch

from milscope.configs import TrainConfig
from milscope.fitting import Fit, Lesson, Slides, merit
from milscope.store import Bags, Scale
from milscope.tasks import Binary, Questions

CONFIG = TrainConfig(epochs=4, batch=3, learning_rate=1e-2, dropout=0.5, precision="float32")


def test_every_slide_is_learned_from_once_an_epoch_in_a_new_order(monkeypatch):
    fit, seen = build(CONFIG), []
    step = fit._step
    monkeypatch.setattr(fit, "_step", lambda slides, rate, seed: seen.append(slides.tolist()) or step(slides, rate, seed))
    fit.run_epoch()
    first = [len(batch) for batch in seen], flat(seen)
    seen.clear()
    fit.run_epoch()
    assert first[0] == [3, 3, 2]
    assert sorted(first[1]) == sorted(flat(seen)) == list(range(8))
    assert first[1] != flat(seen)


def test_classes_count_alike_however_rare():
    fit = build(CONFIG, labels=[1, 0, 0, 0, 0, 0, 0, 0])
    targets = fit.lesson.slides.targets
    rare, common = (fit.loss(torch.zeros(count, 2), targets[targets[:, 0] == label]) for label, count in ((1, 1), (0, 7)))
    assert rare.item() == pytest.approx(common.item()) == pytest.approx(8 * math.log(2) / 2)


def test_the_rate_falls_along_half_a_cosine():
    fit = build(CONFIG)
    while not fit.finished:
        fit.run_epoch()
    expected = [1e-2 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [row["learning_rate"] for row in fit.log] == pytest.approx(expected)


def test_restored_between_two_epochs_it_goes_on_bit_identically():
    whole, first, second = build(CONFIG), build(CONFIG), build(CONFIG)
    for fit, epochs in ((whole, 4), (first, 2)):
        for _ in range(epochs):
            fit.run_epoch()
    second.restore(*first.save())
    second.run_epoch()
    second.run_epoch()
    assert second.log == whole.log
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor), name


def test_the_best_epoch_is_not_changed_by_later_ones():
    fit = build(CONFIG)
    fit.run_epoch()
    kept = {name: tensor.clone() for name, tensor in fit.best_weights.items()}
    fit.best = {**fit.best, "validation_loss": -1.0}
    fit.run_epoch()
    assert all(torch.equal(fit.best_weights[name], tensor) for name, tensor in kept.items())


def test_among_equal_aucs_the_loss_decides():
    rows = [{"validation_auc": auc, "validation_loss": loss} for auc, loss in ((0.9, 0.5), (0.9, 0.4), (0.8, 0.1))]
    assert max(rows, key=lambda row: merit(row, "auc")) is rows[1]
    assert max(rows, key=lambda row: merit(row, "loss")) is rows[2]


def build(config, labels=(0, 1, 0, 1, 0, 1, 0, 1)):
    features = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    slides = Slides(Bags(features, torch.arange(0, 17, 2)), torch.tensor(labels, dtype=torch.float32)[:, None])
    scale = Scale(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    return Fit("abmil", Lesson(slides, torch.arange(8), torch.arange(8), Questions((Binary("y"),)), scale), config)


def flat(batches):
    return [slide for batch in batches for slide in batch]
