import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milscope.configs import TileConfig
from milscope.slides import DamagedError, decode_pixels, folder_cells
from milscope.store import CellStore
from milscope.tile import tile
from milscope.types import InputError

ALONE = TileConfig(size=16, workers=1, limit=0.0)


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
    assert sorted(content(result.directory)) == [
        "a.arrow", "b.arrow", "c.arrow", "failures.csv", "records.json", "slides.csv"]


def test_places(tmp_path, images):
    cells = places(tmp_path, [("a", 30, 40), ("a", 0, 0), ("b", 50, 50), ("b", 500, 5), ("z", 1, 1)])
    config = TileConfig(size=16, quality=100, workers=1, limit=0.0)
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
    result = tile(slides, tmp_path / "tile", config=TileConfig(size=16, mpp=0.5, workers=1, limit=0.0))
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
    assert sorted(content(result.directory)) == [
        "a.arrow", "failures.csv", "kept/a.jpg", "records.json", "slides.csv", "thumbnails/a.jpg"]


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
    config = TileConfig(size=16, mpp=0.5, workers=1, limit=0.0)
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


def inode(directory, slide):
    return (directory / f"{slide}.arrow").stat().st_ino


def test_one_new_slide_or_one_changed_slide_is_the_only_one_tiled(tmp_path, crops):
    out = tmp_path / "tile"
    tile(table("a", "b"), out, cells=crops, config=ALONE)
    before = {slide: inode(out, slide) for slide in "ab"}
    Image.fromarray(picture(9, 30, 30)).save(crops / "b" / "9.png")
    assert tile(table(), out, cells=crops, config=ALONE)[1:] == (3, 10, 0)
    assert inode(out, "a") == before["a"]
    assert inode(out, "b") != before["b"]
    tile(table(), tmp_path / "fresh", cells=crops, config=ALONE)
    assert content(out) == content(tmp_path / "fresh")
    tile(table("c"), out, cells=crops, config=ALONE)
    assert CellStore(out).slides == ["c"]
    assert not (out / "a.arrow").exists()


def test_only_slides_whose_places_changed_are_tiled_again(tmp_path, images):
    out = tmp_path / "tile"
    tile(table("a", "b"), out, cells=places(tmp_path, [("a", 30, 40), ("b", 50, 50)]), images=images, config=ALONE)
    before = {slide: inode(out, slide) for slide in "ab"}
    result = tile(table("a", "b"), out, cells=places(tmp_path, [("a", 30, 40), ("b", 50, 51)]), images=images, config=ALONE)
    assert result.cells == 2
    assert inode(out, "a") == before["a"]
    assert inode(out, "b") != before["b"]
    assert (out / "kept" / "a.jpg").exists()


def test_other_settings_tile_everything_again(tmp_path, images):
    out = tmp_path / "tile"
    tile(table(), out, images=images, config=ALONE)
    before = inode(out, "a")
    tile(table(), out, images=images, config=replace(ALONE, size=20))
    assert inode(out, "a") != before
    assert decode_pixels(CellStore(out).images("a", [0])[0]).shape == (20, 20, 3)


def test_failed_slides_are_tried_again_when_asked_and_then_later_stages_know(tmp_path, images, monkeypatch):
    slide, out = sys.modules["milscope.tile._slide"], tmp_path / "tile"
    original = slide.open_slide

    def out_of_order(path):
        if path.stem == "b":
            raise DamagedError("the share is down")
        return original(path)

    monkeypatch.setattr(slide, "open_slide", out_of_order)
    assert tile(table(), out, images=images, config=ALONE)[1:] == (2, 70, 1)
    first, before = CellStore(out).manifest.fingerprint, inode(out, "a")
    monkeypatch.setattr(slide, "open_slide", original)
    assert tile(table(), out, images=images, config=ALONE).failures == 1  # nothing has changed: nothing is tried
    assert tile(table(), out, images=images, config=replace(ALONE, retry_failed=True))[1:] == (3, 105, 0)
    assert inode(out, "a") == before
    mended = CellStore(out).manifest.fingerprint
    assert mended != first
    assert tile(table(), out, images=images, config=ALONE)[1:] == (3, 105, 0)
    assert CellStore(out).manifest.fingerprint == mended
    assert tile(table(), out, images=images, config=replace(ALONE, retry_failed=True))[1:] == (3, 105, 0)
    assert CellStore(out).manifest.fingerprint == mended


def test_overlapping_tiles(tmp_path, images):
    result = tile(table("a"), tmp_path / "tile", images=images, config=replace(ALONE, overlap=8, quality=100))
    rows = CellStore(result.directory).table("a").to_pylist()
    assert result.cells == 9 * 14
    assert [row["x"] for row in rows[:3]] == [8, 16, 24]
    for row in rows[:20]:
        left, top = int(row["x"] - 8), int(row["y"] - 8)
        assert (decode_pixels(row["image"]) == picture()[top : top + 16, left : left + 16]).all()


def test_a_scale_that_is_almost_asked_for_is_not_resampled(tmp_path, images):
    config = replace(ALONE, mpp=0.5, quality=100)
    result = tile(table("a", "b", mpp=[0.499, 0.48]), tmp_path / "tile", images=images, config=config)
    store = CellStore(result.directory)
    near, far = (store.table(slide).slice(0, 1).to_pylist()[0] for slide in "ab")
    assert (near["width"], near["mpp"]) == (16, 0.499)
    assert (decode_pixels(near["image"]) == picture()[:16, :16]).all()
    assert (far["width"], far["mpp"]) == (pytest.approx(16 * 0.5 / 0.48), 0.5)


def test_the_scale_of_slides_that_do_not_tell_theirs(tmp_path, images, crops):
    config = replace(ALONE, mpp=0.5, slide_mpp=0.25)
    store = CellStore(tile(table("a", "b", mpp=[0.5, None]), tmp_path / "tile", images=images, config=config).directory)
    assert [store.table(slide)["width"][0].as_py() for slide in "ab"] == [16, 32]
    assert store.frame("b").mpp == 0.25
    of_crops = tile(table("a"), tmp_path / "crops", cells=crops, config=replace(ALONE, slide_mpp=0.25))
    assert CellStore(of_crops.directory).table("a")["mpp"][0].as_py() == 0.25


def test_kept_cells_are_drawn(tmp_path, images):
    cells = places(tmp_path, [("a", 30, 40)])
    out = tile(table("a"), tmp_path / "tile", cells=cells, images=images, config=ALONE).directory
    with Image.open(out / "thumbnails" / "a.jpg") as plain, Image.open(out / "kept" / "a.jpg") as drawn:
        assert drawn.size == plain.size
        changed = np.abs(np.asarray(plain, float) - np.asarray(drawn, float)).mean(axis=2)
    assert changed[34:46, 24:36].mean() < 15 < changed[60:, 60:].mean()


@pytest.mark.parametrize(("options", "says"), [
    ({"overlap": 16}, "`overlap` should be from 0 pixels to less than `size`"),
    ({"limit": -1.0}, "`limit` should be above 0 seconds, or 0 for none"),
    ({"nucleus": 0.0}, "`nucleus` should be above 0 and at most 100 microns"),
    ({"slide_mpp": 0.0}, "`slide_mpp` should be above 0"),
])
def test_settings_out_of_range(tmp_path, images, options, says):
    with pytest.raises(InputError, match=says):
        tile(table(), tmp_path / "tile", images=images, config=replace(ALONE, **options))


@pytest.mark.parametrize(("options", "says"), [
    ({"find": "nuclei"}, "`find` should be left out where `cells` are given"),
    ({"overlap": 4}, "`overlap` should be 0 where cells are not tiles"),
    ({"mpp": 0.5}, "`mpp` should be empty for folders of crops"),
])
def test_settings_that_could_not_have_an_effect(tmp_path, crops, options, says):
    with pytest.raises(InputError, match=says):
        tile(table(), tmp_path / "tile", cells=crops, config=replace(ALONE, **options))


def test_an_interrupted_run_goes_on_with_the_slides_not_done(tmp_path, crops, monkeypatch):
    tile(table(), tmp_path / "whole", cells=crops, config=ALONE)
    done = []

    def interrupted(folder, mpp):
        done.append(folder.name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(folder, mpp)

    original = folder_cells
    monkeypatch.setattr(sys.modules["milscope.tile._slide"], "folder_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tile(table(), tmp_path / "tile", cells=crops, config=ALONE)
    assert not (tmp_path / "tile").exists()
    tile(table(), tmp_path / "tile", cells=crops, config=ALONE)
    assert done == ["a", "b", "b", "c"]
    assert content(tmp_path / "tile") == content(tmp_path / "whole")


def outline(x, y, half=4):
    ring = [[x - half, y - half], [x + half, y - half], [x + half, y + half], [x - half, y + half], [x - half, y - half]]
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "detection", "name": f"n{x}"}}


def test_a_folder_of_geojson_one_of_which_is_damaged(tmp_path, images):
    folder, out = tmp_path / "outlines", tmp_path / "tile"
    folder.mkdir()
    for slide, x in (("a", 30), ("b", 40)):
        features = {"type": "FeatureCollection", "features": [outline(x, 40), outline(x + 20, 40)]}
        (folder / f"{slide}.geojson").write_text(json.dumps(features))
    (folder / "c.geojson").write_text('{"type": "FeatureColl')
    assert tile(table(), out, cells=folder, images=images, config=ALONE)[1:] == (2, 4, 1)
    rows = CellStore(out).table("a").to_pylist()
    assert [(row["cell"], row["x"], row["y"]) for row in rows] == [("n30", 30, 40), ("n50", 50, 40)]
    ((slide, _, reason),) = failures(out)
    assert (slide, "GeoJSON" in reason) == ("c", True)
    before = inode(out, "a")
    features["features"].append(outline(80, 40))
    (folder / "b.geojson").write_text(json.dumps(features))
    assert tile(table(), out, cells=folder, images=images, config=ALONE)[1:] == (2, 5, 1)
    assert inode(out, "a") == before
    with pytest.raises(InputError, match="Make the names agree"):
        tile(table("x"), tmp_path / "other", cells=folder, images=images, config=ALONE)


def test_nuclei_are_found_where_the_scale_is_known(tmp_path, images):
    glass = np.full((200, 200, 3), 235, dtype=np.uint8)
    for x, y in ((50, 60), (140, 130)):
        rows, columns = np.ogrid[:200, :200]
        glass[(columns - x) ** 2 + (rows - y) ** 2 <= 8**2] = (90, 40, 110)
    Image.fromarray(glass).save(images / "n.png")
    config = replace(ALONE, find="nuclei", size=32)
    store = CellStore(tile(table("n", "a", mpp=[0.5, None]), tmp_path / "tile", images=images, config=config).directory)
    found = store.table("n").to_pandas()[["x", "y", "width"]].sort_values("x").to_numpy()
    np.testing.assert_allclose(found, [[50, 60, 32], [140, 130, 32]], atol=1.5)
    ((slide, _, reason),) = failures(store.directory)
    assert slide == "a"
    assert "nuclei are found by their size in microns" in reason
