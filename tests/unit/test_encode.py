import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from milscope.augment import centre
from milscope.configs import EncodeConfig, PretrainConfig
from milscope.encode import _settled, encode, encode_cells
from milscope.encoders import Encoder, load_encoder
from milscope.pool import Lost
from milscope.pretrain import pretrain
from milscope.store import CellStore, feature_slides, read_cells, read_features, read_manifest
from milscope.types import InputError

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


def test_an_encoder_of_several_scales_encodes_every_cell_at_each(encoder: Path, cells: Path, tmp_path: Path) -> None:
    several = shutil.copytree(encoder, tmp_path / "several")
    manifest = json.loads((several / "manifest.json").read_text())
    manifest["config"] |= {"scales": ["1", "0.5"], "windows": "all"}
    (several / "manifest.json").write_text(json.dumps(manifest))
    done = encode(cells, several, tmp_path / "encode", FLOAT32)
    assert (done.slides, done.cells) == (12, 360)
    store, network = CellStore(cells), load_encoder(encoder)
    slide = store.slides[3]
    whole, large = (store.decode(slide, None, side) for side in (36, 72))
    parts = [whole, large[:, :36, :36], large[:, :36, 36:], large[:, 36:, :36], large[:, 36:, 36:]]
    with torch.inference_mode():
        expected = network(centre(torch.from_numpy(np.concatenate(parts)), 32))
    assert torch.allclose(read_features(done.directory, [slide]).features, expected, atol=1e-5)
    found, table = read_cells(done.directory, slide), store.table(slide).to_pandas()
    assert found["cell"].tolist() == table["cell"].tolist() * 5
    assert found["width"].tolist() == table["width"].tolist() + (table["width"] / 2).tolist() * 4
    assert found["x"][:30].tolist() == table["x"].tolist()
    inside = ((table["x"] - table["width"] / 2).between(0, store.frame(slide).width - table["width"])).to_numpy()
    assert np.allclose((found["x"][30:60].to_numpy() - table["x"] + table["width"] / 4)[inside], 0)
    encode(cells, several, tmp_path / "processes", dataclasses.replace(FLOAT32, executor="processes", workers=1))
    assert files(tmp_path / "processes") == files(tmp_path / "encode")


def test_one_scale_is_written_as_ever(encoder: Path, cells: Path, tmp_path: Path) -> None:
    encode(cells, encoder, tmp_path / "encode", FLOAT32)
    store = CellStore(cells)
    slide = store.slides[0]
    found, table = read_cells(tmp_path / "encode", slide), store.table(slide).to_pandas()
    for name in found:
        assert found[name].tolist() == table[name].tolist()
    assert "windows" not in read_manifest(tmp_path / "encode", "features").summary


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


def test_processes_write_the_same_files(encoder: Path, cells: Path, tmp_path: Path) -> None:
    encode(cells, encoder, tmp_path / "here", FLOAT32)
    done = encode(cells, encoder, tmp_path / "processes", dataclasses.replace(FLOAT32, executor="processes", workers=2))
    assert (done.slides, done.cells, done.warnings) == (12, 360, [])
    assert files(tmp_path / "processes") == files(tmp_path / "here")
    assert len(files(tmp_path / "here")) == 13  # failures.csv, too


def test_only_slides_that_are_not_done_are_given_away(encoder: Path, cells: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def stopped(function: Callable, jobs: list[str], *_: object, **options: object) -> Iterator[tuple[str, str]]:
        given.append((len(jobs), options["executor"], options["address"], options["limit"], options["gpus"]))
        for job in jobs[:5]:
            yield job, function(job)
        if len(given) == 1:
            raise KeyboardInterrupt
        yield from ((job, function(job)) for job in jobs[5:])

    monkeypatch.setattr(sys.modules["milscope.encode"], "over_slides", stopped)
    config = dataclasses.replace(FLOAT32, executor="ray", address="head:6379", limit=60.0)
    with pytest.raises(KeyboardInterrupt):
        encode(cells, encoder, tmp_path / "encode", config)
    assert encode(cells, encoder, tmp_path / "encode", config).slides == 12
    assert given == [(12, "ray", "head:6379", 60.0, 0.0), (7, "ray", "head:6379", 60.0, 0.0)]
    assert not [path for path in (tmp_path / "encode").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("executor", ["here", "processes"])
def test_damaged_slides_are_listed_and_the_others_encoded(encoder: Path, cells: Path, tmp_path: Path, executor: str) -> None:
    first, second, third, *others = CellStore(cells).slides
    shutil.copytree(cells, tmp_path / "tile")
    (tmp_path / "tile" / f"{first}.arrow").write_bytes((cells / f"{first}.arrow").read_bytes()[:5000])
    (tmp_path / "tile" / f"{second}.arrow").unlink()
    shutil.copy(cells / f"{others[0]}.arrow", tmp_path / "tile" / f"{third}.arrow")
    images = tmp_path / "tile" / "slides.csv"
    images.write_text(images.read_text().replace(f"{third},30", f"{third},31"))
    config = dataclasses.replace(FLOAT32, executor=executor, workers=1, limit=600.0)
    done = encode(tmp_path / "tile", encoder, tmp_path / "encode", config)
    assert (done.slides, done.cells) == (9, 270)
    failures = pd.read_csv(tmp_path / "encode" / "failures.csv")
    assert failures["slide"].tolist() == [first, second, third]
    assert failures["reason"][2] == "30 cells where there were 31"
    assert f"3 slides were not encoded ({first}, {second}, {third}); the first, {first}: " in done.warnings[0]
    assert feature_slides(tmp_path / "encode") == others


def test_a_slide_whose_process_died_is_listed(encoder: Path, cells: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def over(function: Callable, jobs: list[str], *_: object, **__: object) -> Iterator[tuple[str, str | Lost]]:
        yield jobs[3], Lost("not done after 9 s")
        yield from ((job, function(job)) for job in jobs if job != jobs[3])

    monkeypatch.setattr(sys.modules["milscope.encode"], "over_slides", over)
    done = encode(cells, encoder, tmp_path / "encode", dataclasses.replace(FLOAT32, executor="processes"))
    assert done.slides == 11
    assert (tmp_path / "encode" / "failures.csv").read_text().splitlines()[1].endswith(",,not done after 9 s")
    monkeypatch.setattr(sys.modules["milscope.encode"], "over_slides",
                        lambda function, jobs, *_, **__: ((job, Lost("it died")) for job in jobs))
    with pytest.raises(InputError, match="Found 12 that are not; the first, slide-001: it died"):
        encode(cells, encoder, tmp_path / "none", dataclasses.replace(FLOAT32, executor="processes"))


def test_processes_agree_on_arithmetic_and_device_though_machines_differ() -> None:
    settled = _settled(EncodeConfig(executor="processes"))
    assert settled.device == "cpu"
    assert settled.precision in ("float32", "bfloat16")
    assert _settled(EncodeConfig(executor="ray", device="cuda:1")).device == "cuda"
    assert _settled(EncodeConfig(executor="processes", device="cuda:1")).device == "cuda:1"
    assert _settled(EncodeConfig(executor="ray", device="cuda", precision="float32")).precision == "float32"
    assert _settled(EncodeConfig()) == EncodeConfig()


@pytest.mark.parametrize("setting", [{"batch": 0}, {"workers": -1}, {"limit": -1.0}, {"limit": float("nan")}])
def test_refuses_settings_out_of_range(encoder: Path, cells: Path, tmp_path: Path, setting: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"`{next(iter(setting))}` should be"):
        encode(cells, encoder, tmp_path / "encode", EncodeConfig(**setting))


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json"}
