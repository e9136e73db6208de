import os
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milscope.configs import TileConfig
from milscope.slides import decode_pixels, folder_cells
from milscope.store import CellStore
from milscope.tile import tile
from milscope.types import InputError

ALONE = TileConfig(size=16, workers=1)


def picture(seed=0, height=80, width=120):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def crops(tmp_path):
    for slide in ("a", "b", "c"):
        (tmp_path / "cells" / slide).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(i, 20, 24)).save(tmp_path / "cells" / slide / f"{i}.png")
    return tmp_path / "cells"


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for i, slide in enumerate(("a", "b", "c")):
        Image.fromarray(picture(i)).save(tmp_path / "images" / f"{slide}.png")
    return tmp_path / "images"


def table(*slides, **columns):
    return pd.DataFrame({"slide": slides or ("a", "b", "c"), **columns})


def places(tmp_path, rows):
    path = tmp_path / "places.csv"
    pd.DataFrame(rows, columns=["slide", "x", "y"]).to_csv(path, index=False)
    return path


def failures(directory):
    return pd.read_csv(directory / "failures.csv", keep_default_na=False).to_dict("split")["data"]


def content(directory):
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in sorted(directory.rglob("*"))
            if path.is_file() and path.name != "manifest.json"}


def test_crops(tmp_path, crops):
    result = tile(table(mpp=[0.5, None, None]), tmp_path / "tile", cells=crops, config=ALONE)
    assert result == (tmp_path / "tile", 3, 9, 0)
    store = CellStore(result.directory)
    assert store.slides == ["a", "b", "c"]
    rows = store.table("a").to_pylist()
    assert rows[1] == {"cell": "a/1.png", "x": None, "y": None, "width": 24.0, "height": 20.0, "mpp": 0.5,
                       "image": (crops / "a" / "1.png").read_bytes()}
    assert store.table("b")["mpp"].null_count == 3
    assert failures(result.directory) == []
    assert sorted(content(result.directory)) == ["a.arrow", "b.arrow", "c.arrow", "failures.csv", "slides.csv"]


def test_places(tmp_path, images):
    cells = places(tmp_path, [("a", 30, 40), ("a", 0, 0), ("b", 50, 50), ("b", 500, 5), ("z", 1, 1)])
    config = TileConfig(size=16, quality=100, workers=1)
    result = tile(table("a", "b"), tmp_path / "tile", cells=cells, images=images, config=config)
    assert result[1:] == (2, 3, 1)
    (row, corner) = CellStore(result.directory).table("a").to_pylist()
    assert (row["cell"], row["x"], row["y"], row["width"], row["mpp"]) == ("a:30,40", 30, 40, 16, None)
    assert (decode_pixels(row["image"]) == picture()[32:48, 22:38]).all()
    assert (decode_pixels(corner["image"]) == picture()[:16, :16]).all()
    ((slide, cell, reason),) = failures(result.directory)
    assert (slide, cell) == ("b", "b:500,5")
    assert "outside" in reason
    summary = pd.read_csv(result.directory / "slides.csv")
    assert summary[["cells", "skipped", "width", "height"]].to_numpy().tolist() == [[2, 0, 120, 80], [1, 1, 120, 80]]
    with Image.open(result.directory / "thumbnails" / "a.jpg") as thumbnail:
        assert thumbnail.size == (120, 80)


def test_grid_and_scale_of_the_table(tmp_path, images):
    slides = table("a", "b", mpp=[0.25, 0.5], file=[str(images / "a.png"), str(images / "b.png")])
    result = tile(slides, tmp_path / "tile", config=TileConfig(size=16, mpp=0.5, workers=1))
    store = CellStore(result.directory)
    first = {slide: store.table(slide).slice(0, 1).to_pylist()[0] for slide in store.slides}
    assert (first["a"]["width"], first["a"]["mpp"], first["b"]["width"]) == (32, 0.5, 16)
    assert decode_pixels(first["a"]["image"]).shape == (16, 16, 3)
    assert [store.count(slide) for slide in store.slides] == [6, 35]


def test_one_bad_slide_never_stops_the_others(tmp_path, images):
    (images / "b.png").write_text("no image")
    os.truncate(images / "c.png", 0)
    (images / "d.jpg").touch()
    (images / "d.png").touch()
    Image.fromarray(np.full((80, 80, 3), 250, dtype=np.uint8)).save(images / "f.png")
    result = tile(table(*"abcdef"), tmp_path / "tile", images=images, config=ALONE)
    assert result[1:] == (1, 35, 5)
    assert CellStore(result.directory).slides == ["a"]
    reasons = {slide: reason for slide, _, reason in failures(result.directory)}
    for slide, says in {"b": "not an image", "c": "the file is empty", "d": "several images", "e": "no image e.*",
                        "f": "none is stained"}.items():
        assert says in reasons[slide]
    assert sorted(content(result.directory)) == ["a.arrow", "failures.csv", "slides.csv", "thumbnails/a.jpg"]


def test_damaged_cells_are_named_and_counted(tmp_path, crops):
    os.truncate(crops / "a" / "1.png", 100)
    for i in range(3):
        os.truncate(crops / "b" / f"{i}.png", 0)
    shutil.rmtree(crops / "c")
    result = tile(table(), tmp_path / "tile", cells=crops, config=ALONE)
    assert result[1:] == (1, 2, 6)
    found = failures(result.directory)
    assert [(slide, cell) for slide, cell, _ in found] == [
        ("a", "a/1.png"), ("b", ""), ("b", "b/0.png"), ("b", "b/1.png"), ("b", "b/2.png"), ("c", "")]
    assert pd.read_csv(result.directory / "slides.csv")["skipped"].tolist() == [1]


def test_unknown_scale_is_a_failure_that_says_what_to_do(tmp_path, images):
    config = TileConfig(size=16, mpp=0.5, workers=1)
    result = tile(table("a", "b", mpp=[0.5, None]), tmp_path / "tile", images=images, config=config)
    ((slide, _, reason),) = failures(result.directory)
    assert slide == "b"
    assert "column `mpp`" in reason
    with pytest.raises(InputError, match="column `mpp`"):
        tile(table("a", "b"), tmp_path / "other", images=images, config=config)
    assert not (tmp_path / "other").exists()


def test_processes_and_row_order_change_nothing(tmp_path, crops):
    tile(table(), tmp_path / "one", cells=crops, config=ALONE)
    tile(table("c", "a", "b"), tmp_path / "two", cells=crops, config=TileConfig(size=16, workers=2))
    assert content(tmp_path / "one") == content(tmp_path / "two")


def stamp(directory):
    return (directory / "manifest.json").stat().st_mtime_ns


def test_new_labels_and_split_do_not_retile_but_new_cells_do(tmp_path, crops):
    out = tmp_path / "tile"
    tile(table(y=[0, 1, 1]), out, cells=crops, config=ALONE)
    before = stamp(out)
    tile(table("b", "a", "c", y=[1, 1, 0], split=["train", "test", "test"]), out, cells=crops, config=ALONE)
    tile(table(), out, cells=crops, config=TileConfig(size=16, workers=2))
    assert stamp(out) == before
    Image.fromarray(picture(9, 30, 30)).save(crops / "a" / "9.png")
    assert tile(table(), out, cells=crops, config=ALONE).cells == 10
    assert stamp(out) != before


def test_an_interrupted_run_goes_on_with_the_slides_not_done(tmp_path, crops, monkeypatch):
    tile(table(), tmp_path / "whole", cells=crops, config=ALONE)
    done = []

    def interrupted(folder, mpp):
        done.append(folder.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(folder, mpp)

    original = folder_cells
    monkeypatch.setattr(sys.modules["milscope.tile"], "folder_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tile(table(), tmp_path / "tile", cells=crops, config=ALONE)
    assert not (tmp_path / "tile").exists()
    tile(table(), tmp_path / "tile", cells=crops, config=ALONE)
    assert done == ["a", "b", "b", "c"]
    assert content(tmp_path / "tile") == content(tmp_path / "whole")
