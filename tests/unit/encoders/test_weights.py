from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from milscope.encoders import Encoder
from milscope.encoders._timm import timm
from milscope.types import InputError

NARROW: dict[str, Any] = {"channels": [8, 8, 16, 16]}


def weights_of(name: str = "resnet18", classes: int = 7, **options: Any) -> dict[str, torch.Tensor]:
    """The weights of a timm model with a classifier."""
    return timm.create_model(name, num_classes=classes, **options).state_dict()


def prefixed(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": each for key, each in weights.items()}


def arrived(encoder: Encoder, weights: dict[str, torch.Tensor]) -> bool:
    """Whether the encoder holds exactly those weights."""
    return all(torch.equal(each, weights[key]) for key, each in encoder.backbone.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "encoder.", "module.encoder.", "model.visual."])
def test_a_prefix_and_a_classifier_do_not_matter(tmp_path: Path, prefix: str) -> None:
    weights = weights_of(**NARROW)
    projector = {"projector.0.weight": torch.rand(4, 4), "mean": torch.zeros(1, 3, 1, 1)} if prefix else {}
    save_file({**prefixed(weights, prefix), **projector}, tmp_path / "w.safetensors")
    assert arrived(Encoder("resnet18", options=NARROW, weights=str(tmp_path / "w.safetensors")), weights)


@pytest.mark.parametrize("wrap", [
    lambda weights: weights,
    lambda weights: {"state_dict": prefixed(weights, "module."), "epoch": 3, "optimizer": {"state": {0: torch.ones(1)}}},
    lambda weights: {"model": {key: each * 0 for key, each in weights.items()}, "model_ema": weights},
])
@pytest.mark.parametrize("ending", ["pt", "pth"])
def test_files_of_torch(tmp_path: Path, wrap: Callable, ending: str) -> None:
    weights, path = weights_of(**NARROW), tmp_path / f"w.{ending}"
    torch.save(wrap(weights), path)
    assert arrived(Encoder("resnet18", options=NARROW, weights=str(path)), weights)


def test_half_precision_and_missing_counters(tmp_path: Path) -> None:
    weights = {key: each.half() for key, each in weights_of(**NARROW).items() if not key.endswith("num_batches_tracked")}
    save_file(weights, tmp_path / "w.safetensors")
    encoder = Encoder("resnet18", options=NARROW, weights=str(tmp_path / "w.safetensors"))
    assert encoder.backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(encoder.backbone.conv1.weight.half(), weights["conv1.weight"])


@pytest.mark.parametrize("name", ["levit_128s", "test_convnext", "test_vit"])
def test_models_of_other_kinds(tmp_path: Path, name: str) -> None:
    weights = weights_of(name, img_size=64) if name != "test_convnext" else weights_of(name)
    save_file(weights, tmp_path / "w.safetensors")
    assert arrived(Encoder(name, size=64, weights=str(tmp_path / "w.safetensors")), weights)


def test_positions_are_resampled_to_the_size(tmp_path: Path) -> None:
    weights = weights_of("vit_tiny_patch16_224")
    weights["pos_embed"] = torch.arange(192.0).expand(1, 197, 192).contiguous()
    save_file(prefixed(weights, "module."), tmp_path / "w.safetensors")
    encoder = Encoder("vit_tiny_patch16_224", size=64, weights=str(tmp_path / "w.safetensors"))
    assert encoder.backbone.pos_embed.shape == (1, 17, 192)
    assert torch.allclose(encoder.backbone.pos_embed, torch.arange(192.0).expand(1, 17, 192), atol=1e-3)
    assert torch.equal(encoder.backbone.blocks[3].attn.qkv.weight, weights["blocks.3.attn.qkv.weight"])


def _without(weights: dict) -> dict:
    return {key: each for key, each in weights.items() if not key.startswith("layer1.0.")}


@pytest.mark.parametrize(("change", "said"), [
    (_without, "no `layer1.0.conv1.weight`, no `layer1.0.bn1.weight`, no `layer1.0.bn1.bias` and 12 more"),
    (lambda weights: prefixed(_without(weights), "backbone."), "no `layer1.0.conv1.weight`"),
    (lambda weights: {**weights, "conv1.weight": torch.rand(8, 3, 3, 3)}, r"`conv1.weight` \(8, 3, 3, 3\) instead of"),
    (lambda weights: {**weights, "layer3.2.conv1.weight": torch.rand(1)}, "`layer3.2.conv1.weight`, which it does not have"),
    (lambda weights: {**weights, "reg_token": torch.rand(1)}, "`reg_token`, which it does not have"),
    (lambda weights: {"layer": torch.rand(2)}, "no `conv1.weight`"),
    (lambda weights: {}, "no `conv1.weight`"),
    (lambda weights: {**prefixed(weights, "query."), **prefixed(weights, "key.")}, "those of one encoder. Found several in"),
])
def test_weights_of_another_model_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    torch.save(change(weights_of(**NARROW)), tmp_path / "w.pt")
    with pytest.raises(InputError, match=said) as refusal:
        Encoder("resnet18", options=NARROW, weights=str(tmp_path / "w.pt"))
    assert str(refusal.value).startswith("`weights` should be those of")
    assert "\n" not in str(refusal.value)


def test_weights_that_depend_on_the_size_name_both(tmp_path: Path) -> None:
    save_file(weights_of("levit_128s"), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"`levit_128s` at 64 pixels.*attention_biases` \(4, 196\) instead of \(4, 16\)"):
        Encoder("levit_128s", size=64, weights=str(tmp_path / "w.safetensors"))


class Harm:
    """Does something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": weights_of(**NARROW), "extra": Harm(tmp_path / "harmed")}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="a file of tensors, without code"):
        Encoder("resnet18", options=NARROW, weights=str(tmp_path / "w.pt"))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(("name", "content", "said"), [
    ("none.safetensors", None, "`weights` should be a file. Found none at"),
    ("w.npz", b"", "`weights` should be `hub` or a file: .safetensors, .pt"),
    ("w.safetensors", b"no weights", "`weights` should be a readable file"),
    ("w.pt", b"", "`weights` should be a readable file"),
    ("w.pth", b"no weights", "`weights` should be a"),
])
def test_what_is_not_a_file_of_weights_is_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as refusal:
        Encoder("resnet18", options=NARROW, weights=str(tmp_path / name))
    assert "\n" not in str(refusal.value)


def test_a_directory_is_not_a_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="An encoder's directory is given as `init`"):
        Encoder("resnet18", options=NARROW, weights=str(tmp_path))
