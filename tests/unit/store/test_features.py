from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch

from milscope.store import Frame, feature_slides, read_cells, read_features, write_features
from milscope.types import InputError


def cell_table(count: int, *, placed: bool = True) -> pa.Table:
    place = [50.0 + 10 * i if placed else None for i in range(count)]
    side = [40.0 if placed else None] * count
    return pa.table({"cell": [f"cell-{i}" for i in range(count)], "x": pa.array(place, pa.float64()),
                     "y": pa.array(place, pa.float64()), "width": pa.array(side, pa.float64()),
                     "height": pa.array(side, pa.float64()), "mpp": [0.5] * count})


def write(folder: Path, slide: str, count: int, width: int = 3, *, placed: bool = True) -> np.ndarray:
    (folder / "features_net").mkdir(exist_ok=True)
    features = np.arange(count * width, dtype=np.float32).reshape(count, width)
    write_features(folder / "features_net" / f"{slide}.h5", features, cell_table(count, placed=placed), encoder="net")
    return features


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a", 2), write(tmp_path, "b.c", 4)
    bags = read_features(tmp_path, ["b.c", "a"])
    assert feature_slides(tmp_path) == ["a", "b.c"]
    assert bags.offsets.tolist() == [0, 4, 6]
    assert torch.equal(bags.features, torch.from_numpy(np.concatenate([second, first])))
    assert read_cells(tmp_path, "a")["cell"].tolist() == ["cell-0", "cell-1"]
    assert read_cells(tmp_path, "a")["x"].tolist() == [50.0, 60.0]


def test_the_layout_is_tridents(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    with h5py.File(tmp_path / "features_net/a.h5") as file:
        assert file["features"].dtype == np.float32
        assert {"name", "savetodir", "encoder"} <= set(file["features"].attrs)
        assert file["coords"].dtype == np.int64
        assert file["coords"][:].tolist() == [[30, 30], [40, 40]]
        assert {"patch_size", "patch_size_level0", "overlap", "name", "savetodir"} <= set(file["coords"].attrs)


def test_cells_without_a_place(tmp_path: Path) -> None:
    write(tmp_path, "a", 2, placed=False)
    with h5py.File(tmp_path / "features_net/a.h5") as file:
        assert file["coords"][:].tolist() == [[-1, -1], [-1, -1]]
    assert read_cells(tmp_path, "a")["x"].isna().all()


def test_a_slide_without_features_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    with pytest.raises(InputError, match=r"Found `b`\. Run `milscope encode`"):
        read_features(tmp_path, ["a", "b"])


def test_features_of_two_encoders_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "a", 2, width=3)
    write(tmp_path, "b", 2, width=4)
    with pytest.raises(InputError, match="of one width"):
        read_features(tmp_path, ["a", "b"])


def test_a_slides_frame_tells_scale_and_border(tmp_path: Path) -> None:
    """Cells of 40 slide pixels at 0.25 microns, stored as 20; the last one stands in the lower right corner."""
    folder = tmp_path / "features_net"
    folder.mkdir()
    table = cell_table(2).set_column(1, "x", pa.array([5.0, 99.0])).set_column(2, "y", pa.array([30.0, 79.0]))
    write_features(folder / "a.h5", np.zeros((2, 3), np.float32), table, encoder="net", frame=Frame(100.0, 80.0, 0.25))
    with h5py.File(folder / "a.h5") as file:
        assert file["coords"][:].tolist() == [[0, 10], [60, 40]]
        assert {name: file["coords"].attrs[name] for name in (
            "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "level0_width", "level0_height",
        )} == {"patch_size": 20, "patch_size_level0": 40, "level0_magnification": 40, "target_magnification": 20,
               "level0_width": 100, "level0_height": 80}


def test_files_added_later_are_seen(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    assert feature_slides(tmp_path) == ["a"]
    write(tmp_path, "b", 2)
    assert feature_slides(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("names", [["é", "", "細胞/1", "a" * 40], [""] * 4])
def test_names_of_any_script_and_length_are_read_by_us_and_by_h5py(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "features_net").mkdir()
    table = cell_table(4).set_column(0, "cell", pa.array(names))
    write_features(tmp_path / "features_net" / "a.h5", np.zeros((4, 3), np.float32), table, encoder="net")
    assert read_cells(tmp_path, "a")["cell"].tolist() == names
    with h5py.File(tmp_path / "features_net" / "a.h5") as file:
        assert file["cell"].asstr()[:].tolist() == names
    write_features(tmp_path / "features_net" / "none.h5", np.zeros((0, 3), np.float32), cell_table(0), encoder="net")
    assert read_cells(tmp_path, "none").empty


def test_names_of_any_length_as_older_versions_wrote_them_are_read(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    with h5py.File(tmp_path / "features_net" / "a.h5", "a") as file:
        del file["cell"]
        file.create_dataset("cell", data=["é", "cell-1"], dtype=h5py.string_dtype())
    assert read_cells(tmp_path, "a")["cell"].tolist() == ["é", "cell-1"]


def test_the_cells_of_a_slide_without_features_are_told(tmp_path: Path) -> None:
    write(tmp_path, "a", 2)
    with pytest.raises(InputError, match=r"Found `b`\. Run `milscope encode`"):
        read_cells(tmp_path, "b")


def test_an_artifact_without_slides_has_none(tmp_path: Path) -> None:
    (tmp_path / "features_net").mkdir()
    (tmp_path / "manifest.json").write_text("{}")
    assert feature_slides(tmp_path) == []
    with pytest.raises(InputError, match=r"Found `b`"):
        read_features(tmp_path, ["b"])


def test_asking_twice_for_a_slide_gives_it_twice(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a", 2), write(tmp_path, "b", 1)
    assert torch.equal(read_features(tmp_path, ["a", "b", "a"]).features,
                       torch.from_numpy(np.concatenate([first, second, first])))
