"""Folders written with h5py and numpy exactly as TRIDENT, CLAM, STAMP and torchmil write them."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tests.unit.store.test_features import cell_table

from milscope.store import (
    feature_slides,
    fingerprint,
    import_features,
    open_features,
    read_cells,
    read_features,
    read_manifest,
    write_features,
    write_text,
)
from milscope.store._cells import Frame
from milscope.types import InputError

CORNERS = np.array([[0, 0], [512, 0], [512, 1024]])


def values(count: int = 3, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def save(path: Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Mapping[str, Any]]) -> Path:
    """TRIDENT's and CLAM's way: datasets that can grow, one row a chunk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            data = file.create_dataset(name, shape=array.shape, maxshape=(None, *array.shape[1:]), chunks=(1, *array.shape[1:]),
                                       dtype=array.dtype)
            data[:] = array
            for key, value in attributes.get(name, {}).items():
                data.attrs[key] = "None" if value is None else value
    return path


def trident(root: Path, slide: str = "a", features: np.ndarray | None = None, encoder: str | None = "uni_v1",
            folder: str = "features_uni_v1", **changes: object) -> Path:
    features = values() if features is None else features
    cells = features.shape[-2]
    about = {"patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20, "overlap": 0,
             "name": slide, "savetodir": str(root), "level0_width": 90000, "level0_height": 80000, **changes}
    told = {"name": slide, "savetodir": str(root / folder)} | ({"encoder": encoder} if encoder else {})
    save(root / "patches" / f"{slide}_patches.h5", {"coords": CORNERS[:cells].astype(np.int64)}, {"coords": about})
    save(root / folder / f"{slide}.h5", {"features": features, "coords": CORNERS[:cells].astype(np.int64)},
         {"features": told, "coords": about})
    return root / folder


def clam(root: Path, slide: str = "a", features: np.ndarray | None = None) -> Path:
    save(root / "h5_files" / f"{slide}.h5", {"features": values() if features is None else features,
                                             "coords": CORNERS.astype(np.int32)}, {})
    (root / "pt_files").mkdir(exist_ok=True)
    (root / "pt_files" / f"{slide}.pt").write_bytes(b"PK")
    return root


def stamp(root: Path, slide: str = "project/a", features: np.ndarray | None = None, **changes: object) -> Path:
    path = root / f"{slide}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = (CORNERS * 0.5).astype(np.float32)
        file["feats"] = (values() if features is None else features).astype(np.float16)
        file.attrs.update({"stamp_version": "2.3.0", "extractor": "mahmood-uni", "unit": "um", "tile_size_um": 256.0,
                           "tile_size_px": 224, "code_hash": "0123abcd", "feat_type": "tile"} | changes)
    return root


def torchmil(root: Path, slide: str = "a", features: np.ndarray | None = None) -> Path:
    for folder, array in (("features/features_UNI", values() if features is None else features), ("coords", CORNERS),
                          ("labels", np.array([1])), ("patch_labels", np.array([0, 1, 0]))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        np.save(root / folder / f"{slide}.npy", array)
    return root


LAYOUTS: dict[str, Callable[..., Path]] = {"trident": trident, "clam": clam, "stamp": stamp, "torchmil": torchmil}


@pytest.mark.parametrize("imported", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_as_it_is_and_imported(tmp_path: Path, layout: str, *, imported: bool) -> None:
    source = LAYOUTS[layout](tmp_path / "theirs")
    source = LAYOUTS[layout](tmp_path / "theirs", "b", values(2, seed=1)) if layout == "trident" else source
    folder = import_features(source, tmp_path / "ours").directory if imported else source
    assert feature_slides(folder) == (["a", "b"] if layout == "trident" else ["a"])
    bags = read_features(folder, ["a"])
    expected = values().astype(np.float16).astype(np.float32) if layout == "stamp" else values()
    assert bags.features.dtype == torch.float32
    assert torch.equal(bags.features, torch.from_numpy(expected))
    assert read_cells(folder, "a")["cell"].tolist() == ["0", "1", "2"]
    found = open_features(folder)
    assert (found.kind, found.patients, found.summary["features"]) == ("features", [], 4)
    assert found.summary["encoder"] == {"trident": "uni_v1", "clam": "", "stamp": "mahmood-uni", "torchmil": "UNI"}[layout]
    assert len(found.summary["warnings"]) == (1 if layout == "clam" else 0)


def test_an_import_and_the_folder_itself_are_the_same_features(tmp_path: Path) -> None:
    source = trident(tmp_path / "theirs")
    done = import_features(source, tmp_path / "ours")
    assert (done.slides, done.cells, done.features, done.encoder, done.warnings) == (1, 3, 4, "uni_v1", [])
    assert read_manifest(tmp_path / "ours", "features").fingerprint == open_features(source).fingerprint
    assert not list((tmp_path / "ours").rglob("*.h5"))
    assert import_features(source, tmp_path / "ours") == done


@pytest.mark.parametrize(("make", "options", "x", "side"), [
    (trident, {}, [256, 768, 768], 512),
    (clam, {}, None, None),
    (clam, {"patch_size": 256}, [128, 640, 640], 256),
    (torchmil, {}, None, None),
    (torchmil, {"patch_size": 512}, [256, 768, 768], 512),
    (stamp, {}, None, None),
    (stamp, {"mpp": 0.25}, [512, 1536, 1536], 1024),
])
def test_places_are_told_or_unknown(tmp_path: Path, make: Callable[..., Path], options: dict, x: list, side: float) -> None:
    folder = import_features(make(tmp_path / "theirs"), tmp_path / "ours", **options).directory
    cells = read_cells(folder, "a")
    if x is None:
        assert cells[["x", "y", "width", "height"]].isna().all(axis=None)
    else:
        assert cells["x"].tolist() == x
        assert cells["y"].tolist() == [side / 2, side / 2, side / 2 + (2048 if make is stamp else 1024)]
        assert (cells[["width", "height"]] == side).all(axis=None)


def test_a_slides_own_scale_goes_before_that_of_all(tmp_path: Path) -> None:
    source = stamp(tmp_path / "theirs")
    assert read_cells(source, "a")["width"].isna().all()
    assert read_cells(source, "a", mpp=0.5)["x"].tolist() == [256, 768, 768]
    folder = import_features(source, tmp_path / "ours", mpp=0.25).directory
    assert read_cells(folder, "a", mpp=0.5)["x"].tolist() == [256, 768, 768]


@pytest.mark.parametrize(("attributes", "side"), [
    ({"patch_level": 0, "patch_size": 256}, 256),
    ({"patch_level": 1, "patch_size": 256, "downsample": np.array([4.0, 4.0])}, 1024),
    ({"patch_level": 1, "patch_size": 256}, math.nan),
    ({"patch_level": 0, "patch_size": 256, "custom_downsample": 2}, math.nan),
    ({"patch_size": 256, "patch_size_level0": "None"}, math.nan),
    ({"patch_size_level0": -1}, math.nan),
])
def test_what_clams_attributes_say_of_the_size(tmp_path: Path, attributes: dict, side: float) -> None:
    save(tmp_path / "a.h5", {"features": values(), "coords": CORNERS}, {"coords": attributes})
    cells = read_cells(tmp_path, "a")
    np.testing.assert_equal(cells["width"].tolist(), [side] * 3)
    np.testing.assert_equal(cells["x"].tolist(), [side / 2, 512 + side / 2, 512 + side / 2])


def test_old_stamp_files_have_no_places(tmp_path: Path) -> None:
    stamp(tmp_path, "a", unit="", tile_size_um="")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file.attrs["unit"], file.attrs["tile_size_um"]
    assert read_cells(tmp_path, "a", mpp=0.5)["x"].isna().all()
    assert read_cells(import_features(tmp_path, tmp_path / "ours", patch_size=224).directory, "a")["x"].isna().all()
    stamp(tmp_path, "b", tile_size=256.0)
    with h5py.File(tmp_path / "b.h5", "a") as file:  # 2.0
        del file.attrs["tile_size_um"]
    assert read_cells(tmp_path, "b", mpp=0.5)["width"].tolist() == [512.0] * 3


def test_attributes_of_bytes_are_read(tmp_path: Path) -> None:
    stamp(tmp_path, "a", unit=np.bytes_("um"), extractor=np.bytes_("x"), feat_type=np.bytes_("tile"))
    assert open_features(tmp_path).summary["encoder"] == "x"
    assert read_cells(tmp_path, "a", mpp=0.5)["x"].tolist() == [256, 768, 768]


def test_the_encoder_is_known_by_its_name_and_width(tmp_path: Path) -> None:
    def identity(folder: Path, **options: str) -> str:
        return open_features(folder, **options).inputs["encoder"]

    uni = identity(trident(tmp_path / "1"))
    assert identity(trident(tmp_path / "2", encoder=None)) == uni
    assert identity(trident(tmp_path / "3", encoder="uni_v1", folder="features_other")) == uni
    assert identity(trident(tmp_path / "4", encoder="None")) == uni
    assert identity(clam(tmp_path / "5"), encoder="uni_v1") == uni == fingerprint({"encoder": "uni_v1", "features": 4})
    assert identity(trident(tmp_path / "6", features=values(3, 5))) != uni
    assert identity(stamp(tmp_path / "7")) != uni
    assert import_features(stamp(tmp_path / "8"), tmp_path / "9", encoder="uni_v1").encoder == "uni_v1"
    assert identity(tmp_path / "9") == uni


def test_the_folder_of_the_job_is_enough(tmp_path: Path) -> None:
    trident(tmp_path / "job" / "20x_256px_0px_overlap")
    save(tmp_path / "job" / "20x_256px_0px_overlap" / "slide_features_titan" / "a.h5", {"features": np.zeros(8)}, {})
    assert feature_slides(tmp_path / "job") == ["a"]
    assert feature_slides(tmp_path / "job" / "20x_256px_0px_overlap") == ["a"]
    trident(tmp_path / "job" / "20x_256px_0px_overlap", folder="features_resnet50")
    for folder in (tmp_path / "job", tmp_path / "job" / "20x_256px_0px_overlap"):
        with pytest.raises(InputError, match=r"features_resnet50.*features_uni_v1"):
            open_features(folder)


def test_slides_without_cells_and_of_one_batch(tmp_path: Path) -> None:
    trident(tmp_path, "none", values(0))
    trident(tmp_path, "batch", values()[None])
    trident(tmp_path, "some")
    bags = read_features(tmp_path, ["some", "none", "batch"])
    assert bags.lengths.tolist() == [3, 0, 3]
    assert torch.equal(bags.features[:3], bags.features[3:])
    assert read_features(tmp_path, ["none"]).features.shape == (0, 4)
    save(tmp_path / "features_uni_v1" / "void.h5", {"coords": CORNERS[:0]}, {})
    with h5py.File(tmp_path / "features_uni_v1" / "void.h5", "a") as file:
        file["features"] = np.zeros((0, 0), np.float32)
    assert read_features(tmp_path, ["void", "some"]).features.shape == (3, 4)
    assert len(read_cells(tmp_path, "none")) == 0
    assert read_cells(tmp_path, "batch")["x"].tolist() == [256, 768, 768]


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f2", ">f4"])
def test_every_float_is_read(tmp_path: Path, kind: str) -> None:
    trident(tmp_path / "h5", features=values().astype(kind))
    torchmil(tmp_path / "npy", features=values().astype(kind))
    torchmil(tmp_path / "columns", features=np.asfortranarray(values().astype(kind)))
    for folder in ("h5", "npy", "columns"):
        assert torch.equal(read_features(tmp_path / folder, ["a"]).features,
                           torch.from_numpy(values().astype(kind).astype(np.float32)))


def test_what_float32_cannot_hold_is_not_finite(tmp_path: Path) -> None:
    trident(tmp_path, features=np.array([[1e300, 1.0]]))
    assert read_features(tmp_path, ["a"]).features.tolist() == [[math.inf, 1.0]]


def test_a_reader_of_tridents_files_reads_ours(tmp_path: Path) -> None:
    """The datasets and attributes that TRIDENT's own slide encoders and overlays take from a file."""
    path = tmp_path / "features_net" / "a.h5"
    path.parent.mkdir()
    write_features(path, values(2), cell_table(2), encoder="net", frame=Frame(1000.0, 800.0, 0.25))
    with h5py.File(path) as file:
        features, coords, attributes = file["features"][:], file["coords"][:], dict(file["coords"].attrs)
        assert file["features"].attrs["encoder"] == "net"
    assert np.array_equal(features, values(2))
    assert coords.dtype == np.int64
    side = attributes["patch_size"] * attributes["level0_magnification"] / attributes["target_magnification"]
    assert side == attributes["patch_size_level0"] == 40
    assert (coords + side / 2).tolist() == [[50, 50], [60, 60]]
    outside = tmp_path / "alone"
    save(outside / "a.h5", {"features": features, "coords": coords}, {"coords": attributes})
    assert read_cells(outside, "a")["x"].tolist() == [50, 60]


def spoil(path: Path, kind: str) -> None:
    """Makes one file of slide a what nobody should read."""
    with h5py.File(path, "w") as file:
        if kind == "objects":
            file.create_dataset("features", data=["x", "y"], dtype=h5py.string_dtype())
        elif kind == "compound":
            file["features"] = np.zeros(3, dtype=[("a", "f4"), ("b", "f4")])
        elif kind == "integers":
            file["features"] = np.zeros((3, 4), np.uint16)
        elif kind == "vector":
            file["features"] = np.zeros(4, np.float32)
        elif kind == "cube":
            file["features"] = np.zeros((2, 3, 4), np.float32)
        elif kind == "patient":
            file["feats"], file.attrs["feat_type"] = np.zeros((1, 4), np.float32), "patient"
        elif kind == "group":
            file.create_group("features")
        elif kind == "link":
            file["features"] = h5py.ExternalLink("other.h5", "features")
        elif kind == "external":
            file.create_dataset("features", (3, 4), np.float32, external=[("other.bin", 0, 48)])
        elif kind == "bomb":
            file.create_dataset("features", (10**9, 4), np.float32, chunks=(1000, 4))
        elif kind == "nothing":
            file["coords"] = CORNERS
        else:
            file["features"] = np.zeros((3000, 4), np.float32)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:9000])
    if kind == "text":
        path.write_text("no HDF5")


@pytest.mark.parametrize(("kind", "says"), [
    ("objects", "Found object"), ("compound", "Found [('a'"), ("integers", "Found uint16. Write the features as float32"),
    ("vector", "one vector for the whole slide"), ("cube", "the shape (2, 3, 4)"),
    ("patient", "one vector for the whole slide"),
    ("group", "a group or a link"), ("link", "a group or a link"), ("external", "a group or a link"), ("bomb", "values in"),
    ("nothing", "Found coords"), ("truncated", "truncated file"), ("text", "signature"),
])
def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path, kind: str, says: str) -> None:
    clam(tmp_path, "b")
    with h5py.File(tmp_path / "h5_files" / "other.h5", "w") as file:
        file["features"] = values()
    path = tmp_path / "h5_files" / "a.h5"
    spoil(path, kind)
    with pytest.raises(InputError) as error:
        read_features(tmp_path, ["b", "a"])
    assert str(path) in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    done = import_features(tmp_path, tmp_path / "ours")
    assert feature_slides(done.directory) == ["b", "other"]
    assert done.warnings[0].startswith("1 slides cannot be read (a): `")


@pytest.mark.parametrize("kind", [np.array(["x", None], dtype=object), np.zeros(2, dtype=[("a", "f4")]), np.zeros((2, 2), int)])
def test_objects_and_records_of_numpy_are_refused(tmp_path: Path, kind: np.ndarray) -> None:
    torchmil(tmp_path)
    np.save(tmp_path / "features" / "features_UNI" / "a.npy", kind, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_features(tmp_path, ["a"])
    torchmil(tmp_path)
    np.save(tmp_path / "coords" / "a.npy", np.array(["x", None], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_cells(tmp_path, "a")
    path = torchmil(tmp_path) / "features" / "features_UNI" / "a.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"a\.npy"):
        read_features(tmp_path, ["a"])


def test_pickles_alone_are_refused_with_a_way_out(tmp_path: Path) -> None:
    clam(tmp_path)
    (tmp_path / "h5_files" / "a.h5").unlink()
    with pytest.raises(InputError, match=r"a\.pt, a pickle, which may run code.*docs/features\.md"):
        open_features(tmp_path)


def test_places_that_do_not_fit_the_features_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", {"features": values(2), "coords": CORNERS}, {})
    with pytest.raises(InputError, match=r"`coords` of shape \(3, 2\) for 2 cells"):
        read_cells(tmp_path, "a")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = values()
        file.create_dataset("coords", (3, 10**11), np.int32, chunks=(1, 1000))
    with pytest.raises(InputError, match="for 3 cells"):
        read_cells(tmp_path, "a")
    save(tmp_path / "a.h5", {"features": values(), "coords": np.zeros((3, 3))}, {})
    assert read_cells(tmp_path, "a")["x"].isna().all()


@pytest.mark.parametrize(("make", "says"), [
    (lambda root: root / "nowhere", "a folder"),
    (lambda root: root, "one a slide"),
    (lambda root: [stamp(root, "x/a"), stamp(root, "y/a")][0], "one file a slide"),
    (lambda root: [trident(root, "a"), trident(root, "b", values(2, 5))][0], "widths [4, 5]"),
    (lambda root: [trident(root, "a"), trident(root, "b", encoder="other")][0], "`other`, `uni_v1`"),
])
def test_folders_that_are_not_features_are_refused(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    folder = make(tmp_path)
    for use in (open_features, lambda folder: import_features(folder, tmp_path / "ours")):
        with pytest.raises(InputError) as error:
            use(folder)
        assert says in str(error.value)


def test_the_folder_inside_an_artifact_does_not_lose_its_patients(tmp_path: Path) -> None:
    source = trident(tmp_path / "theirs")
    (tmp_path / "theirs" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=f"Give {tmp_path / 'theirs'}, which knows the patients"):
        open_features(source)
    with pytest.raises(InputError, match="an artifact of milscope"):
        import_features(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize("options", [{"mpp": 0.0}, {"patch_size": -1.0}, {"mpp": math.nan}, {"patch_size": math.inf}])
def test_impossible_scales_are_refused(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InputError, match="above 0"):
        import_features(trident(tmp_path / "theirs"), tmp_path / "ours", **options)


def test_files_that_moved_away_are_told(tmp_path: Path) -> None:
    source = trident(tmp_path / "theirs")
    folder = import_features(source, tmp_path / "ours").directory
    (source / "a.h5").rename(source / "b.h5")
    with pytest.raises(InputError, match=r"theirs/features_uni_v1/a\.h5"):
        read_features(folder, ["a"])
    write_text(folder / "outside.json", json.dumps({"slides": {}}))
    with pytest.raises(InputError, match=r"outside\.json"):
        feature_slides(folder)


def test_slides_added_to_a_folder_are_seen(tmp_path: Path) -> None:
    source = clam(tmp_path)
    assert feature_slides(source) == ["a"]
    before = open_features(source).fingerprint
    clam(tmp_path, "b")
    (source / "h5_files" / "._b.h5").write_bytes(b"")
    assert feature_slides(source) == ["a", "b"]
    assert open_features(source).fingerprint != before
