"""A model learns a further task; in strict mode old logits stay to the last bit, in shared mode it says how far they move."""

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.aggregators import MECDS
from milscope.card import describe
from milscope.configs import ExtendConfig, TrainConfig
from milscope.extend import extend
from milscope.models import load_model
from milscope.store import read_features, read_manifest
from milscope.train import train
from milscope.types import InputError

module = importlib.import_module("milscope.extend")

SLIDES = 36
SMALL = {"mecds": {"width": 16, "heads": 2, "blocks": 2, "feedforward": 1}}
OLD = TrainConfig(aggregators=("mecds",), options=SMALL, task="abnormal,grade:ordinal(normal<low<high)", epochs=2, batch=8,
                  learning_rate=1e-2, precision="float32")
NEW = ExtendConfig(task="second", epochs=2, batch=8, learning_rate=3e-2, precision="float32")
REFUSED = [
    ({"task": ""}, "`task` should be the new task. Found none"),
    ({"task": "abnormal"}, "one that the model has not learned. Found `abnormal`. It has: abnormal, grade."),
    ({"task": "second,third"}, "`task` should be a column of the slide table. Found `third`"),
    ({"task": "second,abnormal"}, "`task` should be one new task. Found second, abnormal"),
    ({"task": "third"}, "`task` should be a column of the slide table"),
    ({"aggregators": ("abmil",)}, "`aggregators` should be left out"),
    ({"ensemble": 2}, "`ensemble` should be left out"),
    ({"epochs": 0}, "`epochs`"),
    ({"sensitivity": 0.95}, "59"),
]


@pytest.fixture(scope="module")
def known(simulate_in, tmp_path_factory):
    """Slides with witnesses of a first task (feature 0) and a second (feature 1), and a model of the first and its grades."""
    directory, random = tmp_path_factory.mktemp("known"), np.random.default_rng(1)
    second = random.integers(2, size=SLIDES)
    change = {f"s{number:03d}": stands_out for number in np.flatnonzero(second)}
    data = simulate_in(directory, slides=SLIDES, cells=6, shift=3.0, change=change)
    grade = np.where(data.table["abnormal"] == 1, random.choice(["low", "high"], SLIDES), "normal")
    table = data.table.assign(grade=grade, second=np.where(np.arange(SLIDES) % 7 == 0, np.nan, second))
    data = data._replace(table=table)
    return data, train(data.directory, table.drop(columns="second"), directory / "old", OLD).directory


def stands_out(features):
    changed = features.copy()
    changed[-1, 1] += 6
    return changed


def extended(known, out, **settings):
    data, model = known
    return extend(model, data.directory, data.table, out, replace(NEW, **settings))


def logits_of(directory, data):
    model = load_model(directory).aggregator
    with torch.no_grad():
        return torch.cat([model(read_features(data.directory, [slide])).logits for slide in data.table["slide"]])


def weighted_loss(logits, labels, share):
    """The cross-entropy, classes counting alike; `share` of the training slides with a label are positive."""
    targets = torch.tensor(labels.to_numpy()).long()
    weights = torch.tensor([0.5 / (1 - share), 0.5 / share], dtype=torch.float32)[targets]
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).mean().item()


def test_strict_keeps_old_logits_to_the_last_bit_and_learns_the_new_task(known, tmp_path):
    data, before = known
    found = extended(known, tmp_path / "new", epochs=8)
    assert (found.task, found.moved) == ("second", 0)
    rows = data.table[(data.table["split"] == "validation") & data.table["second"].notna()]
    said = logits_of(found.directory, data._replace(table=rows))[:, 4:]
    assert read_manifest(found.directory, "model").summary["validation_loss"] == pytest.approx(weighted_loss(
        said, rows["second"], data.table.loc[data.table["split"] == "train", "second"].mean()), rel=1e-4)
    losses = pd.read_csv(found.directory / "log.csv")["train_loss"]
    assert losses.min() < 0.6 * losses[0]
    old, new = logits_of(before, data), logits_of(found.directory, data)
    assert new.shape[1] == old.shape[1] + 2
    assert torch.equal(old, new[:, :4])
    table = pd.read_csv(found.directory / "regression.csv")
    assert table["task"].tolist() == ["abnormal", "grade"]
    assert table["slides"].tolist() == [SLIDES, SLIDES]
    assert (table["largest_difference"] == 0).all()
    assert (table["calls_changed"] == 0).all()
    assert (table["auc_before"] == table["auc_after"]).all()
    assert {path.name for path in found.directory.iterdir()} == {
        "model.json", "model.safetensors", "card.md", "log.csv", "candidates.csv", "regression.csv", "manifest.json"}


def test_what_was_known_is_carried_over_unchanged(known, tmp_path):
    data, model = known
    before = shutil.copytree(model, tmp_path / "old")
    path = before / "model.json"
    record = json.loads(path.read_text())
    record["tasks"][0]["temperature"] = 1.7
    record["operating"] = {"abnormal": {"threshold": 0.3, "sensitivity": 0.5, "confidence": None, "guarantee": "expected",
                                        "positives": 4, "missed": 0, "negatives": 3, "cleared": 1, "specificity": None,
                                        "upper": None}}
    path.write_text(json.dumps(record))
    found = extended((data, before), tmp_path / "new", sensitivity=0.5, guarantee="expected", temperature=True)
    old, new = load_model(before), load_model(found.directory)
    assert new.questions.tasks[:2] == old.questions.tasks
    assert new.operating["abnormal"] == old.operating["abnormal"]
    assert "second" in new.operating
    assert new.questions.tasks[2].temperature != 1
    for key in ("task", "classes", "encoder", "patients_fingerprint", "aggregator"):
        assert new.record[key] == old.record[key]
    assert new.record["validation"] == {**old.record["validation"], "second": found.validation_auc}
    weights = load_file(before / "model.safetensors")
    kept = load_file(found.directory / "model.safetensors")
    assert all(torch.equal(kept[name], weights[name]) for name in weights)
    manifest, was = read_manifest(found.directory, "model"), read_manifest(before, "model")
    assert manifest.inputs["model"] == was.fingerprint
    assert set(was.patients) <= set(manifest.patients)
    assert new.record["learned"] == [
        {"tasks": ["abnormal", "grade"], "made": was.created, "model": was.fingerprint},
        {"tasks": ["second"], "mode": "strict"}]
    for said in ((found.directory / "card.md").read_text(), describe(found.directory)):
        assert f"first abnormal, grade, {was.created[:16].replace('T', ' ')} UTC" in said
        assert f"then second, {manifest.created[:16].replace('T', ' ')} UTC; what is said of earlier tasks is bit" in said
        assert "mode shared" not in said
        assert "epochs 2" in said


def test_shared_moves_old_logits_and_says_how_far(known, tmp_path):
    data, before = known
    found = extended(known, tmp_path / "new", mode="shared", epochs=2)
    old, new = logits_of(before, data), logits_of(found.directory, data)
    gaps = (new[:, :4] - old).abs()
    table = pd.read_csv(found.directory / "regression.csv")
    assert table["largest_difference"].tolist() == pytest.approx([gaps[:, :2].max().item(), gaps[:, 2:].max().item()])
    assert found.moved == table["largest_difference"].max() > 0
    task = load_model(before).questions.tasks[0]
    changed = ((task.suspicion(old[:, :2]) >= 0) != (task.suspicion(new[:, :2]) >= 0)).sum().item()
    assert table["calls_changed"].tolist()[0] == changed
    assert f"moved a little ({found.moved:.3g} at most)" in (found.directory / "card.md").read_text()
    assert any("abnormal" in line for line in found.warnings) == (changed > 0)


def test_extended_twice_it_tells_all_three(known, tmp_path):
    data, _ = known
    first = extended(known, tmp_path / "first", mode="shared", epochs=1)
    table = data.table.assign(third=1 - data.table["second"])
    second = extend(first.directory, data.directory, table, tmp_path / "second", replace(NEW, task="third", epochs=1))
    assert second.moved == 0
    assert torch.equal(logits_of(first.directory, data), logits_of(second.directory, data)[:, :6])
    learned = load_model(second.directory).record["learned"]
    assert [(each["tasks"], each.get("mode")) for each in learned] == [
        (["abnormal", "grade"], None), (["second"], "shared"), (["third"], "strict")]
    assert ["made" in each for each in learned] == [True, True, False]
    assert pd.read_csv(second.directory / "regression.csv")["task"].tolist() == ["abnormal", "grade", "second"]


def test_labels_of_old_tasks_teach_nothing(known, tmp_path):
    data, model = known
    found = extended(known, tmp_path / "with", epochs=1)
    unlabelled = data.table.drop(columns=["abnormal", "grade"])
    without = extend(model, data.directory, unlabelled, tmp_path / "without", replace(NEW, epochs=1))
    a, b = (load_file(each.directory / "model.safetensors") for each in (found, without))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert pd.read_csv(without.directory / "regression.csv")["auc_before"].isna().all()


def test_an_old_task_that_moves_in_strict_mode_ends_it_and_nothing_is_kept(known, tmp_path, monkeypatch):
    made = MECDS.extended

    def leaky(self, outputs, *, mode):
        return made(self, outputs, mode="shared")

    monkeypatch.setattr(MECDS, "extended", leaky)
    with pytest.raises(InputError, match=r"`old tasks` should be to the last bit what they were.* Found `abnormal` moved by"):
        extended(known, tmp_path / "new")
    assert list(tmp_path.glob("*new*")) == []


def test_interrupted_it_ends_bit_identical(known, tmp_path, interrupted):
    extended(known, tmp_path / "whole")
    with interrupted(2):
        extended(known, tmp_path / "resumed")
    extended(known, tmp_path / "resumed")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("model.json", "log.csv", "candidates.csv", "regression.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "resumed" / name).read_text()


def test_refuses_what_cannot_be_learned(known, tmp_path):
    data, model = known
    for settings, line in REFUSED:
        with pytest.raises(InputError) as error:
            extended(known, tmp_path / "new", **settings)
        assert line in str(error.value)
    other = train(data.directory, data.table, tmp_path / "other", replace(
        OLD, aggregators=("mean",), options={}, task="abnormal", epochs=1)).directory
    with pytest.raises(InputError, match=r"`mecds`, which takes further tasks\. Found `mean`"):
        extended((data, other), tmp_path / "new")
    path = shutil.copytree(model, tmp_path / "elsewhere") / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder": "e2"}))
    with pytest.raises(InputError, match="of encoder e2"):
        extended((data, path.parent), tmp_path / "new")
    assert list(tmp_path.glob("*new*")) == []
