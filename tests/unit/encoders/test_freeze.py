import pytest
import torch

from milscope.encoders import Encoder, freeze
from milscope.types import InputError

NARROW = {"channels": [8, 8, 16, 16]}


def trained(encoder: Encoder) -> set[str]:
    """The top-level parts of which something is trained."""
    return {name.split(".")[0] for name, each in encoder.backbone.named_parameters() if each.requires_grad}


@pytest.mark.parametrize("prefixes", [("conv1", "bn1", "layer1"), ("backbone.conv1", "bn1.", " layer1 ")])
def test_frozen_parts_stay_as_they_are(prefixes: tuple[str, ...]) -> None:
    encoder = Encoder("resnet18", size=32, options={**NARROW, "zero_init_last": False})
    freeze(encoder, prefixes)
    before = {name: each.clone() for name, each in encoder.backbone.state_dict().items()}
    encoder.train()
    kept = [each for each in encoder.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(encoder.parameters(), 0.1)
    encoder(torch.rand(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    for name, each in encoder.backbone.state_dict().items():
        assert torch.equal(each, before[name]) == (name.split(".")[0] in ("conv1", "bn1", "layer1")), name
    assert trained(encoder) == {"layer2", "layer3", "layer4"}
    assert all(each.grad is not None for each in kept)


def test_frozen_statistics_survive_changes_of_mode() -> None:
    encoder = Encoder("resnet18", size=32, options=NARROW)
    freeze(encoder, ["layer1.0"])
    freeze(encoder, ["bn1"])
    assert not encoder.backbone.bn1.training
    assert not encoder.backbone.layer1[0].bn1.training
    assert encoder.backbone.layer1[1].bn1.training
    encoder.eval().train()
    torch.nn.ModuleDict({"encoder": encoder}).train()
    assert not encoder.backbone.layer1[0].bn1.training
    assert encoder.backbone.layer2[0].bn1.training


def test_names_are_whole_and_add_up() -> None:
    encoder = Encoder("vit_tiny_patch16_224", size=32)
    freeze(encoder, ["blocks.1", "patch_embed"])
    freeze(encoder, ["pos_embed"])
    frozen = {name for name, each in encoder.backbone.named_parameters() if not each.requires_grad}
    assert {"pos_embed", "patch_embed.proj.weight", "blocks.1.norm1.weight"} < frozen
    assert not any(name.startswith(("blocks.10", "blocks.11")) for name in frozen)


def test_nothing_to_freeze_changes_nothing() -> None:
    encoder = Encoder("resnet18", size=32, options=NARROW)
    freeze(encoder, ())
    assert all(each.requires_grad for each in encoder.parameters())


@pytest.mark.parametrize(("prefixes", "said"), [
    (["layer9"], "Found `layer9`. There are conv1, bn1, layer1, layer2, layer3, layer4."),
    (["layer1", "laye"], "Found `laye`"), ([""], "Found ``"),
    (["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"], "less than the whole encoder"),
])
def test_what_cannot_be_frozen_is_refused(prefixes: list[str], said: str) -> None:
    encoder = Encoder("resnet18", size=32, options=NARROW)
    with pytest.raises(InputError, match=said):
        freeze(encoder, prefixes)
    assert all(each.requires_grad for each in encoder.parameters())
