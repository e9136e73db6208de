from pathlib import Path

import pytest
import torch

from milscope.encoders import Encoder, Projector, load_encoder
from milscope.types import InputError

NARROW = {"channels": [8, 8, 16, 16]}


@pytest.mark.parametrize(("name", "size", "options"), [
    ("resnet18", 64, NARROW), ("resnet18", 40, NARROW), ("levit_128s", 224, {}), ("test_vit", 160, {}),
])
def test_any_timm_model_gives_one_vector_a_cell(name: str, size: int, options: dict) -> None:
    encoder = Encoder(name, size=size, options=options).eval()
    assert encoder(torch.rand(3, 3, size, size)).shape == (3, encoder.features)


def test_an_encoder_comes_back_as_it_was(tmp_path: Path) -> None:
    encoder = Encoder("resnet18", size=32, options=NARROW)
    encoder(torch.rand(8, 3, 32, 32))
    encoder.save(tmp_path)
    again, images = load_encoder(tmp_path), torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), encoder.eval()(images))
    assert (again.name, again.size, again.options) == ("resnet18", 32, NARROW)
    assert not any(path.suffix in {".pt", ".pth", ".pkl"} for path in tmp_path.iterdir())


@pytest.mark.parametrize(("name", "options"), [("resnet19", {}), ("resnet18", {"wings": 2})])
def test_what_timm_does_not_know_is_refused(name: str, options: dict) -> None:
    with pytest.raises(InputError, match="`encoder` should be a timm model"):
        Encoder(name, options=options)


def test_a_single_cell_keeps_its_axis() -> None:
    assert Projector(16, 8)(torch.rand(1, 16)).shape == (1, 8)
