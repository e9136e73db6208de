import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.drawn_pictures import brightened, drawn_pictures, encoded, shrunken

from milscope.check import check
from milscope.configs import CheckConfig, TileConfig
from milscope.tile import tile
from milscope.types import InputError

CONFIG = CheckConfig(workers=1, draws=100, few=3)
SLIDES, CELLS = 16, 6


@pytest.fixture
def crops(tmp_path):
    """16 slides of 6 different cells each, as crops, and their table."""
    pictures = drawn_pictures(SLIDES * CELLS)
    for number, picture in enumerate(pictures):
        folder = tmp_path / "cells" / f"s{number // CELLS:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number % CELLS}.png").write_bytes(encoded(picture))
    table = pd.DataFrame({"slide": [f"s{n:02d}" for n in range(SLIDES)], "patient": [f"p{n:02d}" for n in range(SLIDES)],
                          "split": np.repeat(["train", "validation", "test"], [8, 4, 4]), "y": np.arange(SLIDES) % 2})
    return tmp_path / "cells", table


def picture_of(folder, slide, cell):
    return np.asarray(Image.open(folder / slide / f"{cell}.png"))


def audited(tmp_path, crops, table=None, config=CONFIG):
    folder, given = crops
    table = given if table is None else table
    store = tile(given, tmp_path / "tile", cells=folder, config=TileConfig(size=48, workers=1)).directory
    done = check(table, tmp_path / "audit", cells=store, config=config)
    return done, json.loads((tmp_path / "audit" / "audit.json").read_text())


def levels(audit, name):
    return [finding["level"] for finding in audit["findings"] if finding["check"] == name]


def test_good_slides(tmp_path, crops):
    done, audit = audited(tmp_path, crops)
    assert (done.slides, done.cells, done.mend) == (16, 96, 0)
    for name in ("slide table", "patients", "splits", "cells", "duplicate slides", "duplicate cells"):
        assert levels(audit, name) == ["fine"], name
    assert levels(audit, "classes") == ["look"]  # two test patients of each class measure nothing
    assert pd.read_csv(tmp_path / "audit" / "duplicates.csv").empty
    assert {"class", "train", "8 (8)", "4 (4)"} & set(done.text.split("  "))
    assert done.text.splitlines()[0].startswith("16 slides of 16 patients, 96 cells. Nothing to mend")


@pytest.mark.parametrize(("source", "target", "level", "change"), [
    pytest.param("s00", "s15", "mend", lambda pixels: pixels, id="identical, train and test"),
    pytest.param("s00", "s01", "look", lambda pixels: pixels, id="identical, both train"),
    pytest.param("s14", "s09", "mend", lambda pixels: pixels, id="identical, test and validation"),
    pytest.param("s00", "s15", "mend", shrunken, id="smaller, train and test"),
    pytest.param("s14", "s09", "mend", brightened, id="brighter, test and validation")])
def test_a_cell_on_two_slides(tmp_path, crops, source, target, level, change):
    folder, _ = crops
    (folder / target / "copy.png").write_bytes(encoded(change(picture_of(folder, source, 2))))
    done, audit = audited(tmp_path, crops)
    assert levels(audit, "duplicate cells")[0] == level
    (pair,) = [word for each in audit["findings"] if each["check"] == "duplicate cells" and each["level"] == level
               for word in each["names"] if "share" in word]
    first, second = sorted((source, target))
    assert pair.startswith(f"{first} and {second}")
    assert pair.endswith("share 1")
    listed = pd.read_csv(tmp_path / "audit" / "duplicates.csv")
    assert sorted(listed["cell"]) == sorted([f"{source}/2.png", f"{target}/copy.png"])
    assert done.mend == (level == "mend")


def test_the_same_patient_may_have_a_cell_twice(tmp_path, crops):
    folder, table = crops
    (folder / "s01" / "copy.png").write_bytes(encoded(picture_of(folder, "s00", 2)))
    same = table.assign(patient=["p00", "p00", *table["patient"][2:]])
    _, audit = audited(tmp_path, crops, same)
    (finding,) = [each for each in audit["findings"] if each["check"] == "duplicate cells" and "patient's" in each["says"]]
    assert finding["says"].startswith("1 cell (1.0%)")
    assert any("both classes" in each["says"] for each in audit["findings"] if each["check"] == "duplicate cells")


def test_a_slide_under_two_names(tmp_path, crops):
    folder, _ = crops
    for cell in range(CELLS):
        (folder / "s13" / f"{cell}.png").write_bytes(encoded(picture_of(folder, "s02", cell), "PNG", compress_level=1))
    _, audit = audited(tmp_path, crops)
    (finding,) = [each for each in audit["findings"] if each["check"] == "duplicate slides"]
    assert (finding["level"], finding["names"]) == ("mend", ["s02 and s13 (6 of 6 cells)"])


def test_empty_pictures_are_no_duplicates(tmp_path, crops):
    folder, _ = crops
    for slide in ("s00", "s15"):
        (folder / slide / "glass.png").write_bytes(encoded(np.full((48, 48, 3), 230, np.uint8)))
    _, audit = audited(tmp_path, crops)
    assert levels(audit, "duplicate cells") == ["fine"]


def test_few_cells_and_none(tmp_path, crops):
    folder, _ = crops
    for cell in range(4):
        (folder / "s05" / f"{cell}.png").unlink()
    for cell in range(CELLS):
        (folder / "s06" / f"{cell}.png").write_bytes(b"")
    _, audit = audited(tmp_path, crops)
    says = {each["level"]: each["names"] for each in audit["findings"] if each["check"] == "cells"}
    assert says["look"] == ["s05 (2)"]
    assert says["mend"][0].startswith("s06 (")
    assert audit["cells"] == 96 - 4 - 6


@pytest.mark.parametrize("damaged", [1, SLIDES])
def test_files_of_cells_that_are_damaged_are_named(tmp_path, crops, damaged):
    folder, table = crops
    store = tile(table, tmp_path / "tile", cells=folder, config=TileConfig(size=48, workers=1)).directory
    for slide in table["slide"][:damaged]:
        (store / f"{slide}.arrow").write_bytes(b"ARROW1")
    done = check(table, cells=store, config=CONFIG)
    assert any("cannot be read: s00 (" in warning for warning in done.warnings)
    assert done.cells == (SLIDES - damaged) * CELLS


def test_a_scanner_that_tells_the_label_is_warned_of(tmp_path, crops):
    _, table = crops
    _, audit = audited(tmp_path, crops, table.assign(scanner=np.where(table["y"] == 1, "A", "B")))
    assert levels(audit, "shortcuts")[0] == "look"
    (told,) = [each for each in audit["told_by"] if each["attribute"] == "`scanner`"]
    assert (told["auc"], told["warns"], told["detail"]) == (1, True, "B: 0 of 8, A: 8 of 8 positive")
    assert any("`scanner`" in warning for warning in audit["warnings"])


def test_cell_colour_that_tells_the_label_is_told_as_a_look(tmp_path, crops):
    folder, table = crops
    for slide in table["slide"][table["y"] == 1]:
        for path in (folder / slide).iterdir():
            path.write_bytes(encoded(brightened(np.asarray(Image.open(path)), 0.5)))
    _, audit = audited(tmp_path, crops)
    (told,) = [each for each in audit["told_by"] if each["attribute"] == "mean colour"]
    assert (told["family"], told["warns"]) == ("looks", True)
    assert told["auc"] > 0.95


def test_a_patient_in_two_splits_does_not_stop_it(tmp_path, crops):
    _, table = crops
    done, audit = audited(tmp_path, crops, table.assign(patient=["p15", *table["patient"][1:]]))
    assert done.mend == 1
    assert "p15 (train, test)" in done.text
    assert levels(audit, "splits") == ["mend"]


@pytest.mark.parametrize(("labels", "says"), [
    ([0] * 12 + [1] * 4, "No train slide is positive"), ([1] * 16, "alike: positive"), ([""] * 16, "alike: none is known")])
def test_classes_that_are_missing(crops, labels, says):
    _, table = crops
    done = check(table.assign(y=labels), config=CONFIG)
    assert done.mend >= 1
    assert any(says in warning for warning in done.warnings)


def test_images_and_their_table(tmp_path):
    for number, picture in enumerate(drawn_pictures(4, side=64)):
        Image.fromarray(picture).save(tmp_path / f"s{number}.png")
    (tmp_path / "s4.png").write_bytes((tmp_path / "s0.png").read_bytes())
    (tmp_path / "s5.png").write_bytes(b"")
    table = pd.DataFrame({"slide": [f"s{n}" for n in range(7)], "y": [0, 1, 0, 1, 0, 1, 0]})
    done = check(table, images=tmp_path, config=CONFIG)
    assert "s0 and s4 (the same file)" in done.text
    assert "1 slide has no image: s6" in done.text
    assert "s5 (the file is empty)" in done.text
    assert done.directory is None


def test_thumbnails_that_are_alike(tmp_path):
    for number, picture in enumerate(drawn_pictures(6, side=96)):
        Image.fromarray(picture).save(tmp_path / f"s{number}.png")
    Image.fromarray(brightened(drawn_pictures(6, side=96)[1])).save(tmp_path / "s6.png")
    table = pd.DataFrame({"slide": [f"s{n}" for n in range(7)], "y": [0, 1, 0, 1, 0, 1, 0]})
    pd.DataFrame({"slide": table["slide"], "x": np.arange(20, 90, 10), "y": 40}).to_csv(tmp_path / "places.csv", index=False)
    store = tile(table, tmp_path / "tile", cells=tmp_path / "places.csv", images=tmp_path,
                 config=TileConfig(size=24, workers=1)).directory
    done = check(table, cells=store, config=CONFIG)
    assert "s1 and s6 (thumbnails alike)" in done.text


def test_cells_found_twice(tmp_path):
    Image.fromarray(drawn_pictures(1, side=96)[0]).save(tmp_path / "a.png")
    pd.DataFrame({"slide": "a", "x": [30, 31, 60], "y": [30, 30, 60]}).to_csv(tmp_path / "places.csv", index=False)
    table = pd.DataFrame({"slide": ["a"]})
    store = tile(table, tmp_path / "tile", cells=tmp_path / "places.csv", images=tmp_path,
                 config=TileConfig(size=24, workers=1)).directory
    assert "1 cell on 1 slide lies on top of another: a." in " ".join(check(table, cells=store, config=CONFIG).text.split())


def test_columns_of_several_classes_when_asked(crops):
    _, table = crops
    table = table.assign(grade=["low", "mid", "high", "low"] * 4, site=["x", "y"] * 8)
    done = check(table, config=CheckConfig(task="grade,y", workers=1, draws=100))
    assert "grade  high" in " ".join(done.text.split(" ")).replace("   ", "  ")
    assert "What tells `y`" in done.text


def test_it_is_an_artifact(tmp_path, crops):
    done, _ = audited(tmp_path, crops)
    stamp = (tmp_path / "audit" / "manifest.json").stat().st_mtime_ns
    again, _ = audited(tmp_path, crops)
    assert again == done
    assert (tmp_path / "audit" / "manifest.json").stat().st_mtime_ns == stamp
    other, _ = audited(tmp_path, crops, crops[1].assign(y=1 - crops[1]["y"]))
    assert (tmp_path / "audit" / "manifest.json").stat().st_mtime_ns != stamp
    manifest = json.loads((tmp_path / "audit" / "manifest.json").read_text())
    assert manifest["kind"] == "audit"
    assert manifest["summary"]["warnings"] == list(other.warnings)
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == [
        "audit.json", "audit.md", "duplicates.csv", "manifest.json"]
    page = (tmp_path / "audit" / "audit.md").read_text()
    assert all(each["says"].replace("|", "\\|") in page for each in json.loads(
        (tmp_path / "audit" / "audit.json").read_text())["findings"])


def test_row_order_and_processes_change_nothing(tmp_path, crops):
    _, one = audited(tmp_path, crops)
    _, two = audited(tmp_path, crops, crops[1], CheckConfig(workers=2, draws=100, few=3))
    assert one == two
    shuffled = check(crops[1].sample(frac=1, random_state=0), cells=tmp_path / "tile", config=CONFIG)
    assert {line for line in shuffled.warnings if "AUC" not in line} == {line for line in one["warnings"] if "AUC" not in line}


@pytest.mark.parametrize(("options", "says"), [
    ({"config": CheckConfig(task="z")}, "z"), ({"config": CheckConfig(about=("z",))}, "z"),
    ({"config": CheckConfig(alike=0.2)}, "alike"), ({"config": CheckConfig(draws=3)}, "draws"),
    ({"images": "/nowhere"}, "nowhere"), ({"cells": "/nowhere"}, "cells")])
def test_refuses(crops, options, says):
    with pytest.raises(InputError, match=says):
        check(crops[1], **options)
