import codecs
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.slides import labels, other_columns, read_slides, tasks, write_slides
from milscope.types import InputError


def table(tmp_path, text, name="slides.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_columns_in_one_form(tmp_path):
    frame = read_slides(table(tmp_path, "slide,file,patient,split,mpp,abnormal\n a ,x.svs,p,val,0.5,yes\nb,,,,,\n"))
    assert list(frame.columns) == ["slide", "file", "patient", "split", "mpp", "abnormal"]
    assert frame["slide"].tolist() == ["a", "b"]
    assert frame["file"].tolist() == [str(tmp_path / "x.svs"), ""]
    assert frame["patient"].tolist() == ["p", "b"]
    assert frame["split"].tolist() == ["validation", ""]
    np.testing.assert_array_equal(frame["mpp"], [0.5, np.nan])
    np.testing.assert_array_equal(frame["abnormal"], [1, np.nan])


@pytest.mark.parametrize("header", ["slide,patient", "slide_id,case_id", "FILENAME,PATIENT", "wsi,case"])
def test_aliases(tmp_path, header):
    frame = read_slides(table(tmp_path, f"{header},y\ns1,p1,1\n"))
    assert (frame["slide"][0], frame["patient"][0], tasks(frame)) == ("s1", "p1", ["y"])


def test_image_names_as_slide_names(tmp_path):
    assert read_slides(table(tmp_path, "wsi\nfolder/a.b.svs\n"))["slide"].tolist() == ["a.b"]
    assert read_slides(table(tmp_path, "slide\na.svs\n"))["slide"].tolist() == ["a.svs"]


@pytest.mark.parametrize("text", [codecs.BOM_UTF8 + b"slide;y\n001;1\n", b"slide;y\r\n001;1\r\n", b"slide\ty\n001\t1\n",
                                  b"\nslide,y\n001,1\n\n"])
def test_dialects_and_numeric_names(tmp_path, text):
    frame = read_slides(table(tmp_path, text))
    assert frame["slide"].tolist() == ["001"]
    assert frame["y"].tolist() == [1.0]


def test_decimal_comma(tmp_path):
    assert read_slides(table(tmp_path, "slide;mpp\na;0,25\n"))["mpp"].tolist() == [0.25]


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("false", "TRUE"), ("No", "yes"), ("negative", "Positive"),
                                         ("normal", "abnormal"), ("0.0", "1.0")])
def test_labels_in_words(tmp_path, no, yes):
    frame = read_slides(table(tmp_path, f"slide,y\na,{no}\nb,{yes}\nc,\nd,NA\n"))
    np.testing.assert_array_equal(frame["y"], [0, 1, np.nan, np.nan])


def test_frames_and_parquet(tmp_path):
    frame = pd.DataFrame({"slide": [1, 2], "y": [True, None], "z": [0.0, np.nan], "notes": ["a", "b"]})
    expected = read_slides(frame)
    assert expected["slide"].tolist() == ["1", "2"]
    np.testing.assert_array_equal(expected[["y", "z"]], [[1, 0], [np.nan, np.nan]])
    frame.to_parquet(tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_slides(tmp_path / "a.parquet"), expected)
    assert (tasks(expected), other_columns(expected)) == (["y", "z"], ["notes"])
    assert expected["notes"].tolist() == ["a", "b"]


def test_the_given_frame_is_not_changed():
    frame = pd.DataFrame({"slide": [1], "y": [1]})
    before = frame.copy()
    read_slides(frame)
    pd.testing.assert_frame_equal(frame, before)


text = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zs", "Zl", "Zp", "Cf", "Co", "Cn"),
                             blacklist_characters="/\\"), min_size=1, max_size=12).filter(lambda name: name[0] != ".")


@settings(max_examples=30, deadline=None)
@given(names=st.lists(text, min_size=1, max_size=6, unique=True), data=st.data())
def test_written_is_read(tmp_path_factory, names, data):
    def column(values):
        return data.draw(st.lists(values, min_size=len(names), max_size=len(names)))

    scales = st.floats(0.01, 10) | st.just(np.nan)
    frame = read_slides(pd.DataFrame({"slide": names, "file": column(st.sampled_from(["", "a.svs"])), "mpp": column(scales),
                                      "y": column(st.sampled_from([0.0, 1.0, np.nan]))}))
    path = tmp_path_factory.mktemp("table") / "slides.csv"
    write_slides(frame, path)
    pd.testing.assert_frame_equal(read_slides(path), frame, check_exact=True)
    assert os.listdir(path.parent) == ["slides.csv"]


BAD = {
    "no slide column": ("name,y\na,1\n", "column `slide`"),
    "empty": ("", "empty file"),
    "only a header": ("slide,y\n", "at least one row"),
    "binary": (b"\x89PNG\r\n\0\0\0", "binary content"),
    "utf-16": ("slide\na\n".encode("utf-16"), "binary content"),
    "latin-1": ("slide\nM\xfcller\n".encode("latin-1"), "UTF-8"),
    "ragged": ("slide,y\na,1\nb,1,2,3\n", "same columns in every row"),
    "column twice": ("slide,y,y\na,1,0\n", "`y` twice"),
    "slide twice": ("slide\na\nb\na\n", "`a` twice (line 4)"),
    "no name": ("slide,y\na,1\n,1\n", "nothing (line 3)"),
    "path": ("slide\n../a\n", "fit to name a file"),
    "hidden": ("slide\n.a\n", "fit to name a file"),
    "control": ("slide\n\"a\nb\"\n", "fit to name a file"),
    "long": (f"slide\n{'ä' * 101}\n", "200 bytes"),
    "split": ("slide,split\na,training\nb,holdout\n", "`holdout` (line 3)"),
    "two splits": ("slide,patient,split\na,p,train\nb,p,test\n", "patient `p` in train and test"),
    "mpp": ("slide,mpp\na,-1\n", "above 0"),
    "mpp text": ("slide,mpp\na,20x\n", "`20x`"),
    "mpp infinite": ("slide,mpp\na,inf\n", "above 0"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_bad_tables_end_with_one_line(tmp_path, text, says):
    with pytest.raises(InputError) as error:
        read_slides(table(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_folder_and_odd_parquet(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_slides(tmp_path / "none.csv")
    with pytest.raises(InputError, match="Is a directory"):
        read_slides(tmp_path)
    with pytest.raises(InputError, match="Parquet"):
        read_slides(table(tmp_path, "slide\na\n", "a.parquet"))


def test_labels_choose_the_only_task_and_the_labelled_slides():
    frame = read_slides(pd.DataFrame({"slide": ["a", "b", "c"], "y": [0, 1, None], "stage": ["I", "II", "III"]}))
    name, labelled = labels(frame)
    assert name == "y"
    assert labelled["slide"].tolist() == ["a", "b"]


@pytest.mark.parametrize(("columns", "task", "says"), [
    ({"y": [0, 1], "z": [1, 0]}, "", "2 such columns: y, z"),
    ({}, "", "0 such columns: none"),
    ({"stage": ["I", "II"]}, "", "not yes/no: stage with `I` (line 2)"),
    ({"y": ["1", "maybe"]}, "y", "Found `maybe` (line 3) in `y`. Correct it"),
    ({"y": [0, 1], "stage": ["I", "II"]}, "stage", "Found `I` (line 2) in `stage`"),
    ({"y": [0, 1]}, "x", "Found `x`. There is: y"),
    ({"y": [1, 1]}, "y", "only 1"),
    ({"y": [None, None]}, "", "no label"),
])
def test_labels_refuse(columns, task, says):
    with pytest.raises(InputError) as error:
        labels(read_slides(pd.DataFrame({"slide": ["a", "b"], **columns})), task)
    assert says in str(error.value)
