import json
import shutil
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.fake_scores import cell_table, slide_table, write_cells, write_scores

from milscope.configs import RetrieveConfig
from milscope.retrieve import COLUMNS, retrieve
from milscope.types import InputError

module = sys.modules["milscope.retrieve"]  # the module, not the function of the same name


@pytest.fixture
def run(tmp_path):
    slides = slide_table()
    cells = cell_table(slides)
    return write_scores(tmp_path / "predict", slides, cells), write_cells(tmp_path / "tile", cells), cells, tmp_path / "out"


def ranked(out):
    return pd.read_csv(out / "ranked.csv")


def images(out, slide):
    with pa.memory_map(str(out / f"{slide}.arrow")) as file:
        return pa.ipc.open_file(file).read_all()


@pytest.mark.parametrize("rank", ["attention", "evidence"])
def test_the_best_k_of_each_slide_best_first_with_their_own_pixels_and_places(run, rank):
    scores, store, cells, out = run
    result = retrieve(scores, store, out, RetrieveConfig(k=5, rank=rank))
    assert result[:3] == (out, 12, 60)
    table = ranked(out)
    assert tuple(table.columns) == COLUMNS
    for slide, rows in cells.groupby("slide"):
        best = rows.sort_values(rank, ascending=False).head(5)
        shown = table[table["slide"] == slide]
        assert shown["cell"].tolist() == best["cell"].tolist()
        assert shown["rank"].tolist() == [1, 2, 3, 4, 5]
        assert shown["score"].to_numpy() == pytest.approx(best[rank].to_numpy())
        places = ["x", "y", "width", "height"]
        assert shown[places].to_numpy().tolist() == best[places].to_numpy().tolist()
        arrow = images(out, slide)
        assert arrow["image"].to_pylist() == [cell.encode() for cell in best["cell"]]
        assert arrow.column_names == [*COLUMNS, "image"]
        assert arrow["cell"].to_pylist() == best["cell"].tolist()


def test_every_other_task_has_its_own_best_cells(run, tmp_path):
    _, store, cells, out = run
    both = cells.assign(**{"attention:clue": cells["attention"], "evidence:clue": -cells["evidence"]})
    scores = write_scores(tmp_path / "both", slide_table(), both)
    assert retrieve(scores, store, out, RetrieveConfig(k=4))[:3] == (out, 12, 48)
    retrieve(run[0], store, tmp_path / "alone", RetrieveConfig(k=4))
    assert (out / "ranked.csv").read_bytes() == (tmp_path / "alone" / "ranked.csv").read_bytes()
    table = ranked(out / "tasks" / "clue")
    for slide, rows in cells.groupby("slide"):
        worst = rows.sort_values("evidence").head(4)["cell"].tolist()
        assert table.loc[table["slide"] == slide, "cell"].tolist() == worst
        assert images(out / "tasks" / "clue", slide)["image"].to_pylist() == [cell.encode() for cell in worst]
    with pytest.raises(InputError, match="`rank` should be evidence or attention"):
        retrieve(scores, store, tmp_path / "routed", RetrieveConfig(rank="routing"))
    assert not (tmp_path / "routed").exists()


def test_a_small_slide_gives_all_it_has(run):
    scores, store, cells, out = run
    assert retrieve(scores, store, out).cells == len(cells)


def test_equal_scores_stay_in_the_order_of_the_store(run, tmp_path):
    _, store, cells, out = run
    scores = write_scores(tmp_path / "equal", slide_table(), cells.assign(attention=np.float32(0.5)))
    retrieve(scores, store, out, RetrieveConfig(k=4, rank="attention"))
    assert ranked(out).query("slide == 'S03'")["cell"].tolist() == ["S03:0", "S03:1", "S03:2", "S03:3"]


def test_cells_without_a_place_have_none(tmp_path):
    slides = slide_table(2)
    cells = cell_table(slides, 3, places=False)
    retrieve(write_scores(tmp_path / "p", slides, cells), write_cells(tmp_path / "t", cells), tmp_path / "out")
    assert ranked(tmp_path / "out")[["x", "y"]].isna().to_numpy().all()
    assert images(tmp_path / "out", "S00")["x"].null_count == 3


@pytest.mark.parametrize("k", [0, -1])
def test_no_cell_is_no_answer(run, k):
    scores, store, _, out = run
    with pytest.raises(InputError, match="`k` should be at least 1"):
        retrieve(scores, store, out, RetrieveConfig(k=k))
    assert not out.exists()


def test_an_unknown_ranking_is_refused(run):
    with pytest.raises(InputError, match="`rank` should be one of attention, evidence"):
        retrieve(*run[:2], run[3], RetrieveConfig(rank="luck"))


def test_another_store_is_refused(run, tmp_path):
    scores, _, cells, out = run
    without_slide = write_cells(tmp_path / "fewer", cells[cells["slide"] != "S05"])
    with pytest.raises(InputError, match="1 scored slides that are not in it, as S05"):
        retrieve(scores, without_slide, out)
    without_cell = write_cells(tmp_path / "other", cells[cells["cell"] != "S05:7"])
    with pytest.raises(InputError, match="1 scored cells of slide S05 that are not in it, as S05:7"):
        retrieve(scores, without_cell, out)
    assert not out.exists()


def test_scores_that_are_no_numbers_are_refused(run, tmp_path):
    cells = run[2].assign(attention=np.float32("nan"))
    with pytest.raises(InputError, match="30 cells of slide S00"):
        retrieve(write_scores(tmp_path / "nan", slide_table(), cells), run[1], run[3], RetrieveConfig(rank="attention"))


def test_an_interrupted_stage_goes_on_and_ends_the_same(run, monkeypatch, tmp_path):
    scores, store, _, out = run
    retrieve(scores, store, tmp_path / "whole", RetrieveConfig(k=5))
    written, write = [], module._write

    def stop(path, table):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path.stem)
        write(path, table)

    monkeypatch.setattr(module, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        retrieve(scores, store, out, RetrieveConfig(k=5))
    assert not out.exists()
    rest = []
    monkeypatch.setattr(module, "_write", lambda path, table: (rest.append(path.stem), write(path, table)))
    retrieve(scores, store, out, RetrieveConfig(k=5))
    assert len(written) == 4
    assert len(rest) == 8
    assert not set(rest) & set(written)
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "whole").iterdir())
    for name in names:
        if name != "manifest.json":
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_stage_is_skipped_and_remembers_the_patients(run, monkeypatch):
    scores, store, _, out = run
    first = retrieve(scores, store, out)
    monkeypatch.setattr(module, "_rank_all", lambda *_: pytest.fail("done again"))
    assert retrieve(scores, store, out) == first
    assert json.loads((out / "manifest.json").read_text())["patients"] == ["P04", "P05"]


def test_a_directory_that_is_not_ours_is_left_alone(run):
    scores, store, _, out = run
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        retrieve(scores, store, out)
    shutil.rmtree(out)
