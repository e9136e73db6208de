import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from milscope.augment import centre
from milscope.configs import EncodeConfig, PretrainConfig
from milscope.encode import encode, encode_cells
from milscope.encoders import Encoder, load_encoder
from milscope.pretrain import pretrain
from milscope.store import CellStore, read_features

FLOAT32 = EncodeConfig(batch=7, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def encoder(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = PretrainConfig(epochs=0, size=32, encoder_options={"channels": [8, 8, 16, 16]})
    return pretrain(cells, table, tmp_path_factory.mktemp("run") / "pretrain", config).directory


def test_features_are_the_encoders_output_for_the_middle_of_the_cell(encoder: Path, cells: Path, tmp_path: Path) -> None:
    result = encode(cells, encoder, tmp_path / "encode", FLOAT32)
    store, network = CellStore(cells), load_encoder(encoder)
    slide = store.slides[3]
    with torch.inference_mode():
        expected = network(centre(torch.from_numpy(store.decode(slide, None, 36)), 32))
    assert torch.allclose(read_features(result.directory, [slide]).features, expected, atol=1e-5)


def test_encoding_goes_on_where_it_was_interrupted(encoder: Path, cells: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(*arguments: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return encode_cells(*arguments)

    monkeypatch.setattr(sys.modules["milscope.encode"], "encode_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(cells, encoder, tmp_path / "encode", FLOAT32)
    encode(cells, encoder, tmp_path / "encode", FLOAT32)
    assert len(calls) == 12 + 5 * 12 - 10
    again = encode(cells, encoder, tmp_path / "again", FLOAT32)
    slides = CellStore(cells).slides
    assert torch.equal(read_features(tmp_path / "encode", slides).features, read_features(again.directory, slides).features)


def test_bfloat16_stays_near_float32() -> None:
    network = Encoder("resnet18", size=32, options={"channels": [8, 8, 16, 16]}).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 36, 36, 3), dtype=np.uint8)
    exact, rounded = encode_cells(network, pixels), encode_cells(network, pixels, torch.bfloat16)
    assert np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_cells_of_another_width_on_the_slide_are_told(cells: Path, table: pd.DataFrame, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig(epochs=0, size=32, encoder_options={"channels": [8, 8, 16, 16]})
    extents = iter([48.0, 30.0, 48.0])
    monkeypatch.setattr(CellStore, "extent", lambda self, slides: next(extents))
    encoder = pretrain(cells, table, tmp_path / "pretrain", config).directory
    assert encode(cells, encoder, tmp_path / "wide", FLOAT32).warnings == [
        "the encoder learned from cells 48 microns wide, these are 30 microns wide"]
    assert encode(cells, encoder, tmp_path / "same", FLOAT32).warnings == []
