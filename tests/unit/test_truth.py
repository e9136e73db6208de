import numpy as np
import pandas as pd
import pytest

from milscope.truth import match_truth, read_truth
from milscope.types import InputError


def written(tmp_path, text):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    return path


def cells(names=("a", "b", "c"), x=(1.0, 2.0, 3.0)):
    return pd.DataFrame({"slide": "S", "cell": names, "x": x, "y": x})


def test_by_name(tmp_path):
    truth = read_truth(written(tmp_path, "slide,cell,sick\nS,b,1\nS,a,0\nS,z,1\n"), "sick")
    match = match_truth(truth.rows, cells())
    assert match.witness[:2].tolist() == [0, 1]
    assert np.isnan(match.witness[2])
    assert match.unmatched == 1


def test_by_place_to_a_hundredth_of_a_pixel(tmp_path):
    path = written(tmp_path, "slide,x,y,label\nS,1.001,0.999,HSIL\nS,2,2,NILM\nS,3.02,3,NILM\n")
    truth = read_truth(path, "sick", normal="NILM")
    assert truth.column == "label"
    match = match_truth(truth.rows, cells())
    assert match.witness[:2].tolist() == [1, 0]
    assert np.isnan(match.witness[2])


def test_by_place_if_no_name_is_known(tmp_path):
    truth = read_truth(written(tmp_path, "slide,cell,x,y,sick\nS,k1,1,1,0\nS,k2,2,2,1\n"), "sick")
    assert match_truth(truth.rows, cells()).witness[:2].tolist() == [0, 1]


def test_cells_without_a_place_match_no_place(tmp_path):
    truth = read_truth(written(tmp_path, "slide,x,y,sick\nS,,,1\nS,2,2,0\n"), "sick")
    match = match_truth(truth.rows, cells(x=(np.nan, np.nan, 2.0)))
    assert np.isnan(match.witness[:2]).all()
    assert match.witness[2] == 0


@pytest.mark.parametrize(("normal", "values"), [("0", "0 0.0 1 2"), ("nilm", "NILM nilm HSIL LSIL"), ("0.0", "0 0.0 3 x")])
def test_normal_is_one_value_and_any_other_is_a_witness(tmp_path, normal, values):
    rows = "".join(f"S,{i},{value}\n" for i, value in enumerate(values.split()))
    truth = read_truth(written(tmp_path, "slide,cell,v\n" + rows), "task", normal=normal)
    assert truth.rows["witness"].tolist() == [False, False, True, True]


def test_rows_without_value_and_agreeing_repeats_are_left_out_and_counted(tmp_path):
    truth = read_truth(written(tmp_path, "slide,x,y,v\nS,1,1,0\nS,1,1,0\nS,2,2,\nS,3,3,1\n"), "v")
    assert (len(truth.rows), truth.missing, truth.repeated) == (2, 1, 1)


@pytest.mark.parametrize(("text", "message"), [
    ("slide,cell,v\nS,a,0\nS,a,1\n", "1 both normal and not, the first slide S, cell a"),
    ("slide,x,y,v\nS,1,1,0\nS,1.001,1,1\n", "1 both normal and not"),
    ("slide,cell,v\nS,a,ring\nS,b,troph\n", "Found `0`, its values are ring, troph"),
    ("slide,v\nS,0\n", "`cell` or `x` and `y`"),
    ("cell,v\na,0\n", "`slide`"),
    ("slide,cell\nS,a\n", "Found 0 to choose from"),
    ("slide,cell,one,two\nS,a,0,1\n", "Found 2 to choose from. The table has: one, two"),
    ("slide,x,y,v\nS,1,left,0\n", "`left` in line 2"),
    ("slide,cell,v\n", "at least one row"),
])
def test_what_cannot_be_read_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_truth(written(tmp_path, text), "task")


def test_the_column_is_the_named_one_else_the_task_else_the_only(tmp_path):
    path = written(tmp_path, "slide,cell,one,two\nS,a,0,1\nS,b,1,0\n")
    assert read_truth(path, "two").column == "two"
    assert read_truth(path, "two", "one").column == "one"
    with pytest.raises(InputError, match="Found `three`"):
        read_truth(path, "two", "three")


def test_a_table_that_tile_takes_is_a_truth_table_too(tmp_path):
    truth = read_truth(written(tmp_path, "slide_id,cell_id,cx,cy,sick\nS,a,1,1,0\nS,b,2,2,1\n"), "sick")
    assert truth.column == "sick"
    assert truth.rows[["slide", "cell", "x"]].values.tolist() == [["S", "a", 1.0], ["S", "b", 2.0]]
