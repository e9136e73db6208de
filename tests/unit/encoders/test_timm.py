import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from milscope.encoders import Encoder, load_encoder
from milscope.encoders._timm import timm
from milscope.types import InputError

NARROW = {"channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(("name", "size", "options"), [
    ("resnet10t", 37, {}), ("test_resnet", 50, {}), ("mobilenetv3_small_050", 33, {}), ("test_convnext", 50, {}),
    ("vit_tiny_patch16_224", 48, {}), ("vit_tiny_patch16_224", 50, {"patch_size": 10}), ("levit_128s", 64, {}),
    ("test_vit", 64, {"img_size": 96, "dynamic_img_size": True}), ("test_maxvit", 48, {}),
])
def test_any_timm_model_takes_any_size(name: str, size: int, options: dict) -> None:
    encoder = Encoder(name, size=size, options=options).eval()
    assert encoder(torch.rand(2, 3, size, size)).shape == (2, encoder.features)


def test_a_model_that_could_do_without_is_told_the_size() -> None:
    assert Encoder("xcit_nano_12_p8_224", size=64).options == {"img_size": 64}
    assert Encoder("xcit_nano_12_p8_224", size=64, options={"img_size": None}).options == {}


@pytest.mark.parametrize(("name", "size", "options"), [("resnet18", 45, NARROW), ("vit_tiny_patch16_224", 48, {})])
def test_mixed_precision_at_odd_sizes(name: str, size: int, options: dict) -> None:
    encoder, cells = Encoder(name, size=size, options=options), torch.rand(4, 3, size, size)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder.eval()(cells)
    exact = encoder(cells)
    assert torch.linalg.vector_norm(mixed.float() - exact) < 0.05 * torch.linalg.vector_norm(exact)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder.train()(cells)
    features.float().square().mean().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in encoder.parameters())


@pytest.mark.parametrize(("name", "size", "said"), [
    ("vit_tiny_patch16_224", 50, "`size` should be a multiple of 16.*Found 50. Take 48 or 64."),
    ("vit_tiny_patch16_224", 12, "Found 12. Take 16."),
    ("levit_128s", 50, "`size` should be one that `levit_128s` takes. Found 50 .*Its own is 224."),
    ("halonet26t", 30, "`size` should be one that `halonet26t` takes"),
])
def test_a_size_that_the_model_does_not_take_is_refused(name: str, size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Encoder(name, size=size)


@pytest.mark.parametrize(("name", "options"), [
    ("resnet19", {}), ("resnet18", {"wings": 2}), ("vit_tiny_patch16_224", {"wings": 2}), ("resnet18.nothing", {}),
    ("timm/resnet18", {}), ("ftp:model", {}), ("local-dir:/nowhere", {}), ("test_resnet", {"global_pool": ""}),
])
def test_what_timm_does_not_know_is_refused(name: str, options: dict) -> None:
    with pytest.raises(InputError, match="`encoder` should be a timm model") as refusal:
        Encoder(name, options=options)
    assert "\n" not in str(refusal.value)


def test_colours_are_normalised_as_the_models_own_images() -> None:
    assert Encoder("resnet10t").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert Encoder("vit_tiny_patch16_224").std.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert Encoder("vit_base_patch32_clip_224.laion2b", options={"depth": 1}).mean[0, 0] == pytest.approx(0.48145466)


def test_building_draws_no_more_chance_than_timm() -> None:
    torch.manual_seed(0)
    plain, after = timm.create_model("resnet18", num_classes=0, **NARROW), torch.rand(3)
    torch.manual_seed(0)
    encoder = Encoder("resnet18", size=40, options=NARROW)
    assert torch.equal(torch.rand(3), after)
    assert all(torch.equal(ours, theirs) for ours, theirs in
               zip(encoder.backbone.state_dict().values(), plain.state_dict().values(), strict=True))
    assert encoder.backbone.training


@pytest.mark.parametrize(("name", "weights"), [
    ("test_resnet", "hub"), ("hf-hub:nobody/nothing", ""), ("hf-hub:nobody/nothing", "hub"), ("hf-hub:a b", "hub"),
])
def test_without_a_network_the_hub_asks_for_a_file(name: str, weights: str) -> None:
    with pytest.raises(InputError, match=r"`weights` should be on the hub or in its cache.*as a file\.$") as refusal:
        Encoder(name, weights=weights)
    assert "\n" not in str(refusal.value)


def test_a_model_without_pretrained_weights_says_so() -> None:
    with pytest.raises(InputError, match=r"Found nothing for `darknet17` \(No pretrained weights exist"):
        Encoder("darknet17", weights="hub")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="no connection to the hub, and nothing in its cache"):
        Encoder("hf-hub:nobody/nothing", weights="hub")
    assert "Retrying" not in caplog.text
    assert constants.HF_HUB_OFFLINE is False


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model as the hub holds it: its configuration and its weights."""
    def write(drop: str = "") -> Path:
        folder = tmp_path / "saved"
        folder.mkdir()
        model = timm.create_model("resnet18", num_classes=5, **NARROW)
        config = {"architecture": "resnet18", "num_classes": 5, "model_args": NARROW,
                  "pretrained_cfg": {"classifier": "fc", "num_classes": 5, "mean": [0.7, 0.6, 0.5], "std": [0.1, 0.2, 0.3]}}
        (folder / "config.json").write_text(json.dumps(config))
        save_file({key: each for key, each in model.state_dict().items() if key != drop}, folder / "model.safetensors")
        return folder

    return write


@pytest.mark.parametrize("source", ["hf-hub", "local-dir"])
def test_a_model_of_the_hub_or_of_a_folder(saved: Callable[..., Path], source: str, tmp_path: Path) -> None:
    folder, name = saved(), "hf-hub:owner/model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm.models._hub, "hf_hub_download", lambda repo_id, filename, **named: str(folder / filename))
        encoder = Encoder(name if source == "hf-hub" else f"local-dir:{folder}", size=40, weights="hub").eval()
    assert encoder.options["channels"] == NARROW["channels"]
    assert torch.equal(encoder.backbone.conv1.weight, timm.create_model(f"local-dir:{folder}", pretrained=True).conv1.weight)
    assert encoder.mean.flatten().tolist() == pytest.approx([0.7, 0.6, 0.5])
    encoder.save(tmp_path)
    cells, again = torch.rand(2, 3, 40, 40), load_encoder(tmp_path)
    assert torch.equal(again(cells), encoder(cells))
    assert (again.name, again.architecture) == (encoder.name, "resnet18")


def test_weights_of_the_hub_that_leave_some_to_chance_are_refused(saved: Callable[..., Path]) -> None:
    folder = saved(drop="layer2.0.conv1.weight")
    with pytest.raises(InputError, match=r"`weights` should be those of .*in the hub's: no `layer2.0.conv1.weight`"):
        Encoder(f"local-dir:{folder}", weights="hub")


def test_weights_of_the_hub_for_another_size_are_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="in the hub's: size mismatch for"):
        Encoder(f"local-dir:{saved()}", options={"channels": [8, 8, 16, 32]}, weights="hub")
