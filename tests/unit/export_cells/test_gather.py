import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from milscope.configs import ExportCellsConfig, TileConfig
from milscope.export_cells._gather import corner, gather
from milscope.slides import decode_pixels, open_slide
from milscope.types import InputError


def gathered(run, **given):
    config = ExportCellsConfig(**{name: given.pop(name) for name in ("task", "k") if name in given})
    return gather(run, config, **{"verdicts": None, "cells": None, **given})


def cut_again(slide, row, shift=0.0):
    """The pixels at the exported box, and those that were kept of the cell."""
    kept = decode_pixels(row["image"])
    with open_slide(slide.file) as reader:
        box = (row["left"] + shift, row["top"])
        return reader.region(box, (row["width"], row["height"]), kept.shape[1::-1]).astype(float), kept.astype(float)


def test_the_box_of_every_cell_holds_its_own_pixels_also_at_the_border(run):
    given = gathered(run)
    assert given.slides == ["a", "b b"]
    for name in given.slides:
        slide = given.read(name, images=True)
        assert len(slide.cells) == 12
        for row in slide.cells.to_dict("records"):
            again, kept = cut_again(slide, row)
            assert np.array_equal(again, kept)
        assert (slide.cells["left"] + slide.cells["width"]).max() <= slide.frame.width
        assert slide.cells["left"].min() >= 0


def test_a_resampled_cell_lies_where_it_fits_best(make_run, run, tmp_path):
    images = {"a": gathered(run).read("a", images=False).file}
    places = pd.DataFrame({"slide": "a", "x": np.linspace(30, 380, 9) + 0.3, "y": np.linspace(40, 250, 9)})
    slide = gathered(make_run(images, places, TileConfig(size=24, mpp=0.7, workers=1, quality=100))).read("a", images=True)
    assert slide.cells["width"].iloc[0] == pytest.approx(24 * 1.4)
    for row in slide.cells.to_dict("records"):
        wrong = {}
        for shift in (-2.0, -1.0, 0.0, 1.0, 2.0):
            again, kept = cut_again(slide, row, shift)
            wrong[shift] = np.abs(again - kept).mean()
        assert min(wrong, key=wrong.get) == 0
        assert wrong[0] < 0.5


@pytest.mark.skipif("MILSCOPE_DATA" not in os.environ, reason="needs MILSCOPE_DATA")
def test_cells_of_a_real_slide_lie_where_they_were_cut(make_run):
    file = Path(os.environ["MILSCOPE_DATA"]) / "wsi" / "CMU-1-Small-Region.svs"
    random = np.random.default_rng(0)
    places = pd.DataFrame({"slide": "real", "x": random.uniform(0, 2220, 10), "y": random.uniform(0, 2967, 10)})
    slide = gathered(make_run({"real": file}, places, TileConfig(size=64, workers=1, quality=100))).read("real", images=True)
    for row in slide.cells.to_dict("records"):
        again, kept = cut_again(slide, row)
        assert np.array_equal(again, kept)


def test_where_a_box_begins():
    centre, extent = np.array([5.0, 50.3, 99.0, np.nan]), np.full(4, 20.0)
    assert corner(centre, extent, 100, 20)[:3].tolist() == [0, 40, 80]
    assert corner(centre, extent, 100, 10)[:3].tolist() == pytest.approx([0, 40.3, 80])
    assert corner(centre, extent, np.nan, 0)[:3].tolist() == pytest.approx([-5, 40.3, 89])
    assert np.isnan(corner(centre, extent, 100, 20)[3])


def test_cells_of_a_grid_are_tiles(make_run, run):
    images = {"a": gathered(run).read("a", images=False).file}
    tiles = make_run(images, None, TileConfig(size=64, overlap=16, workers=1, foreground=0.0))
    assert gathered(tiles).read("a", images=False).on_grid
    assert not gathered(run).read("a", images=False).on_grid


def test_other_tasks_and_fewer_cells(run):
    main, clue = (gathered(run, task=task, k=5).read("a", images=False).cells for task in ("abnormal", "clue"))
    assert main["rank"].tolist() == clue["rank"].tolist() == [1, 2, 3, 4, 5]
    assert not set(main["cell"]) & set(clue["cell"])
    with pytest.raises(InputError, match=r"by which cells were ranked: abnormal, clue\. Found age"):
        gathered(run, task="age")


def test_the_main_task_has_its_name_from_whatever_scored_it(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "predict").rename(tmp_path / "run" / "seek")
    assert gathered(tmp_path / "run", task="abnormal").folder == tmp_path / "run" / "retrieve"


def test_verdicts_are_found_by_name_or_place_and_lost_ones_counted(run, tmp_path):
    cells = gathered(run).read("a", images=False).cells
    table = pd.DataFrame({"slide": "a", "cell": [*cells["cell"][:4], "gone"],
                          "verdict": ["abnormal", "artefact", "unsure", "normal", "normal"],
                          "label": ["1", "0", "", "0", "0"]})
    table.to_csv(tmp_path / "verdicts.csv", index=False)
    given = gathered(run, verdicts=tmp_path / "verdicts.csv")
    assert given.read("a", images=False).cells["verdict"].tolist() == ["abnormal", "artefact", "unsure", "normal", *[""] * 8]
    assert set(given.read("b b", images=False).cells["verdict"]) == {""}
    assert given.warnings == ["1 of the verdicts are on cells that are not among the ranked, and are left out"]
    pd.DataFrame({"slide": "a", "x": cells["x"][:2], "y": cells["y"][:2], "label": [0, 1]}).to_csv(
        tmp_path / "places.csv", index=False)
    by_place = gathered(run, verdicts=tmp_path / "places.csv").read("a", images=False).cells
    assert by_place["verdict"].tolist() == ["normal", "abnormal", *[""] * 10]


def test_verdicts_of_another_run_are_refused(run, tmp_path):
    pd.DataFrame({"slide": ["c"], "cell": ["c:1"], "label": [1]}).to_csv(tmp_path / "verdicts.csv", index=False)
    with pytest.raises(InputError, match=r"among the ranked\. Found none of 1"):
        gathered(run, verdicts=tmp_path / "verdicts.csv")


def test_without_the_cells_of_tile_places_are_as_they_were_ranked(run, crops_run, tmp_path):
    (tmp_path / "alone").symlink_to(run / "retrieve")
    given = gathered(tmp_path / "alone")
    assert "--cells" in given.warnings[0]
    slide = given.read("a", images=False)
    assert slide.file is None
    assert np.isnan(slide.frame.width)
    assert gathered(tmp_path / "alone", cells=run / "tile").read("a", images=False).file.name == "a.png"
    with pytest.raises(InputError, match="`cells` should be those that were ranked"):
        gathered(run, cells=crops_run / "tile")
