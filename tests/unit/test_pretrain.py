from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.configs import PretrainConfig
from milscope.encode import encode
from milscope.encoders import choose_precision, load_encoder
from milscope.pretrain import pretrain
from milscope.slides import write_slides
from milscope.store import CellStore, read_features, read_manifest
from milscope.telemetry import Telemetry
from milscope.types import InputError

SMALL = {"encoder_options": {"channels": [8, 8, 16, 16]}, "size": 32, "batch": 64, "projection": 16, "device": "cpu"}


def small(**changes: object) -> PretrainConfig:
    return PretrainConfig(**{**SMALL, "epochs": 2, **changes})


def weights(directory: Path) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in load_file(directory / "encoder.safetensors").items()}


@pytest.fixture(scope="module")
def encoder(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(cells, table, tmp_path_factory.mktemp("run") / "pretrain", small()).directory


def test_the_artifact_is_whole(encoder: Path) -> None:
    assert {path.name for path in encoder.iterdir()} == {
        "encoder.json", "encoder.safetensors", "projector.safetensors", "log.csv", "manifest.json"}
    log = pd.read_csv(encoder / "log.csv")
    assert tuple(log.columns) == Telemetry.COLUMNS
    assert log["epoch"].tolist() == [1, 2]
    assert np.isfinite(log.to_numpy()).all()


def test_it_remembers_its_training_patients(encoder: Path, table: pd.DataFrame) -> None:
    expected = sorted(table.loc[table["split"] == "train", "patient"])
    assert read_manifest(encoder, "encoder").patients == expected


def test_labels_of_other_patients_change_nothing(encoder: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    poisoned = table.copy()
    others = poisoned["split"] != "train"
    poisoned.loc[others, "abnormal"] = 1 - poisoned.loc[others, "abnormal"]
    assert weights(pretrain(cells, poisoned, tmp_path / "a", small()).directory) == weights(encoder)


def test_same_seed_same_encoder_and_another_seed_another(encoder: Path, cells: Path, table: pd.DataFrame,
                                                         tmp_path: Path) -> None:
    assert weights(pretrain(cells, table, tmp_path / "a", small()).directory) == weights(encoder)
    assert weights(pretrain(cells, table, tmp_path / "b", small(seed=1)).directory) != weights(encoder)


def test_decoding_at_every_use_gives_the_same(encoder: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    assert weights(pretrain(cells, table, tmp_path / "a", small(cache=0.0)).directory) == weights(encoder)


@pytest.fixture(scope="module")
def base(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    config = small(optimizer="adamw", learning_rate=1e-2, surgery="sum")
    return weights(pretrain(cells, table, tmp_path_factory.mktemp("run") / "pretrain", config).directory)


@pytest.mark.parametrize("changes", [{"surgery": "ags"}, {"surgery": "ags-one-way"}, {"optimizer": "sgd"}, {"colour": 0.0},
                                     {"similarity_weight": 0.1}, {"precision": "float32"}], ids=str)
def test_settings_matter(base: dict, cells: Path, table: pd.DataFrame, tmp_path: Path, changes: dict) -> None:
    config = small(**{"optimizer": "adamw", "learning_rate": 1e-2, "surgery": "sum", **changes})
    if changes == {"precision": "float32"} and choose_precision("auto", torch.device("cpu")) == torch.float32:
        pytest.skip("this processor has no bfloat16")
    assert weights(pretrain(cells, table, tmp_path / "a", config).directory) != base


def test_no_epochs_leave_the_encoder_untrained(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    result = pretrain(cells, table, tmp_path / "a", small(epochs=0))
    assert (result.epochs, result.contrast_over_chance, result.collapsed) == (0, None, False)
    assert pd.read_csv(result.directory / "log.csv").empty


def test_collapse_stops_the_training_if_asked(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    frozen = small(learning_rate=0.0, stop_on_collapse=True, contrast_temperature=100.0)
    with pytest.raises(InputError, match="the encoder has collapsed"):
        pretrain(cells, table, tmp_path / "a", frozen)
    assert pretrain(cells, table, tmp_path / "b", small(learning_rate=0.0, contrast_temperature=100.0)).collapsed


def test_one_label_only_is_refused(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    negative = table.assign(abnormal=0.0)
    with pytest.raises(InputError):
        pretrain(cells, negative, tmp_path / "a", small())
    assert not list(tmp_path.iterdir())


def test_no_split_is_refused(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run `milscope split`"):
        pretrain(cells, table.assign(split=""), tmp_path / "a", small())


def test_encode_gives_what_the_encoder_gives(encoder: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    write_slides(table, tmp_path / "slides.csv")
    result = encode(cells, encoder, tmp_path / "encode")
    store = CellStore(cells)
    assert (result.slides, result.cells, result.features) == (12, 360, load_encoder(encoder).features)
    bags = read_features(result.directory, store.slides)
    assert bags.features.shape == (360, result.features)
    assert read_manifest(result.directory, "features").patients == read_manifest(encoder, "encoder").patients
