import pandas as pd
import pytest

from milscope.check._table import load_table
from milscope.slides import read_slides
from milscope.types import InputError


def table(rows=6, **columns):
    return pd.DataFrame({"slide": [f"s{n}" for n in range(rows)], "patient": [f"p{n}" for n in range(rows)],
                         "y": ["0", "1"] * (rows // 2), **columns})


def told(frame, check):
    return [finding for finding in load_table(frame).findings if finding.check == check and finding.level in ("mend", "look")]


def test_a_good_table_is_read_as_by_everyone_else(tmp_path):
    frame = table(split=["train"] * 4 + ["val", "test"], mpp=["0,5"] * 6, file=["a.svs"] * 6, grade=list("aabbcc"))
    frame.to_csv(tmp_path / "slides.csv", index=False)
    loaded = load_table(tmp_path / "slides.csv")
    pd.testing.assert_frame_equal(loaded.table, read_slides(tmp_path / "slides.csv"))
    assert {finding.level for finding in loaded.findings} == {"fine"}


def test_a_patient_in_two_splits_is_told_not_refused():
    frame = table(split=["train", "test"] * 3).assign(patient=["p1", "p1", "p2", "p3", "p4", "p5"])
    with pytest.raises(InputError):
        read_slides(frame)
    (finding,) = told(frame, "splits")
    assert (finding.level, finding.names) == ("mend", ("p1 (train, test)",))
    assert load_table(frame).table["split"].tolist() == ["train", "test"] * 3


@pytest.mark.parametrize(("change", "check", "says"), [
    ({"split": ["train"] * 5 + ["holdout"]}, "splits", "holdout"),
    ({"split": ["train"] * 5 + [""]}, "splits", "without a split: s5"),
    ({"mpp": ["0.5"] * 5 + ["-1"]}, "slide table", "-1"),
    ({"mpp": ["0.5"] * 5 + ["half"]}, "slide table", "half"),
    ({"slide": ["a", "b", "c", "d", "e", "a"]}, "slide table", "more than once: a"),
    ({"slide": ["a", "b", "c", "d", "e", "x/y"]}, "slide table", "x/y"),
    ({"slide": ["a", "b", "c", "d", "e", ""]}, "slide table", "line 7"),
    ({"y": ["yes", "no", "yes", "no", "yes", "yess"]}, "slide table", "yess"),
    ({"patient": ["P-07", "p7", "c", "d", "e", "f"]}, "patients", "`P-07` and `p7`"),
    ({"patient": ["a", "a", "c", "d", "e", "f"]}, "patients", "both classes of `y`: a"),
])
def test_what_is_wrong_is_told(change, check, says):
    assert any(says in finding.says for finding in told(table(**change), check))


def test_all_of_it_at_once():
    frame = table(split=["train", "test", "", "holdout", "train", "train"], mpp=["x"] * 6)
    frame.loc[1, "patient"] = "p0"
    frame.loc[5, "slide"] = "s0"
    assert len([finding for finding in load_table(frame).findings if finding.level == "mend"]) == 5


def test_what_is_wrong_is_set_aside():
    loaded = load_table(table(mpp=["x", *["0.5"] * 5], y=["yes", "no", "yes", "no", "yes", "yess"]))
    assert loaded.table["y"].isna().tolist() == [False] * 5 + [True]
    assert loaded.table["mpp"].isna().tolist() == [True] + [False] * 5


def test_grades_are_no_slips():
    loaded = load_table(table(40, grade=["0"] * 20 + ["1"] * 19 + ["2"]))
    assert loaded.table["grade"].tolist()[-1] == "2"
    assert not told(table(40, grade=["0"] * 20 + ["1"] * 19 + ["2"]), "slide table")


def test_names_are_compared_as_they_will_be_read():
    names = {"filename": ["a.svs", "a.tif", "b.v1", "b.v2"], "y": ["0", "1", "0", "1"]}
    (finding,) = told(pd.DataFrame(names), "slide table")
    assert finding.names == ("a",)
    assert load_table(pd.DataFrame(names)).table["slide"].tolist() == ["a", "b.v1", "b.v2"]


def test_without_patients_that_is_said():
    (finding,) = told(table().drop(columns="patient"), "patients")
    assert "every slide counts as a patient" in finding.says


@pytest.mark.parametrize("frame", [pd.DataFrame({"name": ["a"]}), pd.DataFrame({"slide": []}), pd.DataFrame({"slide": ["/"]})])
def test_what_is_no_slide_table_is_refused(frame):
    with pytest.raises(InputError):
        load_table(frame)
