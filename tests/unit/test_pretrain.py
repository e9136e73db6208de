import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.configs import PretrainConfig
from milscope.devices import choose_precision
from milscope.encode import encode
from milscope.encoders import load_encoder
from milscope.learner import Learner
from milscope.objectives import METHODS, Method, Task
from milscope.pretrain import pretrain
from milscope.slides import write_slides
from milscope.store import CellStore, read_features, read_manifest
from milscope.surgery import SURGERIES
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
    assert list(log.columns) == [
        "epoch", "contrast", "similarity", "contrast_over_chance", "cosine", "conflict_share", "length_ratio", "rescale",
        "feature_std", "effective_rank", "learning_rate", "images_per_second", "waiting_share", *(
            f"cosine.{part}" for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "projector"))]
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
                                     {"similarity_weight": 0.1}, {"precision": "float32"}, {"stain": 0.2},
                                     {"orientations": False}, {"statistics": "per-task"}, {"statistics": "per-view"},
                                     {"freeze": ("layer1",)}, *({"method": name} for name in (
                                         "slam-ags", "pcgrad", "one-way", "upgrad", "mgda", "simclr", "weakly-supervised",
                                         "similarity", "random"))], ids=str)
def test_settings_matter(base: dict, cells: Path, table: pd.DataFrame, tmp_path: Path, changes: dict) -> None:
    base_surgery = {} if "method" in changes else {"surgery": "sum"}
    config = small(**{"optimizer": "adamw", "learning_rate": 1e-2, **base_surgery, **changes})
    if changes == {"precision": "float32"} and choose_precision("auto", torch.device("cpu")) == torch.float32:
        pytest.skip("this processor has no bfloat16")
    assert weights(pretrain(cells, table, tmp_path / "a", config).directory) != base


def test_no_epochs_leave_the_encoder_untrained(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    result = pretrain(cells, table, tmp_path / "a", small(epochs=0))
    assert (result.epochs, result.contrast_over_chance, result.collapsed) == (0, None, False)
    assert pd.read_csv(result.directory / "log.csv").empty


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"method": "random"}], ids=str)
def test_an_encoder_that_is_not_trained_has_seen_nobody(settings: dict, cells: Path, encoder: Path, table: pd.DataFrame,
                                                        tmp_path: Path) -> None:
    result = pretrain(cells, table, tmp_path / "a", small(**settings))
    assert read_manifest(result.directory, "encoder").patients == []
    other = table.assign(split=table["split"].map({"train": "test", "validation": "train", "test": "train"}))
    untouched = pretrain(cells, other, tmp_path / "b", small(epochs=0), init=encoder)
    assert read_manifest(untouched.directory, "encoder").patients == sorted(table.loc[table["split"] == "train", "patient"])


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


def test_an_encoder_that_looks_at_no_label_needs_none_where_there_are_several(cells: Path, table: pd.DataFrame,
                                                                             tmp_path: Path) -> None:
    """Labels may be missing, and be any: the same encoder comes of it, from all cells of the training slides."""
    train = table["split"] == "train"
    several = table.assign(clue=np.where(np.arange(len(table)) % 3 == 0, "", "0"))
    found = pretrain(cells, several, tmp_path / "a", small(method="simclr", epochs=1))
    assert found.cells == 30 * train.sum()
    other = several.assign(abnormal=1 - several["abnormal"], clue="1")
    pretrain(cells, other, tmp_path / "b", small(method="simclr", epochs=1))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert read_manifest(tmp_path / "a", "encoder").patients == sorted(table.loc[train, "patient"])
    pretrain(cells, several, tmp_path / "c", small(epochs=0))
    for method in ("slam-ags", "weakly-supervised", "similarity"):
        with pytest.raises(InputError, match="2 such columns"):
            pretrain(cells, several, tmp_path / "d", small(method=method))
    assert {name for name, make in METHODS.items() if make(1.0, 1.0).blind} == {"simclr"}


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


def test_weaksupcon_is_the_plain_sum(base: dict, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    config = small(optimizer="adamw", learning_rate=1e-2, method="weaksupcon")
    assert weights(pretrain(cells, table, tmp_path / "a", config).directory) == base


def test_methods_in_the_settings_are_those_there_are() -> None:
    field = next(field for field in dataclasses.fields(PretrainConfig) if field.name == "method")
    assert set(field.metadata["choices"]) == {*METHODS, "random"}
    surgeries = next(field for field in dataclasses.fields(PretrainConfig) if field.name == "surgery")
    assert set(surgeries.metadata["choices"]) == {*SURGERIES, ""}


def test_random_is_what_no_epochs_give(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    untrained = weights(pretrain(cells, table, tmp_path / "a", small(epochs=0)).directory)
    assert weights(pretrain(cells, table, tmp_path / "b", small(method="random")).directory) == untrained


@dataclasses.dataclass(frozen=True)
class Small:
    """A toy third objective: short projections."""

    def __call__(self, projections: torch.Tensor, positive: torch.Tensor | None = None) -> torch.Tensor:
        return projections.square().mean()


def test_a_third_task_of_ones_own(encoder: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    usual = METHODS["slam-ags"](0.07, 0.07)
    method = Method("three", (*usual.tasks, Task("short", Small(), "all")), "ags", "projector")
    result = pretrain(cells, table, tmp_path / "a", small(), method=method)
    assert np.isfinite(pd.read_csv(result.directory / "log.csv")["short"]).all()
    assert weights(result.directory) != weights(encoder)
    assert read_manifest(result.directory, "encoder").fingerprint != read_manifest(encoder, "encoder").fingerprint


def test_an_encoder_goes_on_and_remembers_all_patients(encoder: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    other = table.assign(split=table["split"].map({"train": "test", "validation": "train", "test": "train"}))
    result = pretrain(cells, other, tmp_path / "a", small(epochs=1), init=encoder)
    assert read_manifest(result.directory, "encoder").patients == sorted(table["patient"])
    untouched = pretrain(cells, other, tmp_path / "b", small(epochs=0), init=encoder)
    assert weights(untouched.directory) == weights(encoder)
    with pytest.raises(InputError, match="Give one of the two"):
        pretrain(cells, other, tmp_path / "c", small(weights="hub"), init=encoder)


def test_frozen_parts_stay_as_they_were(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    start = weights(pretrain(cells, table, tmp_path / "a", small(epochs=0)).directory)
    end = weights(pretrain(cells, table, tmp_path / "b", small(freeze=("conv1", "bn1", "layer1"))).directory)
    kept = {name for name in start if start[name] == end[name]}
    assert {name for name in start if name.startswith(("backbone.conv1", "backbone.bn1", "backbone.layer1"))} <= kept
    assert not any(name.startswith("backbone.layer2") and name.endswith("weight") for name in kept)


def test_a_time_is_turned_into_steps(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    result = pretrain(cells, table, tmp_path / "a", small(budget="3s"))
    summary = read_manifest(result.directory, "encoder").summary
    assert summary["steps"] >= 1
    assert result.epochs == pytest.approx(summary["steps"] / 2, abs=0.01)
    with pytest.raises(InputError, match="`budget` should be a time such as 90s"):
        pretrain(cells, table, tmp_path / "b", small(budget="soon"))


def test_a_planned_training_keeps_its_plan(cells: Path, table: pd.DataFrame, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after planning: the pace is not measured again, or the result would depend on the machine's load."""
    monkeypatch.setattr(Learner, "step", interrupted_after(12, Learner.step))
    with pytest.raises(KeyboardInterrupt):
        pretrain(cells, table, tmp_path / "a", small(budget="20s"))
    monkeypatch.undo()
    plan = tmp_path / ".a.partial" / "plan.json"
    plan.write_text(json.dumps({"steps": 5, "seconds_per_step": 1.0}))
    assert pretrain(cells, table, tmp_path / "a", small(budget="20s")).epochs == 2.5


def interrupted_after(steps: int, step: Callable) -> Callable:
    done = iter(range(steps))

    def taken(*arguments: object) -> object:
        if next(done, None) is None:
            raise KeyboardInterrupt
        return step(*arguments)

    return taken


def test_the_log_for_tensorboard(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = pretrain(cells, table, tmp_path / "a", small(tensorboard=True))
    events = EventAccumulator(str(result.directory / "tensorboard")).Reload()
    log = pd.read_csv(result.directory / "log.csv")
    assert [event.value for event in events.Scalars("pretrain/contrast")] == pytest.approx(log["contrast"].tolist(), rel=1e-4)
