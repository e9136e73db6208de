"""Encoder and slide model trained together."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from milscope.configs import EncodeConfig, EndToEndConfig, PretrainConfig, SplitConfig, SynthConfig, TileConfig
from milscope.encode import encode
from milscope.endtoend import endtoend
from milscope.endtoend._networks import Moved, Networks
from milscope.evaluate import evaluate
from milscope.models import load_model
from milscope.predict import predict
from milscope.pretrain import pretrain
from milscope.slides import read_slides, write_slides
from milscope.split import split
from milscope.store import read_features, read_manifest
from milscope.synth import synth
from milscope.tile import tile
from milscope.types import InputError

NARROW = {"channels": [8, 8, 16, 16]}
SMALL = {"encoder_options": NARROW, "size": 32, "device": "cpu", "options": {"hidden": 32, "heads": 4}, "chunk": 48,
         "budget": 8, "epochs": 2, "precision": "float32", "learning_rate": 1e-3}


def small(**changes: object) -> EndToEndConfig:
    return EndToEndConfig(**{**SMALL, **changes})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": tensor for part, file in (("encoder", "encoder"), ("model", "model"))
            for name, tensor in load_file(directory / part / f"{file}.safetensors").items()}


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def trained(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endtoend(cells, table, tmp_path_factory.mktemp("run") / "endtoend", small()).directory


def test_the_artifact_is_whole(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {"encoder", "model", "log.csv", "manifest.json"}
    assert {path.name for path in (trained / "encoder").iterdir()} == {"encoder.json", "encoder.safetensors", "manifest.json"}
    assert {path.name for path in (trained / "model").iterdir()} == {"model.json", "model.safetensors", "card.md",
                                                                     "log.csv", "candidates.csv", "manifest.json"}
    log = pd.read_csv(trained / "log.csv")
    assert log["epoch"].tolist() == [1, 2]
    assert np.isfinite(log.drop(columns="aggregator").to_numpy(float)).all()
    assert log["cells_per_second"].gt(0).all()


def test_it_remembers_whose_slides_it_learned_from_and_was_chosen_on(trained: Path, table: pd.DataFrame) -> None:
    expected = sorted(table.loc[table["split"] != "test", "patient"])
    for place, kind in ((trained, "endtoend"), (trained / "encoder", "encoder"), (trained / "model", "model")):
        assert read_manifest(place, kind).patients == expected


def test_the_flow_goes_on_with_what_it_made(trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    """`encode` and `predict` say of the validation slides what the training said of them."""
    encode(cells, trained / "encoder", tmp_path / "features")
    predict(tmp_path / "features", trained / "model", tmp_path / "scores", table)
    scores = pd.read_csv(tmp_path / "scores/slides.csv")
    held = scores[scores["split"] == "validation"]
    record = load_model(trained / "model").record
    both = held["label"].to_numpy(float)
    order = held["logit"].to_numpy()
    auc = np.mean([(a > b) + 0.5 * (a == b) for a in order[both == 1] for b in order[both == 0]])
    assert record["validation_auc"] == pytest.approx(auc)
    assert 0 <= evaluate(tmp_path / "scores", tmp_path / "metrics").auc <= 1


def test_many_tasks_and_their_encoder_learn_together(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    """MECDS on LeViT; a task whose label is missing on some slides is learned from the others."""
    more = table.assign(rare=np.where(np.arange(len(table)) % 7 == 6, np.nan, 1 - table["abnormal"]))
    config = small(aggregator="mecds", options={"width": 16, "heads": 2}, encoder="levit_128s", encoder_options={},
                   task="abnormal,rare", epochs=1)
    done = endtoend(cells, more, tmp_path / "a", config).directory
    first = load_model(done / "model")
    assert (first.record["encoder_name"], first.aggregator.options["outputs"]) == ("levit_128s", [2, 2])
    encode(cells, done / "encoder", tmp_path / "features")
    predict(tmp_path / "features", done / "model", tmp_path / "scores", more)
    told = pd.read_parquet(tmp_path / "scores/cells.parquet").groupby("slide")[["routing", "routing:rare"]].sum()
    np.testing.assert_allclose(told, 1, rtol=1e-5)


def test_inference_in_chunks_is_inference_at_once(trained: Path, cells: Path, tmp_path: Path) -> None:
    for name, batch in (("chunks", 7), ("once", 1000)):
        encode(cells, trained / "encoder", tmp_path / name, EncodeConfig(batch=batch, precision="float32"))
    chunks, once = (read_features(tmp_path / name, ["slide-001", "slide-002"]) for name in ("chunks", "once"))
    torch.testing.assert_close(chunks.features, once.features, rtol=0, atol=1e-5)


def test_labels_of_test_patients_change_nothing(trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    poisoned = table.copy()
    others = poisoned["split"] == "test"
    poisoned.loc[others, "abnormal"] = 1 - poisoned.loc[others, "abnormal"]
    assert same(trained, endtoend(cells, poisoned, tmp_path / "a", small()).directory)


def test_same_seed_same_model(trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    assert same(trained, endtoend(cells, table, tmp_path / "a", small()).directory)
    assert not same(trained, endtoend(cells, table, tmp_path / "b", small(seed=1)).directory)


@pytest.mark.parametrize("statistics", ["fixed", "chunk"])
def test_the_chunk_changes_nothing_with_fixed_statistics(statistics: str, cells: Path, table: pd.DataFrame, tmp_path: Path,
                                                         ) -> None:
    """In float64, all cells exactly: one graph for everything, or chunks; each chunk's own statistics are another network."""
    options = {"sampler": "all", "precision": "float64", "statistics": statistics, "epochs": 1}
    once = endtoend(cells, table, tmp_path / "once", small(chunk=1000, **options)).directory
    apart = endtoend(cells, table, tmp_path / "apart", small(chunk=13, **options)).directory
    gap = max(float((a - b).abs().max()) for a, b in zip(weights(once).values(), weights(apart).values(), strict=True))
    assert (gap < 1e-6) == (statistics == "fixed")


@pytest.fixture(scope="module")
def start(cells: Path, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder."""
    config = PretrainConfig(encoder_options=NARROW, size=32, epochs=1, batch=64, projection=16, device="cpu")
    return pretrain(cells, table, tmp_path_factory.mktemp("pretrained") / "start", config).directory


@pytest.mark.parametrize("sampler", ["random", "multi-scale", "attention", "all"])
def test_every_sampler_trains_from_a_pretrained_encoder(sampler: str, start: Path, cells: Path, table: pd.DataFrame,
                                                        tmp_path: Path) -> None:
    scales = ("1", "0.5") if sampler == "multi-scale" else ("1",)
    done = endtoend(cells, table, tmp_path / "done", small(sampler=sampler, scales=scales, epochs=1), init=start).directory
    encoder, before = load_file(done / "encoder/encoder.safetensors"), load_file(start / "encoder.safetensors")
    assert not torch.equal(encoder["backbone.conv1.weight"], before["backbone.conv1.weight"])
    assert torch.equal(encoder["backbone.bn1.running_mean"], before["backbone.bn1.running_mean"])  # fixed as it came
    assert set(read_manifest(done, "endtoend").patients) >= set(read_manifest(start, "encoder").patients)


def test_several_scales_are_looked_at_in_prediction_too(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    config = small(sampler="multi-scale", scales=("1", "0.5"), epochs=1)
    done = endtoend(cells, table, tmp_path / "done", config).directory
    encode(cells, done / "encoder", tmp_path / "features")
    assert len(read_features(tmp_path / "features", ["slide-001"]).features) == 2 * 30
    predict(tmp_path / "features", done / "model", tmp_path / "scores", table)
    found = pd.read_parquet(tmp_path / "scores/cells.parquet")
    assert found.groupby("slide")["cell"].agg(["size", "nunique"]).drop_duplicates().to_numpy().tolist() == [[30, 30]]


@pytest.mark.parametrize("aggregator", ["mean", "clam-mb", "dtfd", "transmil"])
def test_any_slide_model_can_stand_in(aggregator: str, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    done = endtoend(cells, table, tmp_path / "a", small(aggregator=aggregator, options={}, epochs=1))
    assert load_model(done.directory / "model").record["aggregator"] == aggregator


@pytest.mark.parametrize(("task", "kind", "sampler"), [  # cox compares slides, the others look at one at a time
    ("grade:multiclass", "multiclass", "random"), ("grade:ordinal(a<b<c)", "ordinal", "all"),
    ("death:cox(months,died)", "cox", "random"), ("death:cox(months,died)", "cox", "all"),
    ("death:hazards(months,died,3)", "hazards", "random")])
def test_other_tasks_run_end_to_end(task: str, kind: str, sampler: str, cells: Path, table: pd.DataFrame, tmp_path: Path,
                                    ) -> None:
    chance = np.random.default_rng(0)
    more = table.assign(months=chance.uniform(1, 40, len(table)).round(1), died=np.arange(len(table)) % 3 != 0,
                        grade=np.array(["a", "b", "c"])[np.arange(len(table)) // 2 % 3])
    more["split"] = np.array(["train", "validation"])[np.arange(len(table)) // 6 % 2]
    more["died"] = more["died"].astype(int)
    write_slides(more, tmp_path / "slides.csv")
    config = small(task=task, sampler=sampler, batch=6, epochs=1, chunk=40)
    done = endtoend(cells, tmp_path / "slides.csv", tmp_path / "a", config)
    assert load_model(done.directory / "model").record["tasks"][0]["kind"] == kind
    encode(cells, done.directory / "encoder", tmp_path / "features")
    predict(tmp_path / "features", done.directory / "model", tmp_path / "scores", tmp_path / "slides.csv")
    name = task.split(":")[0]
    assert np.isfinite(pd.read_csv(tmp_path / "scores/slides.csv")["logit"]).all(), name


def test_a_frozen_part_stays(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    free, frozen = (endtoend(cells, table, tmp_path / name, small(freeze=parts, epochs=1)).directory / "encoder"
                    for name, parts in (("free", ()), ("frozen", ("conv1",))))
    start = endtoend(cells, table, tmp_path / "still", small(epochs=1, learning_rate=1e-30)).directory / "encoder"
    first, same_, moved = (load_file(place / "encoder.safetensors")["backbone.conv1.weight"] for place in (start, frozen, free))
    assert torch.equal(first, same_)
    assert not torch.equal(first, moved)


def test_the_average_is_what_is_kept() -> None:
    """Weights that are 1, 2, 3, … after the steps: what is kept follows the formula; whole numbers are the last ones."""
    networks = Networks(small(average=0.5, aggregator="mean", options={}), [2], None, trained=False)
    moved, expected = Moved(networks, small(average=0.5)), 1.0
    for step in range(1, 8):
        for tensor in networks.state_dict().values():
            tensor.fill_(step)
        moved.step([torch.zeros_like(each) for each in moved.parameters], rate=0.0)
        decay = min(0.5, step / (9 + step))
        expected = 1.0 if step == 1 else decay * expected + (1 - decay) * step
        kept = moved.kept.state_dict()
        torch.testing.assert_close(kept["encoder.backbone.conv1.weight"].mean(), torch.tensor(expected))
        assert kept["encoder.backbone.bn1.num_batches_tracked"] == step


def test_however_a_gradient_lies_in_memory_the_step_is_the_same() -> None:
    """Of convolutions in channels-last order, a gradient in plain order, as sums over processes are: AdamW's first step."""
    networks = Networks(small(aggregator="mean", options={}), [2], None, trained=False).to(memory_format=torch.channels_last)
    moved, chance = Moved(networks, small(weight_decay=0.0)), torch.Generator().manual_seed(0)
    before = [each.detach().clone() for each in moved.parameters]
    gradients = [torch.randn(each.shape, generator=chance) for each in moved.parameters]
    moved.step(gradients, rate=0.1)
    for parameter, start, gradient in zip(moved.parameters, before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.1 * gradient.sign(), atol=1e-3, rtol=0)


def test_early_stopping_ends_the_training(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    done = endtoend(cells, table, tmp_path / "a", small(epochs=9, patience=2, learning_rate=1e-30, average=0.0)).directory
    log = pd.read_csv(done / "log.csv")
    assert len(log) < 9
    best = log.loc[log["validation_loss"].idxmin(), "epoch"]
    assert len(log) - best == 2
    assert json.loads((done / "model/model.json").read_text())["best_epoch"] == best


def test_a_done_stage_is_not_done_again(trained: Path, cells: Path, table: pd.DataFrame) -> None:
    before = (trained / "manifest.json").stat().st_mtime_ns
    endtoend(cells, table, trained, small())
    assert (trained / "manifest.json").stat().st_mtime_ns == before


def test_an_interrupted_training_goes_on_bit_identically(trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of the second epoch, after a checkpoint that it wrote there."""
    from milscope.endtoend import _training
    from milscope.endtoend._step import Step

    monkeypatch.setattr(_training, "CHECKPOINT_SECONDS", 0)
    step, calls = Step.__call__, []

    def stops(self: Step, *given: object) -> object:
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *given)

    monkeypatch.setattr(Step, "__call__", stops)
    with pytest.raises(KeyboardInterrupt):
        endtoend(cells, table, tmp_path / "a", small(batch=3))
    monkeypatch.setattr(Step, "__call__", step)
    assert (tmp_path / ".a.partial/checkpoint.safetensors").exists()
    resumed = endtoend(cells, table, tmp_path / "a", small(batch=3)).directory
    undisturbed = endtoend(cells, table, tmp_path / "b", small(batch=3)).directory
    assert same(resumed, undisturbed)
    columns = ["epoch", "train_loss", "validation_loss", "learning_rate"]
    first, second = (pd.read_csv(place / "log.csv")[columns] for place in (resumed, undisturbed))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("part", ["_write_log", "card_of", "shutil"])
def test_interrupted_while_it_writes_it_goes_on(part: str, trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder is there then, the model half or whole."""
    class Stops:
        def __call__(self, *given: object) -> None:
            raise KeyboardInterrupt

        copy2 = __call__

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["milscope.endtoend._endtoend"], part, Stops())
        with pytest.raises(KeyboardInterrupt):
            endtoend(cells, table, tmp_path / "a", small())
    assert (tmp_path / ".a.partial/encoder/manifest.json").exists()
    resumed = endtoend(cells, table, tmp_path / "a", small()).directory
    assert same(resumed, trained)
    assert {path.name for path in resumed.iterdir()} == {"encoder", "model", "log.csv", "manifest.json"}


def test_the_memory_is_told_before_training(cells: Path, table: pd.DataFrame, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    done = endtoend(cells, table, tmp_path / "a", small(epochs=1))
    assert done.memory in capsys.readouterr().err


def test_what_prediction_says_is_what_the_threshold_was_chosen_on(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    """In the arithmetic in which slides are predicted, whatever that of the training; the edge is a slide's own score."""
    more = table.assign(split=np.where(table["split"] == "test", "validation", table["split"]))
    config = small(sensitivity=0.5, confidence=0.5, epochs=1, precision="bfloat16")
    done = endtoend(cells, more, tmp_path / "a", config).directory
    encode(cells, done / "encoder", tmp_path / "features", EncodeConfig(precision="bfloat16"))
    predict(tmp_path / "features", done / "model", tmp_path / "scores", more)
    logits = pd.read_csv(tmp_path / "scores/slides.csv")["logit"].to_numpy()
    edge = load_model(done / "model").operating["abnormal"].band.lower
    assert np.abs(logits - edge).min() < 1e-6


@pytest.mark.parametrize(("change", "line"), [
    ({"budget": -1}, "`budget` should be at least 0"),
    ({"sampler": "multi-scale"}, "`sampler` should be random where there is one scale"),
    ({"memory": "much"}, "`memory` should be"),
    ({"aggregator": "abmil-y"}, "abmil-y"),
    ({"options": {"heads": 3}}, "heads"),
    ({"options": {"wings": 2}}, "`options` should be what `abmilx` takes"),
    ({"learning_rate": 0.0}, "`learning_rate` should be above 0"),
    ({"average": 1.0}, "`average` should be at least 0 and below 1"),
    ({"scales": ("2",)}, "`scales` should be"),
])
def test_a_wrong_setting_is_one_line(change: dict, line: str, cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=line):
        endtoend(cells, table, tmp_path / "a", small(**change))
    assert not list(tmp_path.iterdir())


def test_weights_and_an_encoder_to_start_from_are_too_much(trained: Path, cells: Path, table: pd.DataFrame, tmp_path: Path,
                                                           ) -> None:
    with pytest.raises(InputError, match="`weights` should be empty where `init` is given"):
        endtoend(cells, table, tmp_path / "a", small(weights="hub"), init=trained / "encoder")


def test_an_operating_point_is_frozen_in_the_model(cells: Path, table: pd.DataFrame, tmp_path: Path) -> None:
    config = small(sensitivity=0.5, confidence=0.5, epochs=1)
    more = table.assign(split=np.where(table["split"] == "test", "validation", table["split"]))
    record = load_model(endtoend(cells, more, tmp_path / "a", config).directory / "model").record
    assert record["operating"]["abnormal"]["sensitivity"] == 0.5
    assert record["data"]["calibration"]["slides"] > 0


def test_it_learns(tmp_path: Path) -> None:
    """Slides on which many cells are abnormal are told apart on patients it was not trained on."""
    synth(tmp_path / "slides", SynthConfig(slides=24, cells=16, rate=0.8, seed=3, workers=1, crops=True))
    table = split(read_slides(tmp_path / "slides/slides.csv"), SplitConfig(validation=0.4, test=0.0))
    store = tile(table, tmp_path / "tile", cells=tmp_path / "slides/cells", config=TileConfig(workers=1, limit=0.0)).directory
    done = endtoend(store, table, tmp_path / "a", small(epochs=12, budget=0, average=0.9, learning_rate=3e-3, select="auc"))
    assert done.validation_auc > 0.85
