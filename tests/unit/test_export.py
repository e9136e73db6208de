"""ONNX files give what PyTorch gives, for any number of cells, or are refused before anything is written."""

import importlib
import inspect
import json
import logging
import re
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from milscope.aggregators import AGGREGATORS, Aggregated, Aggregator, Ensemble, MeanPooling, _nystrom, aggregator_class
from milscope.configs import PretrainConfig, TrainConfig
from milscope.encoders import Encoder
from milscope.export import LENGTHS, OPSET, ExportConfig, export, export_aggregator, export_encoder
from milscope.store import Bags, Stage, read_manifest
from milscope.types import InputError

module = importlib.import_module("milscope.export")
NARROW = {"channels": [8, 8, 16, 16], "layers": [2, 1, 1, 1]}
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def fresh(name, features=12, classes=2):
    """An aggregator of chance, whose standardisation matters."""
    torch.manual_seed(0)
    model = AGGREGATORS[name](features, classes, 0.25)
    scale(model)
    return model.eval()


def scale(model):
    model.mean.copy_(torch.randn(len(model.mean)))
    model.deviation.copy_(torch.rand(len(model.mean)) + 0.5)


def ours(model, features):
    with torch.inference_mode():
        found = model(Bags(features, torch.tensor([0, len(features)])))
    return found.logits[0].numpy(), found.attention.numpy()


def theirs(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})


OPTIONS = {"dtfd": [{"distill": how} for how in ("afs", "mas", "maxs", "maxmins")],
           "mambamil": [{"layers": 1}, {"reorder": False}], "abmilx": [{"heads": 2}],
           "transmil": [{"heads": 2, "landmarks": 60}], "mecds": [{"width": 16, "heads": 2, "blocks": 1}]}


@pytest.mark.parametrize(("name", "options"), [(name, each) for name in AGGREGATORS for each in OPTIONS.get(name, [{}])])
def test_every_aggregator_agrees_with_pytorch(name, options, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LENGTHS", (3, 300))  # the long slides are another test's
    monkeypatch.setattr(_nystrom, "STEPS", 2)  # what is repeated is written down again each time
    model, path = narrow(name, **options), tmp_path / "model.onnx"
    assert export_aggregator(model, path) < 1e-5
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for cells in (1, 2, 10, 31, 64, 65, 401):  # none of them traced or compared by the export itself
        features = 2 * torch.randn(cells, 12)
        logits, attention = session.run(None, {"features": features.numpy()})
        expected = ours(model, features)
        np.testing.assert_allclose(logits, expected[0], atol=1e-4)
        np.testing.assert_allclose(attention, expected[1], atol=1e-5)
        np.testing.assert_allclose(attention.sum(0), 1, atol=1e-5)


def narrow(name, **options):
    """An aggregator of chance with few features in between."""
    torch.manual_seed(0)
    if "hidden" in inspect.signature(AGGREGATORS[name].__init__).parameters:
        options["hidden"] = 16
    model = AGGREGATORS[name](12, 2, 0.25, **options)
    scale(model)
    return model.eval()


def test_the_file_says_what_goes_in_and_what_comes_out(tmp_path):
    path = tmp_path / "model.onnx"
    export_aggregator(fresh("abmil", classes=3), path)
    model = onnx.load(path)
    assert [each.version for each in model.opset_import if each.domain == ""] == [OPSET]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (inputs,), (logits, attention) = session.get_inputs(), session.get_outputs()
    assert (inputs.name, inputs.type, inputs.shape[1]) == ("features", "tensor(float)", 12)
    assert isinstance(inputs.shape[0], str), "the number of cells is free"
    assert [(each.name, each.shape[-1]) for each in (logits, attention)] == [("logits", 3), ("attention", 3)]


def test_the_same_slide_gives_the_same_bits_every_time(tmp_path):
    """Sums that onnxruntime scatters in several threads differ from run to run."""
    path = tmp_path / "model.onnx"
    export_aggregator(fresh("abmil"), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    features = torch.randn(5000, 12).numpy()
    first = session.run(None, {"features": features})
    for _ in range(5):
        for now, before in zip(session.run(None, {"features": features}), first, strict=True):
            assert np.array_equal(now, before)


def test_an_ensemble_standardises_for_each_member(tmp_path):
    members = [("abmil", {"features": 6, "hidden": 16}), ("mean", {"features": 6})]
    model = Ensemble(6, 2, members=members, find=aggregator_class).eval()
    for member in model.members:
        scale(member)
    assert export_aggregator(model, tmp_path / "model.onnx") < 1e-5
    features = torch.randn(50, 6)
    for found, expected in zip(theirs(tmp_path / "model.onnx", features), ours(model, features), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_ensemble_of_models_with_a_form_of_their_own_is_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LENGTHS", (3, 300))
    sizes = {"features": 6, "hidden": 8}
    members = [("abmilx", {**sizes, "heads": 2}), ("dtfd", sizes)]
    assert export_aggregator(Ensemble(6, 2, members=members, find=aggregator_class), tmp_path / "model.onnx") < 1e-5


def test_an_ensemble_with_a_member_that_cannot_be_exported_is_refused(tmp_path):
    model = Ensemble(4, 2, members=[("mean", {"features": 4}), ("looking", {"features": 4, "classes": 2, "dropout": 0.0})],
                     find={"mean": MeanPooling, "looking": Looking}.__getitem__)
    with pytest.raises(InputError, match=r"`Ensemble and Looking and MeanPooling`: .*Take another"):
        export_aggregator(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_wrong_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_aggregate", lambda _, features: (features.mean(0)[:2], features[:, :2]))
    with pytest.raises(InputError, match=r"`model.onnx` should be within 0\.0001 of PyTorch\. Found a difference of \d"):
        export_aggregator(fresh("mean"), tmp_path / "model.onnx")


class Counting(MeanPooling):
    """Adds the number of cells in a way that a trace freezes."""

    def aggregate(self, bags, targets=None):
        found = super().aggregate(bags, targets)
        return found._replace(logits=found.logits + sum(1 for _ in range(len(bags.features))))


class Looking(MeanPooling):
    """Does something else for slides of one kind."""

    def aggregate(self, bags, targets=None):
        found = super().aggregate(bags, targets)
        return found if found.logits[0, 0].item() > 0 else found._replace(logits=-found.logits)


class Scattering(MeanPooling):
    """Sums into several rows."""

    def aggregate(self, bags, targets=None):
        found = super().aggregate(bags, targets)
        rows = torch.arange(bags.features.shape[0]) % 3
        sums = found.attention.new_zeros(3, self.classes).index_add(0, rows, found.attention)
        return found._replace(logits=found.logits + sums[:1])


class Failing(Aggregator):
    """Gives what is no number."""

    def aggregate(self, bags, targets=None):
        attention = torch.full((bags.features.shape[0], self.classes), torch.nan) * bags.features[:, :1]
        return Aggregated(bags.features.mean(0, keepdim=True)[:, :self.classes], attention, torch.zeros(()))


@pytest.mark.parametrize(("kind", "line"), [
    (Counting, r"`model.onnx` should be (a model that onnxruntime runs|within 0.0001)"),
    (Looking, r"`model` should be one that can be written as ONNX for any number of cells\. Found `Looking`: .*Take another"),
    (Scattering, r"scatters sums \(Scatter\w+\), which onnxruntime gets wrong"),
    (Failing, "Found a difference of inf"),
])
def test_what_onnx_cannot_say_is_refused_in_one_line(kind, line, tmp_path):
    with pytest.raises(InputError, match=line) as told:
        export_aggregator(kind(4, 2, 0.0), tmp_path / "model.onnx")
    assert "\n" not in str(told.value)


def test_shape_checks_and_loggers_are_left_as_they_were(tmp_path):
    before = jaxtyping.config.jaxtyping_disable, logging.getLogger("torch").level
    with pytest.raises(InputError):
        export_aggregator(Looking(4, 2, 0.0), tmp_path / "model.onnx")
    assert (jaxtyping.config.jaxtyping_disable, logging.getLogger("torch").level) == before


@pytest.mark.parametrize(("name", "size", "options"), [("resnet18", 32, NARROW), ("vit_tiny_patch16_224", 32, {"depth": 1})])
def test_encoders_agree_with_pytorch(name, size, options, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(name, size=size, options=options)
    assert export_encoder(encoder, tmp_path / "encoder.onnx") < 1e-4
    cells = torch.rand(9, 3, size, size)
    (found,) = theirs(tmp_path / "encoder.onnx", cells)
    with torch.inference_mode():
        np.testing.assert_allclose(found, encoder.eval()(cells).numpy(), atol=1e-4)


def artifacts(folder, *, encoder="", record=None):
    """A model of mean pooling as `train` leaves it, and the encoder whose features it takes."""
    with Stage(folder / "encoder", "encoder", PretrainConfig(size=32), {"cells": "c1"}, ["p1"]) as stage:
        Encoder("resnet18", size=32, options=NARROW).save(stage.work)
        stage.summary.update(extent=16.0)
    model = fresh("mean", features=16)
    with Stage(folder / "model", "model", TrainConfig(), {"features": "f1"}, ["p1", "p2"]) as stage:
        save_file(dict(model.state_dict()), stage.work / "model.safetensors")
        own = encoder or stage_fingerprint(folder / "encoder", "encoder")
        described = {"aggregator": "mean", "options": model.options, "task": "abnormal",
                     "classes": ["negative", "positive"], "encoder": own}
        (stage.work / "model.json").write_text(json.dumps({**described, **(record or {})}))
    return folder / "model", folder / "encoder"


def stage_fingerprint(directory, kind):
    return read_manifest(directory, kind).fingerprint


def test_an_artifact_holds_model_encoder_and_what_to_do_with_their_output(tmp_path):
    model, encoder = artifacts(tmp_path, record={"operating": {}, "temperature": {"abnormal": 1.5}})
    done = export(model, tmp_path / "onnx", encoder)
    assert sorted(path.name for path in done.directory.iterdir()) == [
        "encoder.onnx", "manifest.json", "model.json", "model.onnx"]
    assert done.opset == OPSET
    assert 0 <= done.difference < 1e-5
    assert 0 <= done.encoder_difference < 1e-4
    manifest = read_manifest(done.directory, "onnx")
    assert manifest.inputs == {"model": stage_fingerprint(model, "model"), "encoder": stage_fingerprint(encoder, "encoder")}
    assert manifest.patients == ["p1", "p2"]
    described = json.loads((done.directory / "model.json").read_text())
    assert (described["task"], described["temperature"]) == ("abnormal", {"abnormal": 1.5})
    assert described["onnx"]["opset"] == OPSET
    assert described["onnx"]["torch"] == torch.__version__.split("+")[0] or described["onnx"]["torch"] == torch.__version__
    assert described["onnx"]["encoder"] == {"name": "resnet18", "size": 32, "features": 16, "margin": 1.125, "extent": 16.0}


def test_without_encoder_there_is_the_model_alone_and_what_is_done_is_skipped(tmp_path, monkeypatch):
    model, _ = artifacts(tmp_path, encoder="e7")
    done = export(model, tmp_path / "onnx")
    assert not (tmp_path / "onnx" / "encoder.onnx").exists()
    assert np.isnan(done.encoder_difference)
    monkeypatch.setattr(module, "export_aggregator", None)
    assert export(model, tmp_path / "onnx").difference == done.difference


def test_another_encoder_is_refused(tmp_path):
    model, encoder = artifacts(tmp_path, encoder="e7")
    with pytest.raises(InputError, match=r"`encoder` should be e7, with which the model was trained\. Found [0-9a-f]{16}\."):
        export(model, tmp_path / "onnx", encoder)
    assert not (tmp_path / "onnx").exists()


def test_a_difference_above_the_tolerance_leaves_nothing(tmp_path):
    model, _ = artifacts(tmp_path, encoder="e7")
    with pytest.raises(InputError, match=r"within 0 of PyTorch\. Found a difference of"):
        export(model, tmp_path / "onnx", config=ExportConfig(tolerance=0.0))
    assert not list(tmp_path.glob("*onnx*"))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"Found no onnxscript\. Run `pip install 'milscope\[onnx\]'`"):
        export(tmp_path / "model", tmp_path / "onnx")


def test_the_page_names_what_can_be_exported_and_what_is_compared():
    text = PAGE.read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("Every aggregator is exported:")]
    assert re.findall(r"`([\w-]+)`", row) == list(AGGREGATORS)
    assert ", ".join(f"{length:,}" for length in LENGTHS) in text
    assert f"opset {OPSET}" in text
