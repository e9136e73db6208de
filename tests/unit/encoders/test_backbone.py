import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from milscope.encoders import Encoder, Projector, load_encoder
from milscope.types import InputError

NARROW = {"channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(("name", "size", "options"), [
    ("resnet18", 32, NARROW), ("resnet18", 37, NARROW), ("vit_tiny_patch16_224", 48, {}), ("levit_128s", 64, {}),
    ("test_vit", 64, {"img_size": 96, "dynamic_img_size": True}), ("mobilenetv3_small_050", 32, {}),
])
def test_an_encoder_comes_back_as_it_was(tmp_path: Path, name: str, size: int, options: dict) -> None:
    encoder = Encoder(name, size=size, options=options)
    encoder(torch.rand(8, 3, size, size))
    encoder.save(tmp_path)
    again, images = load_encoder(tmp_path), torch.rand(2, 3, size, size)
    assert torch.equal(again(images), encoder.eval()(images))
    assert (again.name, again.size, again.options, again.features) == (name, size, encoder.options, encoder.features)
    assert options.items() <= again.options.items()
    assert not any(path.suffix in {".pt", ".pth", ".pkl"} for path in tmp_path.iterdir())


def test_an_artifact_of_version_0_1_is_read(tmp_path: Path) -> None:
    """Its description has no architecture, and models of a fixed size had their own."""
    encoder = Encoder("test_vit", size=64, options={"img_size": None, "dynamic_img_size": True})
    encoder.save(tmp_path)
    description = json.loads((tmp_path / "encoder.json").read_text())
    assert description.pop("architecture") == "test_vit"
    (tmp_path / "encoder.json").write_text(json.dumps(description))
    assert load_encoder(tmp_path).backbone.pos_embed.shape == (1, 101, 64)


def test_a_loaded_encoder_can_be_trained_further(tmp_path: Path) -> None:
    Encoder("resnet18", size=32, options={**NARROW, "zero_init_last": False}).save(tmp_path)
    encoder = load_encoder(tmp_path)
    assert not encoder.training
    before = {name: each.clone() for name, each in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.train().parameters(), 0.1)
    encoder(torch.rand(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(each, before[name]) for name, each in encoder.state_dict().items()
               if name not in ("mean", "std"))
    encoder.save(tmp_path)
    assert torch.equal(load_encoder(tmp_path).backbone.conv1.weight, encoder.backbone.conv1.weight)


@pytest.mark.parametrize(("name", "options", "size"), [("resnet18", NARROW, 48), ("vit_tiny_patch16_224", {}, 48)])
def test_an_encoder_for_another_size(tmp_path: Path, name: str, options: dict, size: int) -> None:
    encoder = Encoder(name, size=32, options=options)
    encoder.mean.fill_(0.3)
    encoder.save(tmp_path)
    larger = load_encoder(tmp_path, size=size)
    assert (larger.size, larger(torch.rand(2, 3, size, size)).shape) == (size, (2, encoder.features))
    assert torch.equal(larger.mean, encoder.mean)
    name = next(name for name, each in encoder.named_parameters() if each.ndim > 1 and "pos_embed" not in name)
    assert torch.equal(larger.state_dict()[name], encoder.state_dict()[name])


def test_an_encoder_tied_to_its_size_refuses_another(tmp_path: Path) -> None:
    Encoder("levit_128s", size=64).save(tmp_path)
    with pytest.raises(InputError, match="`weights` should be those of `levit_128s` at 96 pixels"):
        load_encoder(tmp_path, size=96)
    Encoder("vit_tiny_patch16_224", size=32).save(tmp_path)
    with pytest.raises(InputError, match="`size` should be a multiple of 16"):
        load_encoder(tmp_path, size=50)


def _edit(directory: Path, **change: object) -> None:
    description = json.loads((directory / "encoder.json").read_text())
    (directory / "encoder.json").write_text(json.dumps({**description, **change}))


@pytest.mark.parametrize(("change", "said"), [
    ({"features": 99}, "Found 99 features in encoder.json, 16 from `resnet18`"),
    ({"architecture": "resnet19"}, "`encoder` should be a timm model"),
    ({"options": {"channels": [8, 8, 8, 16]}}, "whose two files belong together. Found size mismatch for"),
    ({"architecture": "resnet34"}, r"whose two files belong together. Found Missing key"),
])
def test_a_description_that_does_not_fit_its_weights_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    Encoder("resnet18", size=32, options=NARROW).save(tmp_path)
    _edit(tmp_path, **change)
    with pytest.raises(InputError, match=said) as refusal:
        load_encoder(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("damage", ["no description", "half a description", "no weights", "half the weights", "fewer weights"])
def test_a_damaged_artifact_is_refused(tmp_path: Path, damage: str) -> None:
    Encoder("resnet18", size=32, options=NARROW).save(tmp_path)
    described, weights = tmp_path / "encoder.json", tmp_path / "encoder.safetensors"
    if damage == "no description":
        described.unlink()
    elif damage == "half a description":
        described.write_text(described.read_text()[:20])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        save_file({name: each for name, each in load_file(weights).items() if "layer1" not in name}, weights)
    with pytest.raises(InputError, match="should be an `encoder` artifact") as refusal:
        load_encoder(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_single_cell_keeps_its_axis() -> None:
    assert Projector(16, 8)(torch.rand(1, 16)).shape == (1, 8)
