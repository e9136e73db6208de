import numpy as np
import pandas as pd
import pytest
from tests.drawn_pictures import encoded
from tests.spotted_cells import spotted, write_classes, write_store

from milscope.benchmark._imports import open_pool, shrunk
from milscope.configs import WitnessConfig
from milscope.slides import decode_pixels
from milscope.types import InputError

CLASSES = WitnessConfig(truth_normal="normal", workers=1)


def test_a_store_with_a_truth_table_and_its_patients(tmp_path):
    cells = write_store(tmp_path, patients=3, normal=5, odd=2)
    pool = open_pool(cells, tmp_path / "truth.csv", tmp_path / "pool", WitnessConfig())
    truth = pd.read_csv(tmp_path / "truth.csv")
    assert (pool.table["cell"] == truth["cell"]).all()
    assert (pool.table["witness"] == (truth["odd"] == 1)).all()
    assert (pool.table["patient"] == truth["slide"]).all()
    assert not (tmp_path / "pool").exists()
    pd.DataFrame({"slide": ["p0", "p1", "p2"], "patient": ["a", "a", "b"]}).to_csv(tmp_path / "slides.csv", index=False)
    named = open_pool(cells, tmp_path / "truth.csv", tmp_path / "pool", WitnessConfig(), patients=tmp_path / "slides.csv")
    assert named.table.groupby("slide")["patient"].first().tolist() == ["a", "a", "b"]
    assert named.fingerprint != pool.fingerprint


def test_cells_that_the_truth_does_not_tell_are_left_out(tmp_path):
    cells = write_store(tmp_path, patients=2, normal=5, odd=2)
    truth = pd.read_csv(tmp_path / "truth.csv")
    truth.iloc[3:].to_csv(tmp_path / "truth.csv", index=False)
    table = open_pool(cells, tmp_path / "truth.csv", tmp_path / "pool", WitnessConfig()).table
    assert table["cell"].tolist() == truth["cell"].tolist()[3:]
    assert table["row"].tolist()[:4] == [3, 4, 5, 6]


def test_folders_of_slides_with_a_truth_table(tmp_path):
    cells = write_classes(tmp_path / "cells", {"s1": 4, "s2": 3})
    names = [f"{slide}/{slide}_{place:03d}.png" for slide, count in (("s1", 4), ("s2", 3)) for place in range(count)]
    truth = pd.DataFrame({"slide": [name[:2] for name in names], "cell": names, "kind": ["NILM"] * 5 + ["HSIL", "LSIL"]})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    pool = open_pool(cells, tmp_path / "truth.csv", tmp_path / "pool", WitnessConfig(truth_normal="NILM", workers=1))
    assert pool.table["witness"].tolist() == [False] * 5 + [True] * 2
    assert pool.store.images("s1", [1]) == [(cells / names[1]).read_bytes()]


@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_classes(tmp_path, nested):
    cells = write_classes(tmp_path / "cells", {"normal": 12, "BLA": 3, "MYB": 2}, nested=nested)
    (cells / "BLA" / "damaged.png").write_bytes(b"no image")
    pool = open_pool(cells, None, tmp_path / "pool", CLASSES)
    counts = pool.table.groupby("slide")["witness"].agg(["size", "sum"])
    assert counts.to_dict("index") == {"BLA": {"size": 3, "sum": 3}, "MYB": {"size": 2, "sum": 2},
                                       "normal": {"size": 12, "sum": 0}}
    assert (pool.table["patient"] == "").all()
    folder = "normal/0001/" if nested else "normal/"
    name = f"{folder}normal_011.png"
    assert pool.store.images("normal", pool.table.index[pool.table["cell"] == name] - 5) == [(cells / name).read_bytes()]
    failures = pd.read_csv(tmp_path / "pool" / "failures.csv")
    assert failures["cell"].tolist() == ["BLA/damaged.png"]
    some = open_pool(cells, None, tmp_path / "some", WitnessConfig(truth_normal="normal", classes=("MYB",), workers=1))
    assert set(some.table["slide"]) == {"normal", "MYB"}


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (8, 8)])
def test_arrays_of_images_and_labels(tmp_path, shape):
    random = np.random.default_rng(0)
    parts = {name: random.integers(0, 255, (count, *shape), dtype=np.uint8) for name, count in (("train", 4), ("test", 3))}
    np.savez(tmp_path / "blood.npz", train_images=parts["train"], train_labels=np.array([[0], [6], [6], [2]]),
             test_images=parts["test"], test_labels=np.array([[6], [0], [6]]))
    pool = open_pool(tmp_path / "blood.npz", None, tmp_path / "pool", WitnessConfig(truth_normal="6"))
    assert pool.table.groupby("slide")["witness"].agg(["size", "sum"]).to_numpy().tolist() == [[2, 2], [1, 1], [4, 0]]
    pixels = [decode_pixels(image) for image in pool.store.images("6")]
    wanted = [parts["train"][1], parts["train"][2], parts["test"][0], parts["test"][2]]
    for found, own in zip(pixels, wanted, strict=True):
        np.testing.assert_array_equal(found, np.broadcast_to(own.reshape(8, 8, -1), (8, 8, 3)))


def test_large_cells_are_stored_small_and_small_ones_as_they_are():
    image = encoded(spotted(np.random.default_rng(0), witness=True, side=40))
    assert shrunk(image, 40) is image
    assert shrunk(image, 0) is image
    assert decode_pixels(shrunk(image, 16)).shape == (16, 16, 3)


def wrong(path, what):
    """Cells that cannot be used."""
    if what == "labels":
        np.savez(path / "x.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.zeros(2))
    elif what == "floats":
        np.savez(path / "x.npz", images=np.zeros((3, 4, 4, 3)), labels=np.zeros(3))
    elif what == "objects":
        np.savez(path / "x.npz", images=np.array([{}]), labels=np.zeros(1))
    elif what == "text":
        (path / "x.npz").write_text("no zip")
    elif what == "empty":
        (path / "x.npz").write_bytes(b"")
    return path / "x.npz"


@pytest.mark.parametrize("what", ["labels", "floats", "objects", "text", "empty", "nothing"])
def test_odd_arrays_are_one_line(tmp_path, what):
    with pytest.raises(InputError) as told:
        open_pool(wrong(tmp_path, what), None, tmp_path / "pool", WitnessConfig())
    assert "\n" not in str(told.value)
    assert not (tmp_path / "pool").exists()


def test_what_does_not_fit_is_one_line(tmp_path):
    cells = write_classes(tmp_path / "cells", {"normal": 2, "BLA": 1})
    for config, line in ((WitnessConfig(workers=1), "`0` among BLA, normal"),
                         (WitnessConfig(truth_normal="normal", classes=("MYB",), workers=1), "classes.*BLA.*Found MYB"),
                         (WitnessConfig(truth_normal="normal", classes=("normal",), workers=1), "classes.*Found normal")):
        with pytest.raises(InputError, match=line):
            open_pool(cells, None, tmp_path / "pool", config)
    store = write_store(tmp_path / "made", patients=1, normal=3, odd=1)
    with pytest.raises(InputError, match="left out with a table"):
        open_pool(store, tmp_path / "made" / "truth.csv", tmp_path / "pool", WitnessConfig(classes=("BLA",)))
    (tmp_path / "other.csv").write_text("slide,cell,odd\nq,q:1,0\n")
    with pytest.raises(InputError, match="none of them in it"):
        open_pool(store, tmp_path / "other.csv", tmp_path / "pool", WitnessConfig())
