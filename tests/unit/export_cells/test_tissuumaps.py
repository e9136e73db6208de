import json
import math
from urllib.parse import unquote

import pandas as pd
import pytest
from PIL import Image

from milscope.configs import ExportCellsConfig
from milscope.export_cells import export_cells
from milscope.export_cells._gather import gather
from milscope.export_cells._qupath import COLOURS
from milscope.export_cells._tissuumaps import UNJUDGED, write_project
from milscope.store import Frame


@pytest.fixture
def slide(run):
    return gather(run, ExportCellsConfig(), verdicts=None, cells=None).read("b b", images=False)


def written(slide, folder):
    folder.mkdir()
    write_project(slide, folder)
    return json.loads((folder / f"{slide.name}.tmap").read_text())


def test_the_project_opens_the_image_and_the_cells_of_the_slide(run, slide, tmp_path):
    export_cells(run, tmp_path / "deep" / "out", ExportCellsConfig(to=("tissuumaps",)))
    folder = tmp_path / "deep" / "out" / "tissuumaps"
    project = json.loads((folder / "b b.tmap").read_text())
    source = unquote(project["layers"][0]["tileSource"])
    assert source.endswith(".dzi")
    assert (folder / source.removesuffix(".dzi")).resolve() == slide.file.resolve()
    assert project["mpp"] == 0.5
    markers = project["markerFiles"][0]
    cells = pd.read_csv(folder / unquote(markers["path"]))
    assert markers["expectedHeader"]["coord_factor"] == 1
    assert cells[markers["expectedHeader"]["X"]].tolist() == pytest.approx(slide.cells["x"].tolist())
    assert cells[markers["expectedHeader"]["cb_col"]].tolist() == pytest.approx(slide.cells["score"].tolist())


def test_where_the_image_is_gone_the_thumbnail_is_opened_at_its_scale(slide, tmp_path):
    large = tmp_path / "thumbnail.jpg"
    Image.new("RGB", (105, 75)).save(large)
    project = written(slide._replace(file=None, thumbnail=large, frame=Frame(420, 300, 0.5)), tmp_path / "out")
    assert project["layers"][0]["tileSource"] == "thumbnails/b%20b.jpg.dzi"
    assert (tmp_path / "out" / "thumbnails" / "b b.jpg").exists()
    assert project["markerFiles"][0]["expectedHeader"]["coord_factor"] == 0.25
    assert project["mpp"] == 2.0


def test_without_any_picture_the_cells_alone_are_there(slide, tmp_path):
    project = written(slide._replace(file=None, thumbnail=None, frame=Frame(math.nan, math.nan, math.nan)), tmp_path / "out")
    assert project["layers"] == []
    assert "mpp" not in project


def test_judged_cells_are_shown_by_verdict(slide, tmp_path):
    cells = slide.cells.assign(verdict=["abnormal", "mitosis", *[""] * (len(slide.cells) - 2)])
    markers = written(slide._replace(cells=cells), tmp_path / "out")["markerFiles"][0]
    shown = pd.read_csv(tmp_path / "out" / "b b.csv")[markers["expectedHeader"]["gb_col"]]
    assert shown.tolist() == ["abnormal", "mitosis", *[UNJUDGED] * (len(cells) - 2)]
    colours = json.loads(markers["expectedHeader"]["cb_gr_dict"])
    assert set(shown) <= set(colours)
    assert colours["abnormal"] == COLOURS["abnormal"]
    assert markers["expectedRadios"]["cb_gr_dict"]
