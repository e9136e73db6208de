import json
import uuid

import geojson
import numpy as np
import pandas as pd
import pytest

from milscope.configs import ExportCellsConfig
from milscope.export_cells import export_cells
from milscope.export_cells._gather import gather
from milscope.export_cells._qupath import COLOURS, write_geojson
from milscope.slides import read_geojson


@pytest.fixture
def slide(run):
    return gather(run, ExportCellsConfig(), verdicts=None, cells=None).read("a", images=False)


def written(slide, folder):
    write_geojson(slide, folder)
    return geojson.loads((folder / f"{slide.name}.geojson").read_text())


def test_it_is_valid_geojson_of_detections_with_measurements(slide, tmp_path):
    found = written(slide, tmp_path)
    assert found.is_valid, found.errors()
    assert all(feature.is_valid for feature in found["features"])
    for feature, row in zip(found["features"], slide.cells.to_dict("records"), strict=True):
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["measurements"] == {"milscope: score": row["score"], "milscope: rank": row["rank"]}
        assert "classification" not in feature["properties"]
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert ring.min(0).tolist() == [row["left"], row["top"]]
        assert ring.max(0).tolist() == [row["left"] + row["width"], row["top"] + row["height"]]
        x, y = ring.T
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0  # one sense of rotation, whatever the axis of y
    assert len({feature["id"] for feature in found["features"]}) == len(slide.cells)


def test_tiles_of_a_grid_are_tiles_and_judged_cells_have_a_class(slide, tmp_path):
    judged = slide.cells.assign(verdict=["abnormal", "", *["normal"] * (len(slide.cells) - 2)])
    first, second, *_ = written(slide._replace(cells=judged, on_grid=True), tmp_path)["features"]
    assert first["properties"]["objectType"] == "tile"
    shown = "#{:02x}{:02x}{:02x}".format(*first["properties"]["classification"]["color"])
    assert (first["properties"]["classification"]["name"], shown) == ("abnormal", COLOURS["abnormal"])
    assert "classification" not in second["properties"]


def test_cells_without_a_place_are_left_out(slide, tmp_path):
    cells = slide.cells.copy()
    cells.loc[2, ["x", "y", "left", "top"]] = np.nan
    found = written(slide._replace(cells=cells), tmp_path)
    assert len(found["features"]) == len(cells) - 1


def test_milscope_reads_its_own_geojson_as_cells(run, tmp_path):
    export_cells(run, tmp_path / "out", ExportCellsConfig(to=("qupath", "csv")))
    table = pd.read_csv(tmp_path / "out" / "cells.csv")
    for slide, rows in table.groupby("slide"):
        found = read_geojson(tmp_path / "out" / "qupath" / f"{slide}.geojson", slide)
        assert found["cell"].tolist() == rows["cell"].tolist()
        assert found["x"].tolist() == pytest.approx((rows["left"] + rows["width"] / 2).tolist())
        assert found["y"].tolist() == pytest.approx((rows["top"] + rows["height"] / 2).tolist())


def test_names_of_any_script_and_quotes_survive(slide, tmp_path):
    odd = slide._replace(cells=slide.cells.assign(cell=[f'zelle "{n}" ü/細胞' for n in range(len(slide.cells))]))
    assert written(odd, tmp_path)["features"][0]["properties"]["name"] == 'zelle "0" ü/細胞'
    json.loads((tmp_path / "a.geojson").read_text())
