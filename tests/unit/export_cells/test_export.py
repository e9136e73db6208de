import pandas as pd
import pytest

from milscope.configs import ExportCellsConfig
from milscope.export_cells import FORMATS, export_cells
from milscope.types import InputError


def test_all_forms_at_once_from_the_run_or_its_ranked_cells(run, tmp_path):
    result = export_cells(run, tmp_path / "out", ExportCellsConfig(to=FORMATS, k=7))
    assert result == (tmp_path / "out", 2, 14, [])
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert {"cells.csv", "cells.parquet", "qupath/a.geojson", "qupath/b b.geojson", "tissuumaps/a.tmap", "tissuumaps/a.csv",
            "crops/a", "manifest.json"} <= names
    csv, parquet = pd.read_csv(tmp_path / "out" / "cells.csv"), pd.read_parquet(tmp_path / "out" / "cells.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    assert csv.columns.tolist() == ["slide", "rank", "cell", "score", "x", "y", "width", "height", "left", "top"]
    export_cells(run / "retrieve", tmp_path / "again", ExportCellsConfig(to=("csv",), k=7))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "cells.csv"), csv)


def test_crops_become_tables_and_files_but_no_geojson(crops_run, tmp_path):
    with pytest.raises(InputError, match=r"^`to` should be csv, parquet or crops for cells without a place"):
        export_cells(crops_run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_cells(crops_run, tmp_path / "out", ExportCellsConfig(to=("csv", "parquet", "crops")))[1:3] == (1, 4)
    assert len(list((tmp_path / "out" / "crops" / "c").glob("*_c_?.jpg"))) == 4
    assert pd.read_csv(tmp_path / "out" / "cells.csv")["x"].isna().all()


@pytest.mark.parametrize(("config", "line"), [
    ({"to": ("qupath", "excel")}, "`to` should be some of qupath, tissuumaps, csv, parquet, crops. Found excel"),
    ({"to": ()}, "Found none"),
    ({"k": -1}, "`k` should be 0 or more. Found -1"),
])
def test_odd_settings_are_refused_before_anything_is_written(run, tmp_path, config, line):
    with pytest.raises(InputError) as error:
        export_cells(run, tmp_path / "out", ExportCellsConfig(**config))
    assert line in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_verdicts_make_it_again(run, tmp_path):
    config = ExportCellsConfig(to=("csv",))
    export_cells(run, tmp_path / "out", config)
    cell = pd.read_csv(tmp_path / "out" / "cells.csv")["cell"][0]
    pd.DataFrame({"slide": ["a"], "cell": [cell], "label": [1]}).to_csv(tmp_path / "verdicts.csv", index=False)
    export_cells(run, tmp_path / "out", config, verdicts=tmp_path / "verdicts.csv")
    assert pd.read_csv(tmp_path / "out" / "cells.csv")["verdict"][0] == "abnormal"


def test_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="a finished `ranked` artifact"):
        export_cells(tmp_path, tmp_path / "out")
