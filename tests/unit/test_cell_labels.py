"""`train --cell-labels`: slide models also learn what was said of single cells of training slides."""

import importlib
import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from milscope.aggregators import AGGREGATORS
from milscope.configs import TrainConfig
from milscope.fitting import Fit, Lesson, Marks, Slides
from milscope.models import load_model
from milscope.store import Bags, Scale, cells_alone, read_cells, read_features, read_manifest
from milscope.tasks import Binary, Questions
from milscope.train import train
from milscope.types import InputError

QUICK = TrainConfig(aggregators=("abmil",), epochs=3, batch=8, learning_rate=3e-3, precision="float32",
                    options={"abmil": {"hidden": 16, "attention": 8}})
NARROW = {"hidden": 16, "width": 16, "attention": 8, "heads": 2, "layers": 1, "blocks": 1, "landmarks": 8}


@pytest.fixture
def marked(simulate, tmp_path):
    """Slides, and verdicts on the first and the last two cells of positive slides of every split."""
    data = simulate(cells=12)
    rows = [(slide, f"{slide}:{cell}", label) for slide in data.table.loc[data.table["abnormal"] == 1, "slide"]
            for cell, label in ((0, 1), (1, 1), (len(data.witnesses[slide]) - 1, 0), (len(data.witnesses[slide]) - 2, 0))]
    return data, pd.DataFrame(rows, columns=["slide", "cell", "label"]), tmp_path / "v.csv"


def weights(directory):
    return load_file(directory / "model.safetensors")


def same(first, second):
    assert all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def some(split, data, table):
    return table["slide"].isin(data.table.loc[data.table["split"] == split, "slide"])


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_learns_what_is_said_of_cells(name):
    """Slide labels say nothing here; only verdicts tell the two kinds of cells apart."""
    features = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    kind = (torch.arange(16) % 2).float()
    features[:, 0] += 2 * kind
    slides = Slides(Bags(features, torch.arange(0, 17, 4)), (torch.arange(4) % 2).float()[:, None])
    scale = Scale(torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64))
    narrow = {key: value for key, value in NARROW.items() if key in inspect.signature(AGGREGATORS[name].__init__).parameters}
    losses = []
    for weight in (0.0, 3.0):
        marks = Marks(cells_alone(features[:8]), torch.arange(8) // 4, kind[:8], weight)
        config = replace(QUICK, epochs=6, learning_rate=2e-2, batch=4, dropout=0.0, options={name: narrow})
        lesson = Lesson(slides, torch.arange(4), torch.arange(4), Questions((Binary("y"),)), scale, marks=marks)
        fit = Fit(name, lesson, config)
        for _ in range(4):
            fit.run_epoch()
        logits = fit.computer.answer(fit.model, marks.cells, torch.arange(8))
        losses.append(float(functional.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], kind[:8])))
    assert losses[1] < losses[0] - 0.03, losses


def test_verdicts_on_test_and_validation_slides_are_not_learned_from(marked, tmp_path):
    data, table, path = marked
    table.to_csv(path, index=False)
    done = train(data.directory, data.table, tmp_path / "a", QUICK, cell_labels=path)
    table["label"] = table["label"].where(some("train", data, table), 1 - table["label"])
    table.to_csv(path, index=False)
    train(data.directory, data.table, tmp_path / "b", QUICK, cell_labels=path)
    same(tmp_path / "a", tmp_path / "b")
    manifest = read_manifest(tmp_path / "a", "model")
    assert manifest.inputs == read_manifest(tmp_path / "b", "model").inputs
    assert manifest.summary["verdicts"] == {"abnormal": 16, "normal": 16, "tested": 8, "others": 8, "unmatched": 0}
    assert [warning[:24] for warning in done.warnings] == ["8 verdicts were left out"] * 2
    assert "test slides" in done.warnings[0]
    table["label"] = table["label"].where(~some("train", data, table), 1 - table["label"])
    table.to_csv(path, index=False)
    train(data.directory, data.table, tmp_path / "c", QUICK, cell_labels=path)
    assert manifest.inputs != read_manifest(tmp_path / "c", "model").inputs
    assert any(not torch.equal(tensor, weights(tmp_path / "c")[name]) for name, tensor in weights(tmp_path / "a").items())


def test_without_weight_or_verdicts_all_is_as_before(marked, tmp_path):
    data, table, path = marked
    table.to_csv(path, index=False)
    train(data.directory, data.table, tmp_path / "plain", QUICK)
    train(data.directory, data.table, tmp_path / "none", QUICK, cell_labels=path, cell_weight=0.0)
    same(tmp_path / "plain", tmp_path / "none")
    assert "cell_labels" not in read_manifest(tmp_path / "plain", "model").inputs


def test_what_comes_with_positive_slides_but_was_judged_normal_loses_its_evidence(simulate, tmp_path):
    """Every positive slide holds cells that look alike and are not what is sought: slide labels cannot know."""
    def stray(features):
        features[-4:, 1] += 6
        return features

    data = simulate(slides=36, cells=20, change={f"s{number:03d}": stray for number in range(1, 36, 2)})
    positive = {slide: len(own) for slide, own in data.witnesses.items() if own.any()}
    rows = [(slide, f"{slide}:{cells - 1 - back}", 0) for slide, cells in positive.items() for back in (0, 1)]
    rows += [(slide, f"{slide}:0", 1) for slide in positive]
    pd.DataFrame(rows, columns=["slide", "cell", "label"]).to_csv(tmp_path / "v.csv", index=False)
    config = replace(QUICK, learning_rate=2e-2, epochs=10)
    margins = []
    for labels in (None, tmp_path / "v.csv"):
        done = train(data.directory, data.table, tmp_path / str(len(margins)), config, cell_labels=labels)
        model = load_model(done.directory).aggregator
        with torch.no_grad():
            _, alone = model.with_cells_alone(read_features(data.directory, ["s011"]))  # a test slide
        evidence = alone[:, 1] - alone[:, 0]
        margins.append(float(evidence[0] - evidence[-4:].mean()))
        assert done.validation_auc > 0.9
    assert margins[1] > margins[0] + 2, margins


def test_interrupted_it_ends_bit_identical(marked, tmp_path, interrupted):
    data, table, path = marked
    table.to_csv(path, index=False)
    train(data.directory, data.table, tmp_path / "whole", QUICK, cell_labels=path)
    with interrupted(2):
        train(data.directory, data.table, tmp_path / "resumed", QUICK, cell_labels=path)
    train(data.directory, data.table, tmp_path / "resumed", QUICK, cell_labels=path)
    same(tmp_path / "whole", tmp_path / "resumed")


def test_the_part_that_validates_is_not_learned_from(marked, tmp_path, monkeypatch):
    data, table, path = marked
    table.to_csv(path, index=False)
    fits, before = [], Fit.__init__

    def noted(fit, *given):
        before(fit, *given)
        fits.append((set(fit.lesson.marks.slide[fit.marked].tolist()), set(fit.lesson.validation.tolist())))

    monkeypatch.setattr(Fit, "__init__", noted)
    train(data.directory, data.table, tmp_path / "m", replace(QUICK, ensemble=2, epochs=1), cell_labels=path)
    assert [own & held for own, held in fits] == [set(), set()]
    assert len(fits[0][0] | fits[1][0]) == 10, "each part is learned from while the other validates"


@pytest.mark.parametrize(("change", "settings", "line"), [
    (lambda table, data: table[some("test", data, table)], {}, "`cell_labels` should be about cells of training slides"),
    (lambda table, data: table.assign(cell="x" + table["cell"]), {}, "`cell_labels` should be about cells that have features"),
    (lambda table, data: table, {"cell_weight": -1.0}, "`cell_weight` should be at least 0"),
    (lambda table, data: table, {"cell_weight": float("nan")}, "`cell_weight` should be at least 0"),
])
def test_refuses_verdicts_that_nothing_can_be_learned_from(marked, tmp_path, change, settings, line):
    data, table, path = marked
    change(table, data).to_csv(path, index=False)
    with pytest.raises(InputError, match=line):
        train(data.directory, data.table, tmp_path / "m", QUICK, cell_labels=path, **settings)
    assert not (tmp_path / "m").exists()


def test_a_cell_that_was_encoded_several_times_is_one_mark(marked, tmp_path, monkeypatch):
    data, table, path = marked
    table.to_csv(path, index=False)
    module = importlib.import_module("milscope.train")
    monkeypatch.setattr(module, "read_cells", lambda features, slide: _twice(read_cells(features, slide)))
    seen = []
    before = Fit.__init__
    monkeypatch.setattr(Fit, "__init__", lambda fit, *given: (before(fit, *given), seen.append(fit.lesson.marks))[0])
    train(data.directory, data.table, tmp_path / "m", replace(QUICK, epochs=1), cell_labels=path)
    lengths = seen[0].cells.lengths.tolist()
    assert set(lengths) == {1, 2}
    assert len(lengths) == len(seen[0].target)


def _twice(cells):
    """The second row is the first cell again."""
    names = cells["cell"].to_numpy(copy=True)
    names[2] = names[0]
    return cells.assign(cell=names)


def test_times_are_refused(marked, tmp_path):
    data, table, path = marked
    table.to_csv(path, index=False)
    slides = data.table.assign(months=np.arange(len(data.table)) + 1.0, died=1)
    with pytest.raises(InputError, match="`task` should be one of classes first"):
        train(data.directory, slides, tmp_path / "m", replace(QUICK, task="death:cox(months,died)"), cell_labels=path)
