"""Training chooses on validation slides alone, goes on after a kill as if nothing had been, and refuses bad input."""

import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.aggregators import AGGREGATORS
from milscope.configs import TrainConfig
from milscope.store._manifest import read_manifest
from milscope.train import load_model, train
from milscope.types import InputError

module = importlib.import_module("milscope.train")

QUICK = TrainConfig(aggregators=("mean", "abmil-gated"), epochs=6, batch=4, learning_rate=3e-3)
FILES = ("model.json", "model.safetensors", "log.csv", "candidates.csv")


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_learns_slides_whose_witnesses_stand_out(simulate, tmp_path, name):
    data = simulate(slides=48)
    config = TrainConfig(aggregators=(name,), epochs=40, batch=4, learning_rate=1e-2)
    assert train(data.directory, data.table, tmp_path / "model", config).validation_auc > 0.95


def test_writes_what_the_contract_says(simulate, tmp_path):
    data = simulate()
    found = train(data.directory, data.table, tmp_path / "model", QUICK)
    model, record = load_model(found.directory)
    assert not model.training
    assert record["aggregator"] == found.aggregator
    assert (record["task"], record["classes"], record["encoder"]) == ("abnormal", ["negative", "positive"], "e1")
    log = pd.read_csv(found.directory / "log.csv")
    assert list(log) == ["aggregator", "epoch", "train_loss", "validation_loss", "validation_auc", "learning_rate"]
    assert log.groupby("aggregator")["epoch"].apply(list).to_dict() == {name: [1, 2, 3, 4, 5, 6] for name in QUICK.aggregators}
    assert log["learning_rate"].max() == QUICK.learning_rate
    candidates = pd.read_csv(found.directory / "candidates.csv")
    assert list(candidates) == ["aggregator", "best_epoch", "validation_loss", "validation_auc", "chosen"]
    assert candidates.loc[candidates["chosen"], "aggregator"].tolist() == [found.aggregator]
    assert sorted(path.name for path in found.directory.iterdir()) == sorted([*FILES, "manifest.json"])
    manifest = read_manifest(found.directory, "model")
    seen = data.table.loc[data.table["split"] != "test", "patient"]
    assert manifest.patients == sorted({"p000", *seen})
    assert manifest.summary["slides"] == {"train": 16, "validation": 4}


@pytest.mark.parametrize("select", ["loss", "auc"])
def test_the_best_epoch_of_the_best_candidate_is_kept(simulate, tmp_path, select):
    data = simulate(shift=2.5, slides=60)
    config = TrainConfig(aggregators=("mean", "max", "abmil"), epochs=8, batch=4, learning_rate=1e-2, select=select)
    found = train(data.directory, data.table, tmp_path / "model", config)
    log = pd.read_csv(tmp_path / "model" / "log.csv")
    order = ["validation_loss"] if select == "loss" else ["validation_auc", "validation_loss"]
    best = log.sort_values(order, ascending=[column == "validation_loss" for column in order], kind="stable").iloc[0]
    _, record = load_model(found.directory)
    assert (record["aggregator"], record["best_epoch"]) == (best["aggregator"], best["epoch"])
    assert (found.validation_loss, found.validation_auc) == (best["validation_loss"], best["validation_auc"])


def test_training_ends_when_nothing_gets_better(simulate, tmp_path):
    data = simulate(shift=0.0)
    config = TrainConfig(aggregators=("abmil",), epochs=200, patience=5, learning_rate=1e-2)
    found = train(data.directory, data.table, tmp_path / "model", config)
    _, record = load_model(found.directory)
    assert len(pd.read_csv(found.directory / "log.csv")) == record["best_epoch"] + 5 < 200


def test_the_saved_model_is_the_one_that_was_measured(simulate, tmp_path):
    data = simulate(shift=1.0)
    found = train(data.directory, data.table, tmp_path / "model", QUICK)
    model, _ = load_model(found.directory)
    rows = data.table[data.table["split"] == "validation"].sort_values("slide")
    train_labels = data.table.loc[data.table["split"] == "train", "abnormal"]
    with torch.no_grad():
        logits = model(module.read_features(data.directory, rows["slide"].tolist())).logits
    labels = torch.tensor(rows["abnormal"].to_numpy())
    weights = torch.tensor([0.5 / (1 - train_labels.mean()), 0.5 / train_labels.mean()])[labels]
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert (losses * weights).mean().item() == pytest.approx(found.validation_loss, rel=1e-5)


def test_poisoned_test_labels_and_test_features_give_the_same_model(simulate, tmp_path):
    data = simulate()
    train(data.directory, data.table, tmp_path / "clean", QUICK)
    poisoned, test = data.table.copy(), data.table["split"] == "test"
    poisoned.loc[test, "abnormal"] = 1 - poisoned.loc[test, "abnormal"]
    for slide in poisoned.loc[test, "slide"]:
        (data.directory / "features_fake" / f"{slide}.h5").write_bytes(b"poison")
    train(data.directory, poisoned, tmp_path / "poisoned", QUICK)
    same(tmp_path / "clean", tmp_path / "poisoned")


def test_the_order_of_the_table_does_not_matter_and_a_candidate_does_not_depend_on_the_others(simulate, tmp_path):
    data = simulate()
    train(data.directory, data.table, tmp_path / "a", QUICK)
    train(data.directory, data.table[::-1], tmp_path / "b", QUICK)
    same(tmp_path / "a", tmp_path / "b")
    train(data.directory, data.table, tmp_path / "c", TrainConfig(**{**vars(QUICK), "aggregators": ("abmil-gated",)}))
    log = pd.read_csv(tmp_path / "a" / "log.csv").query("aggregator == 'abmil-gated'").reset_index(drop=True)
    pd.testing.assert_frame_equal(log, pd.read_csv(tmp_path / "c" / "log.csv"))


def test_the_seed_decides_and_the_global_one_is_left_alone(simulate, tmp_path):
    data = simulate()
    train(data.directory, data.table, tmp_path / "a", QUICK)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        before = torch.get_rng_state()
        train(data.directory, data.table, tmp_path / "b", QUICK)
        assert torch.equal(torch.get_rng_state(), before)
    same(tmp_path / "a", tmp_path / "b")
    train(data.directory, data.table, tmp_path / "c", TrainConfig(**{**vars(QUICK), "seed": 1}))
    assert (tmp_path / "a" / "log.csv").read_text() != (tmp_path / "c" / "log.csv").read_text()


@pytest.mark.parametrize("saves", [1, 3, 6, 7, 9, 14])
def test_interrupted_after_any_checkpoint_it_ends_bit_identical(simulate, tmp_path, monkeypatch, saves):
    """With two candidates of six epochs: within the first, at its end, within the second, at the very end."""
    data = simulate()
    train(data.directory, data.table, tmp_path / "whole", QUICK)
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0.0)
    left, save = [saves], module.save_checkpoint

    def interrupted(*arguments):
        save(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(data.directory, data.table, tmp_path / "resumed", QUICK)
    assert not (tmp_path / "resumed").exists()
    epochs = count_epochs(monkeypatch)
    train(data.directory, data.table, tmp_path / "resumed", QUICK)
    same(tmp_path / "whole", tmp_path / "resumed")
    assert len(epochs) == max(0, 12 - saves + (saves >= 7) + (saves >= 14)), "finished epochs are not run again"


def test_killed_and_run_again_it_ends_bit_identical(simulate, tmp_path):
    data = simulate()
    data.table.to_csv(tmp_path / "slides.csv", index=False)
    train(data.directory, data.table, tmp_path / "whole", QUICK)
    script = f"""
        import importlib, os, signal
        from milscope.configs import TrainConfig
        module = importlib.import_module("milscope.train")
        module.CHECKPOINT_SECONDS, save, count = 0.0, module.save_checkpoint, []
        def killed(*arguments):
            save(*arguments)
            count.append(1)
            if len(count) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        module.save_checkpoint = killed
        module.train({str(data.directory)!r}, {str(tmp_path / "slides.csv")!r}, {str(tmp_path / "resumed")!r}, {QUICK!r})
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / ".resumed.partial" / module.CHECKPOINT).exists()
    train(data.directory, data.table, tmp_path / "resumed", QUICK)
    same(tmp_path / "whole", tmp_path / "resumed")


def test_done_already_it_is_skipped(simulate, tmp_path, monkeypatch):
    data = simulate()
    first = train(data.directory, data.table, tmp_path / "model", QUICK)
    epochs = count_epochs(monkeypatch)
    assert train(data.directory, data.table, tmp_path / "model", QUICK) == first
    assert not epochs


def test_slides_without_features_or_cells_are_left_out_and_named(simulate, tmp_path):
    data = simulate(slides=36, change={"s001": lambda features: features[:0]})
    (data.directory / "features_fake" / "s002.h5").unlink()
    found = train(data.directory, data.table, tmp_path / "model", QUICK)
    summary = read_manifest(found.directory, "model").summary
    assert summary["skipped"] == ["s002", "s001"]
    assert summary["slides"]["train"] == 22
    assert ["s002" in summary["warnings"][0], "s001" in summary["warnings"][1]] == [True, True]


def no_split(table):
    return table.assign(split="")


def no_validation(table):
    return table[table["split"] != "validation"]


def one_class(table):
    return table[(table["split"] != "train") | (table["abnormal"] == 0)]


@pytest.mark.parametrize(("change", "line"), [
    (no_split, "`split` should be .* an empty column. Run `milscope split`"),
    (no_validation, "`validation slides` should be of both classes of `abnormal`. Found no negative one"),
    (one_class, "`train slides` should be of both classes of `abnormal`. Found no positive one"),
])
def test_refuses_tables_nothing_can_be_learned_from(simulate, tmp_path, change, line):
    data = simulate()
    with pytest.raises(InputError, match=line):
        train(data.directory, change(data.table), tmp_path / "model", QUICK)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(("settings", "line"), [
    ({"aggregators": ("abmill",)}, "of mean, max, abmil, abmil-gated, pamil. Found `abmill`"),
    ({"aggregators": ()}, "at least one name"),
    ({"epochs": 0}, "`epochs` should be at least 1. Found 0"),
    ({"patience": 0}, "`patience`"),
    ({"batch": 0}, "`batch`"),
    ({"dropout": 1.0}, "`dropout`"),
    ({"learning_rate": float("nan")}, "`learning_rate`"),
    ({"weight_decay": -1.0}, "`weight_decay`"),
    ({"learning_rate": 1e30, "aggregators": ("abmil",)}, "`learning_rate` should be low enough"),
    ({"task": "cancer"}, "`task` should be a column"),
])
def test_refuses_settings_nothing_can_be_learned_with(simulate, tmp_path, settings, line):
    data = simulate()
    with pytest.raises(InputError, match=line):
        train(data.directory, data.table, tmp_path / "model", TrainConfig(**{**vars(QUICK), **settings}))
    assert not (tmp_path / "model").exists()


def test_refuses_features_that_are_not_finite(simulate, tmp_path):
    data = simulate(change={"s003": lambda features: np.where(np.arange(len(features))[:, None] == 2, np.nan, features)})
    with pytest.raises(InputError, match=r"`features` should be finite\. Found nan or inf in 1 .* `s003`"):
        train(data.directory, data.table, tmp_path / "model", QUICK)
    assert list(tmp_path.glob("*model*")) == []


def test_refuses_a_model_of_an_unknown_aggregator(simulate, tmp_path):
    data = simulate()
    train(data.directory, data.table, tmp_path / "model", QUICK)
    path = tmp_path / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"aggregator": "futuremil"}))
    with pytest.raises(InputError, match="Found `futuremil`"):
        load_model(tmp_path / "model")


def count_epochs(monkeypatch):
    epochs, run_epoch = [], module.Fit.run_epoch

    def counted(fit):
        epochs.append(fit.name)
        run_epoch(fit)

    monkeypatch.setattr(module.Fit, "run_epoch", counted)
    return epochs


def same(first, second):
    for name in FILES:
        if name != "model.safetensors":
            assert (first / name).read_text() == (second / name).read_text(), name
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert read_manifest(first, "model").summary == read_manifest(second, "model").summary
