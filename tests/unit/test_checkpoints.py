"""A checkpoint gives back exactly what was saved, and an interrupted optimizer goes on as if it had not been."""

import math

import pytest
import torch
from torch import nn

from milscope.checkpoints import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint, step_seed
from milscope.types import InputError

OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4),
    "plain-sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "amsgrad": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, amsgrad=True),
}


def test_gives_back_tensors_and_state_exactly(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    tensors = {
        "float": table, "transposed": table.T, "shared": table[0], "scalar": torch.tensor(0.1, dtype=torch.float64),
        "whole": torch.tensor([1, -2]), "truth": torch.tensor([True, False]), "half": table.bfloat16(),
        "empty": torch.zeros(0, 3),
    }
    state = {"epoch": 3, "loss": 0.1 + 0.2, "best": math.inf, "log": [{"a": None, "name": "ü"}]}
    save_checkpoint(tmp_path / "c.safetensors", tensors, state)
    found, found_state = load_checkpoint(tmp_path / "c.safetensors")
    assert found_state == state
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_loaded_tensors_outlive_the_file(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.ones(1000)}, {})
    tensors, _ = load_checkpoint(path)
    save_checkpoint(path, {"a": torch.zeros(1000)}, {})
    path.write_bytes(b"")
    assert torch.equal(tensors["a"], torch.ones(1000))


def test_nothing_there_is_none_and_damage_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"a": torch.ones(1000)}, {})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="Delete it"):
        load_checkpoint(path)


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"a": torch.ones(3)}, {"epoch": 1})

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"a": torch.zeros(3)}, {"epoch": 2})
    tensors, state = load_checkpoint(path)
    assert state == {"epoch": 1}
    assert torch.equal(tensors["a"], torch.ones(3))


@pytest.mark.parametrize("build", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_a_restored_optimizer_goes_on_bit_identically(build, before, tmp_path):
    undisturbed, model = _model(), _model()
    optimizer, reference = build(model.parameters()), build(undisturbed.parameters())
    _steps(undisturbed, reference, 0, 6)
    _steps(model, optimizer, 0, before)
    save_checkpoint(tmp_path / "c", {**model.state_dict(), **optimizer_tensors(optimizer)}, {})

    tensors, _ = load_checkpoint(tmp_path / "c")
    resumed = _model()
    resumed.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("optimizer.")})
    optimizer = build(resumed.parameters())
    restore_optimizer(optimizer, tensors)
    _steps(resumed, optimizer, before, 6)
    for found, expected in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_optimizer_that_keeps_other_things_is_refused():
    model = _model()
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: _loss(model, 0, optimizer))
    with pytest.raises(TypeError, match="AdamW"):
        optimizer_tensors(optimizer)


def test_step_seeds_differ_in_every_number_and_are_frozen():
    seeds = {step_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 23) != step_seed(12, 3)
    assert step_seed(0) == 0x5FECEB66FFC86F38 >> 1, "sha256('0'): seeds must stay the same for ever"


def _model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def _steps(model, optimizer, first, last):
    for step in range(first, last):
        _loss(model, step, optimizer)
        optimizer.step()


def _loss(model, step, optimizer):
    optimizer.zero_grad()
    batch = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    loss = model(batch).square().mean()
    loss.backward()
    return loss
