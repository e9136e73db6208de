"""Files of every released format stay readable: by milscope, and by others' libraries alone. Made by `make_v1.py`."""

import json
from pathlib import Path

import duckdb
import h5py
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.dataset as dataset
import pytest
import torch
from safetensors.numpy import load_file

from milscope import CellStore, load_encoder, load_model
from milscope.encode import encode_cells
from milscope.store import feature_slides, read_cells, read_features, read_manifest

V1 = Path(__file__).parent / "v1"
SLIDES = ["slide-001", "slide-002"]
NAMES = ["slide-001:79,117", "slide-001:118,21", "slide-001:41,23"]
KINDS = {"cells": "cells", "encoder": "encoder", "features": "features", "model": "model", "scores": "scores"}


@pytest.mark.parametrize(("folder", "kind"), KINDS.items())
def test_manifests(folder: str, kind: str) -> None:
    manifest = read_manifest(V1 / folder, kind)
    assert (manifest.format_version, manifest.milscope) == (1, "0.1.0")
    assert len(manifest.fingerprint) == 16


def test_fingerprints_still_say_what_was_made_from_what() -> None:
    cells, encoder, features, model, scores = (read_manifest(V1 / folder, kind) for folder, kind in KINDS.items())
    assert features.inputs == {"cells": cells.fingerprint, "encoder": encoder.fingerprint}
    assert scores.inputs["features"] == features.fingerprint
    assert scores.inputs["model"] == model.fingerprint
    assert encoder.patients == features.patients
    assert set(encoder.patients) < set(model.patients) == set(scores.patients)


def test_cells() -> None:
    store = CellStore(V1 / "cells")
    assert store.slides == SLIDES
    assert store.count("slide-001") == 3
    assert store.table("slide-001")["cell"].to_pylist() == NAMES
    pixels = store.decode("slide-001", None, 24)
    assert pixels.shape == (3, 24, 24, 3)
    assert 150 < pixels.mean() < 230


def test_the_encoder_gives_the_features_that_were_stored() -> None:
    store, encoder = CellStore(V1 / "cells"), load_encoder(V1 / "encoder")
    assert (encoder.name, encoder.size, encoder.features) == ("resnet18", 32, 8)
    for slide in SLIDES:
        stored = read_features(V1 / "features", [slide]).features.numpy()
        np.testing.assert_allclose(encode_cells(encoder, store.decode(slide, None, 36)), stored, atol=0.02)


def test_features() -> None:
    assert feature_slides(V1 / "features") == SLIDES
    bags = read_features(V1 / "features", SLIDES)
    assert bags.offsets.tolist() == [0, 3, 6]
    assert bags.features.shape == (6, 8)
    assert float(bags.features[0, 0]) == pytest.approx(1.374, abs=1e-3)
    cells = read_cells(V1 / "features", "slide-001")
    assert cells["cell"].tolist() == NAMES
    assert cells[["x", "y", "width", "height"]].iloc[0].tolist() == [79, 117, 24, 24]


def test_the_model_gives_the_scores_that_were_stored() -> None:
    model, questions, _, record = load_model(V1 / "model")
    assert (record["aggregator"], record["task"], record["classes"]) == ("abmil-gated", "abnormal", ["negative", "positive"])
    assert record["encoder"] == read_manifest(V1 / "encoder", "encoder").fingerprint
    bags = read_features(V1 / "features", SLIDES)
    with torch.inference_mode():
        found, alone = model.with_cells_alone(bags)
    scores = pd.read_csv(V1 / "scores/slides.csv")
    cells = pd.read_parquet(V1 / "scores/cells.parquet")
    np.testing.assert_allclose((found.logits[:, 1] - found.logits[:, 0]).numpy(), scores["logit"], atol=1e-5)
    np.testing.assert_allclose(found.attention[:, 1].numpy(), cells["attention"], atol=1e-6)
    np.testing.assert_allclose(questions.tasks[0].suspicion(alone).numpy(), cells["evidence"], atol=1e-5)


def test_cells_with_pyarrow_and_pandas_alone() -> None:
    with pa.memory_map(str(V1 / "cells/slide-001.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.schema.metadata == {b"milscope_format": b"cells", b"milscope_version": b"1", b"slide": b"slide-001"}
    assert table.schema.names == ["cell", "x", "y", "width", "height", "mpp", "image"]
    frame = pd.read_feather(V1 / "cells/slide-001.arrow")
    assert frame["cell"].tolist() == NAMES
    assert frame["x"].tolist() == [79, 118, 41]
    assert set(frame["mpp"]) == {2.0}
    assert all(image.startswith(b"\xff\xd8") and image.endswith(b"\xff\xd9") for image in frame["image"])
    assert pd.read_csv(V1 / "cells/slides.csv").columns.tolist() == [
        "slide", "cells", "skipped", "width", "height", "mpp", "file"]
    assert pd.read_csv(V1 / "cells/failures.csv").columns.tolist() == ["slide", "cell", "reason"]


def test_features_with_h5py_alone() -> None:
    with h5py.File(V1 / "features/features_resnet18/slide-001.h5") as file:
        assert file["features"].shape == (3, 8)
        assert file["features"].dtype == np.float32
        assert file["features"].attrs["encoder"] == "resnet18"
        assert file["coords"].dtype == np.int64
        assert file["coords"][:].tolist() == [[67, 105], [106, 9], [29, 11]]
        assert file["cell"].asstr()[:].tolist() == NAMES
        assert file["place/x"][:].tolist() == [79, 118, 41]


def test_weights_and_tables_with_others_alone() -> None:
    description = json.loads((V1 / "encoder/encoder.json").read_text())
    assert set(description) == {"name", "size", "options", "features"}
    weights = load_file(V1 / "encoder/encoder.safetensors")
    assert weights["mean"].shape == (1, 3, 1, 1)
    assert any(name.startswith("backbone.") for name in weights)
    assert all(np.isfinite(value).all() for value in load_file(V1 / "model/model.safetensors").values())
    assert pd.read_csv(V1 / "encoder/log.csv")["epoch"].tolist() == [1]
    assert pd.read_csv(V1 / "model/candidates.csv")["chosen"].tolist() == [True]
    assert pd.read_csv(V1 / "scores/slides.csv").columns.tolist() == [
        "slide", "patient", "split", "label", "probability", "logit", "called"]


def test_cells_are_read_by_polars_and_duckdb() -> None:
    """As docs/formats.md shows it."""
    path = V1 / "cells" / "slide-001.arrow"
    images = CellStore(V1 / "cells").images("slide-001")
    assert polars.read_ipc(path)["image"].to_list() == images
    assert polars.scan_ipc(path).filter(polars.col("cell") == NAMES[1]).collect()["image"].to_list() == images[1:2]
    cells = dataset.dataset(V1 / "cells", format="ipc", exclude_invalid_files=True)  # noqa: F841 - named in the query
    found = duckdb.sql("SELECT cell, octet_length(image) AS bytes FROM cells ORDER BY cell").fetchall()
    assert len(found) == sum(map(CellStore(V1 / "cells").count, SLIDES))
    assert dict(found)[NAMES[0]] == len(images[0])
