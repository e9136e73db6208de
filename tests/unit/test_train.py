"""Training chooses on validation slides alone, goes on after a kill as if nothing had been, and refuses bad input."""

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.aggregators import AGGREGATORS
from milscope.configs import TrainConfig
from milscope.models import load_model
from milscope.store import read_features, read_manifest
from milscope.train import train
from milscope.types import InputError

candidates = importlib.import_module("milscope.candidates")

QUICK = TrainConfig(aggregators=("mean", "abmil-gated"), epochs=6, batch=4, learning_rate=3e-3, precision="float32",
                    options={"abmil-gated": {"hidden": 32, "attention": 16}})
EPOCHS = {"max": 40, "mean": 20, "dtfd": 20}
"""Of those that learn slowly: from one cell of a slide, from all of them alike, from one cell of each group."""
FILES = ("model.json", "model.safetensors", "card.md", "log.csv", "candidates.csv")


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_learns_slides_whose_witnesses_stand_out(simulate, tmp_path, name):
    data = simulate(slides=48)
    narrow = {key: value for key, value in {"hidden": 32, "width": 32, "attention": 16, "heads": 2, "layers": 1, "blocks": 1,
                                         "landmarks": 16}.items()
              if key in inspect.signature(AGGREGATORS[name].__init__).parameters}
    config = TrainConfig(aggregators=(name,), options={name: narrow}, batch=4, learning_rate=1e-2,
                         epochs=EPOCHS.get(name, 8))
    assert train(data.directory, data.table, tmp_path / "model", config).validation_auc > 0.95


def test_writes_what_the_contract_says(simulate, tmp_path):
    data = simulate()
    found = train(data.directory, data.table, tmp_path / "model", QUICK)
    model, _, _, record = load_model(found.directory)
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
    data = simulate(shift=2.5, slides=60, cells=20)
    config = TrainConfig(aggregators=("mean", "max", "abmil"), epochs=6, batch=4, learning_rate=1e-2, select=select)
    found = train(data.directory, data.table, tmp_path / "model", config)
    log = pd.read_csv(tmp_path / "model" / "log.csv")
    order = ["validation_loss"] if select == "loss" else ["validation_auc", "validation_loss"]
    best = log.sort_values(order, ascending=[column == "validation_loss" for column in order], kind="stable").iloc[0]
    record = load_model(found.directory).record
    assert (record["aggregator"], record["best_epoch"]) == (best["aggregator"], best["epoch"])
    assert (found.validation_loss, found.validation_auc) == (best["validation_loss"], best["validation_auc"])


def test_training_ends_when_nothing_gets_better(simulate, tmp_path):
    data = simulate(shift=0.0)
    config = TrainConfig(aggregators=("abmil",), epochs=200, patience=5, learning_rate=1e-2)
    found = train(data.directory, data.table, tmp_path / "model", config)
    record = load_model(found.directory).record
    assert len(pd.read_csv(found.directory / "log.csv")) == record["best_epoch"] + 5 < 200


def test_the_saved_model_is_the_one_that_was_measured(simulate, tmp_path):
    data = simulate(shift=1.0)
    found = train(data.directory, data.table, tmp_path / "model", QUICK)
    model, *_ = load_model(found.directory)
    rows = data.table[data.table["split"] == "validation"].sort_values("slide")
    train_labels = data.table.loc[data.table["split"] == "train", "abnormal"]
    with torch.no_grad():
        logits = model(read_features(data.directory, rows["slide"].tolist())).logits
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
def test_interrupted_after_any_checkpoint_it_ends_bit_identical(simulate, tmp_path, interrupted, monkeypatch, saves):
    """With two candidates of six epochs: within the first, at its end, within the second, at the very end."""
    data = simulate()
    train(data.directory, data.table, tmp_path / "whole", QUICK)
    with interrupted(saves):
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
        candidates = importlib.import_module("milscope.candidates")
        candidates.CHECKPOINT_SECONDS, save, count = 0.0, candidates.save_checkpoint, []
        def killed(*arguments):
            save(*arguments)
            count.append(1)
            if len(count) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        candidates.save_checkpoint = killed
        from milscope.train import train
        train({str(data.directory)!r}, {str(tmp_path / "slides.csv")!r}, {str(tmp_path / "resumed")!r}, {QUICK!r})
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (tmp_path / ".resumed.partial" / "checkpoint-0.safetensors").exists()
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
    ({"aggregators": ("abmill",)}, "transmil, abmilx, mambamil, .*Found `abmill`"),
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
    epochs, run_epoch = [], candidates.Fit.run_epoch

    def counted(fit):
        epochs.append(fit.name)
        run_epoch(fit)

    monkeypatch.setattr(candidates.Fit, "run_epoch", counted)
    return epochs


def same(first, second):
    for name in FILES:
        if name not in ("model.safetensors", "card.md"):  # the card bears the time
            assert (first / name).read_text() == (second / name).read_text(), name
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert read_manifest(first, "model").summary == read_manifest(second, "model").summary


def test_half_precision_learns_the_same(simulate, tmp_path):
    data = simulate(shift=1.5)
    exact = train(data.directory, data.table, tmp_path / "a", QUICK)
    half = train(data.directory, data.table, tmp_path / "b", replace(QUICK, precision="bfloat16"))
    assert half.validation_loss == pytest.approx(exact.validation_loss, rel=0.05)


@pytest.mark.parametrize("cells", [1, 50, 10_000])
def test_the_cells_in_memory_do_not_change_the_step(simulate, tmp_path, cells):
    data = simulate()
    config = replace(QUICK, aggregators=("abmil",), dropout=0.0, epochs=3)
    whole = train(data.directory, data.table, tmp_path / "whole", config)
    parts = train(data.directory, data.table, tmp_path / "parts", replace(config, cells=cells))
    assert parts.validation_loss == pytest.approx(whole.validation_loss, rel=1e-4)


def test_an_ensemble_is_the_mean_of_models_each_chosen_on_another_part(simulate, tmp_path):
    data = simulate(shift=1.0, slides=48)
    config = replace(QUICK, ensemble=3, seeds=2)
    found = train(data.directory, data.table, tmp_path / "model", config)
    model, _, _, record = load_model(found.directory)
    assert (found.aggregator, len(model.members), len(record["members"])) == ("ensemble", 6, 6)
    candidates_table = pd.read_csv(found.directory / "candidates.csv")
    assert candidates_table.groupby("member")["chosen"].sum().tolist() == [1] * 6
    bags = read_features(data.directory, ["s000", "s001"])
    with torch.no_grad():
        logits = torch.stack([member(bags).logits for member in model.members])
        torch.testing.assert_close(model(bags).logits, logits.mean(0))
    assert len({tuple(member.mean.tolist()) for member in model.members}) == 1
    assert not torch.equal(logits[0], logits[3]), "another seed, another model"
    manifest = read_manifest(found.directory, "model")
    assert manifest.patients == sorted({"p000", *data.table.loc[data.table["split"] != "test", "patient"]})


@pytest.mark.parametrize("saves", [2, 5, 9])
def test_an_interrupted_ensemble_ends_bit_identical(simulate, tmp_path, interrupted, saves):
    data, config = simulate(slides=36), replace(QUICK, aggregators=("abmil",), ensemble=2, seeds=2, epochs=3)
    train(data.directory, data.table, tmp_path / "whole", config)
    with interrupted(saves):
        train(data.directory, data.table, tmp_path / "resumed", config)
    train(data.directory, data.table, tmp_path / "resumed", config)
    same(tmp_path / "whole", tmp_path / "resumed")


def test_poisoned_test_labels_change_nothing_in_an_ensemble_with_a_threshold(simulate, tmp_path):
    data = simulate(slides=72)
    config = replace(QUICK, ensemble=2, sensitivity=0.5, guarantee="expected", temperature=True)
    train(data.directory, data.table, tmp_path / "clean", config)
    poisoned, test = data.table.copy(), data.table["split"] == "test"
    poisoned.loc[test, "abnormal"] = 1 - poisoned.loc[test, "abnormal"]
    train(data.directory, poisoned, tmp_path / "poisoned", config)
    same(tmp_path / "clean", tmp_path / "poisoned")


def test_the_threshold_keeps_its_promise_on_patients_nothing_else_was_chosen_on(simulate, tmp_path):
    data = simulate(slides=120, shift=2.0)
    config = replace(QUICK, sensitivity=0.8, guarantee="expected")
    found = train(data.directory, data.table, tmp_path / "model", config)
    _, _, operating, record = load_model(found.directory)
    point = operating["abnormal"]
    assert point.positives == record["data"]["calibration"]["classes"]["abnormal"]["positive"] == 5
    assert point.missed <= 1
    assert sum(part["slides"] for part in record["data"].values()) == (data.table["split"] != "test").sum()
    plain = train(data.directory, data.table, tmp_path / "plain", QUICK)
    assert read_manifest(plain.directory, "model").summary["slides"]["validation"] == 20
    assert read_manifest(found.directory, "model").summary["slides"]["validation"] == 10


def test_a_promise_that_too_few_patients_can_keep_is_refused(simulate, tmp_path, monkeypatch):
    data = simulate()
    epochs = count_epochs(monkeypatch)
    with pytest.raises(InputError, match=r"59"):
        train(data.directory, data.table, tmp_path / "model", replace(QUICK, sensitivity=0.95))
    assert not epochs, "nothing is trained first"
    assert not (tmp_path / "model").exists()


def several_tasks(data):
    """A second task of three grades with missing labels, and a time until an event that witnesses shorten."""
    random = np.random.default_rng(0)
    table = data.table.copy()
    grade = np.where(table["abnormal"] == 1, random.choice(["low", "high"], len(table)), "normal")
    table["grade"] = np.where(random.random(len(table)) < 0.3, "", grade)
    table["months"] = np.where(table["abnormal"] == 1, 1.0, 10.0) + random.random(len(table))
    table["died"] = (random.random(len(table)) < 0.8).astype(int)
    return table


def test_several_tasks_of_all_kinds_are_learned_at_once(simulate, tmp_path):
    data = simulate(slides=144)
    task = "abnormal,grade:ordinal(normal<low<high),kind:cox(months,died),late:hazards(months,died,3)"
    config = replace(QUICK, aggregators=("abmil",), task=task, epochs=40, learning_rate=1e-2, batch=16)
    found = train(data.directory, several_tasks(data), tmp_path / "model", config)
    model, questions, _, record = load_model(found.directory)
    assert [each.kind for each in questions.tasks] == ["binary", "ordinal", "cox", "hazards"]
    assert model.classes == questions.outputs == 2 + 2 + 1 + 3
    assert questions.tasks[2].baseline
    assert record["validation"]["abnormal"] > 0.95
    assert min(record["validation"][name] for name in ("grade", "kind", "late")) > 0.7, record["validation"]
    assert record["data"]["train"]["classes"]["kind"]["events"] > 0
    for name, measure in record["validation"].items():
        bounds = record["validation_intervals"][name]
        assert bounds["value"] == pytest.approx(measure)
        assert bounds["low"] <= measure <= bounds["high"]
    assert "95 % interval over patients" in (found.directory / "card.md").read_text()


@pytest.mark.parametrize("settings", [{"loss": "focal"}, {"loss": "asymmetric"}, {"balance": "sampling"}, {"balance": "none"}])
def test_rare_positives_are_learned_with_every_loss_and_balance(simulate, tmp_path, settings):
    data = simulate(slides=120)
    table = data.table[(data.table["abnormal"] == 0) | (np.arange(120) % 24 % 8 == 1)]
    config = replace(QUICK, aggregators=("abmil",), epochs=12, learning_rate=1e-2, **settings)
    assert train(data.directory, table, tmp_path / "model", config).validation_auc > 0.9


def test_a_task_that_compares_slides_sees_all_of_a_step_whatever_the_cells_in_memory(simulate, tmp_path):
    data = simulate(slides=48)
    config = replace(QUICK, aggregators=("abmil",), task="kind:cox(months,died)", epochs=2, dropout=0.0, batch=16)
    table = several_tasks(data)
    losses = [train(data.directory, table, tmp_path / str(cells), replace(config, cells=cells)).validation_loss
              for cells in (1, 10_000)]
    assert losses[0] == losses[1]


def test_slides_set_aside_without_cells_are_left_out(simulate, tmp_path):
    data = simulate(slides=120, change={"s008": lambda features: features[:0], "s009": lambda features: features[:0]})
    config = replace(QUICK, sensitivity=0.5, guarantee="expected", calibration=0.9)
    found = train(data.directory, data.table, tmp_path / "model", config)
    assert load_model(found.directory).operating["abnormal"].positives >= 7
