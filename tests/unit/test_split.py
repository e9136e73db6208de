import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.configs import SplitConfig
from milscope.split import folds, read_splits, rotations, split, write_splits
from milscope.types import InputError


def cohort(positive=10, negative=20, unlabelled=0, slides=2):
    """Patients with two slides each; only the first slide of a positive patient is positive."""
    rows = []
    for kind, count in (("p", positive), ("n", negative), ("u", unlabelled)):
        rows += [{"slide": f"{kind}{i}-{j}", "patient": f"{kind}{i}",
                  "y": {"p": float(j == 0), "n": 0.0, "u": np.nan}[kind]} for i in range(count) for j in range(slides)]
    return pd.DataFrame(rows)


def counts(frame):
    patients = frame.drop_duplicates("patient")
    return pd.crosstab(patients["split"], patients["patient"].str[0]).to_dict()


def test_shares_hold_within_each_class():
    assert counts(split(cohort(10, 20, 5))) == {
        "n": {"train": 12, "validation": 4, "test": 4}, "p": {"train": 6, "validation": 2, "test": 2},
        "u": {"train": 3, "validation": 1, "test": 1}}


@settings(max_examples=25, deadline=None)
@given(positive=st.integers(3, 12), negative=st.integers(3, 12), unlabelled=st.integers(0, 5), seed=st.integers(0, 9),
       shares=st.sampled_from([(0.2, 0.2), (0.1, 0.4), (0.05, 0.05), (0.45, 0.45)]))
def test_patients_stay_together_and_every_split_has_both_classes(positive, negative, unlabelled, seed, shares):
    frame = cohort(positive, negative, unlabelled)
    config = SplitConfig(*shares, seed=seed)
    result = split(frame, config)
    assert (result.groupby("patient")["split"].nunique() == 1).all()
    for kind in "pn":
        assert set(result["split"][result["patient"].str[0] == kind]) == {"train", "validation", "test"}
    shuffled = split(frame.sample(frac=1, random_state=seed), config).set_index("slide")["split"]
    assert shuffled.to_dict() == result.set_index("slide")["split"].to_dict()


def test_the_seed_matters_and_repeats():
    first, again, other = (split(cohort(), SplitConfig(seed=seed))["split"].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_complete_split_is_kept_and_a_partial_one_refused():
    frame = cohort(1, 1)
    assert split(frame.assign(split="test"))["split"].unique() == ["test"]
    with pytest.raises(InputError, match="every slide or for none"):
        split(frame.assign(split=["test", "test", "", ""]))


def test_without_labels_patients_are_divided_all_the_same():
    result = split(cohort(0, 0, 10).drop(columns="y"))
    assert result.drop_duplicates("patient")["split"].value_counts().to_dict() == {"train": 6, "validation": 2, "test": 2}
    assert split(cohort(0, 0, 10))["split"].value_counts().to_dict() == {"train": 12, "validation": 4, "test": 4}


def test_no_share_no_patients():
    assert set(split(cohort(), SplitConfig(validation=0.3, test=0))["split"]) == {"train", "validation"}


def test_several_tasks_at_once_or_one():
    frame = cohort(8, 8).assign(z=lambda table: [float(name[1] in "012") for name in table["slide"]])
    result = split(frame).groupby("patient")[["y", "z", "split"]].max()
    for task in ("y", "z"):
        assert (result.groupby("split")[task].nunique() == 2).all()
    rare = cohort(8, 8).assign(z=lambda table: (table["slide"] == "p0-0").astype(float))
    with pytest.raises(InputError, match="`z` should be positive for at least 3 patients"):
        split(rare)
    assert len(split(rare, task="y")) == len(rare)
    with pytest.raises(InputError, match="There is: y, z"):
        split(rare, task="x")


@pytest.mark.parametrize(("frame", "config", "says"), [
    (cohort(2, 9), SplitConfig(), "`y` should be positive for at least 3 patients"),
    (cohort(9, 2), SplitConfig(), "`y` should be negative for at least 3 patients"),
    (cohort(0, 0, 2), SplitConfig(), "at least 3 patients"),
    (cohort(), SplitConfig(validation=0.5, test=0.5), "leave patients for training"),
    (cohort(), SplitConfig(validation=-0.1), "leave patients for training"),
])
def test_refusals(frame, config, says):
    with pytest.raises(InputError) as error:
        split(frame, config)
    assert says in str(error.value)


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_of_one_task_reaches_every_split(seed):
    frame = cohort(20, 20).assign(z=lambda table: table["patient"].isin(["p3", "n7", "n8"]).astype(float))
    result = split(frame, SplitConfig(seed=seed))
    assert set(result["split"][result["z"] == 1]) == {"train", "validation", "test"}


def test_the_rarest_class_is_shared_out_first():
    """A cohort where sharing out the commonest class first leaves a split without a rare one, for three seeds of ten."""
    random = np.random.default_rng(22)
    names = [f"s{i}" for i in range(30)]
    frame = pd.DataFrame({"slide": names, "patient": names}).assign(
        **{f"t{task}": (random.random(30) < share).astype(float) for task, share in enumerate((0.5, 0.4, 0.2))})
    for seed in range(10):
        result = split(frame, SplitConfig(seed=seed))
        assert set(result["split"][result["t2"] == 1]) == {"train", "validation", "test"}


def graded(counts: dict[str, int]) -> pd.DataFrame:
    """One slide per patient with a grade."""
    grades = [grade for grade, count in counts.items() for _ in range(count)]
    return pd.DataFrame({"slide": [f"s{number:02d}" for number in range(len(grades))], "grade": grades})


def test_columns_of_other_values_are_shared_out_by_value() -> None:
    result = split(graded({"NILM": 10, "LSIL": 5, "HSIL": 5, "": 5}), task="grade")
    assert pd.crosstab(result["grade"], result["split"]).loc["LSIL"].to_dict() == {"test": 1, "train": 3, "validation": 1}
    with pytest.raises(InputError, match="`grade` should be HSIL for at least 3 patients, one for each of train, validation"):
        split(graded({"NILM": 10, "HSIL": 2}), task="grade")


def test_a_patient_of_two_grades_counts_for_both() -> None:
    """One patient has both grades: of the two patients with LSIL each fold tests one, and of three with HSIL at least one."""
    frame = graded({"NILM": 9, "LSIL": 2, "HSIL": 3})
    frame["patient"] = frame["slide"].where(frame["slide"] != "s10", "s11")
    for result in folds(frame.assign(grade=frame["grade"].replace("NILM", "")), 2, seed=0, task="grade", validation=0):
        tested = result[result["split"] == "test"]
        assert {"LSIL", "HSIL"} <= set(tested["grade"])


def test_folds_hold_validation_out_of_the_rest() -> None:
    for number, result in enumerate(folds(cohort(10, 20, 5), 5, seed=3)):
        assert counts(result) == {
            "n": {"train": 13, "validation": 3, "test": 4}, "p": {"train": 6, "validation": 2, "test": 2},
            "u": {"train": 3, "validation": 1, "test": 1}}, number
    assert set(folds(cohort(), 3, seed=3, validation=0)[0]["split"]) == {"train", "test"}
    first, again, other = (folds(cohort(), 3, seed=seed)[0]["split"].tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_the_largest_sites_are_dealt_out_first() -> None:
    """Sites of 8, 4, 4, 2, 2, 2, 2 patients make three folds of 8 in whole sites."""
    sizes = dict(zip("abcdefg", (8, 4, 4, 2, 2, 2, 2), strict=True))
    frame = pd.DataFrame([{"slide": f"{site}{number}", "site": site, "y": number % 2}
                          for site, size in sizes.items() for number in range(size)])
    results = folds(frame, 3, seed=0, site="site")
    assert len(folds(frame.assign(site=(frame["site"] == "a").astype(int)), 2, seed=0, site="site")) == 2
    assert [int((result["split"] == "test").sum()) for result in results] == [8, 8, 8]


@pytest.mark.parametrize(("change", "options", "says"), [
    ({}, {"count": 1}, "at least 2 folds"),
    ({}, {"count": 11}, "`y` should be positive for at least 11 patients, one for each of 11 folds. Found 10."),
    ({}, {"count": 3, "validation": 1.0}, "leaves patients for training"),
    ({}, {"count": 3, "task": "x"}, "There is: y"),
    ({}, {"count": 3, "site": "x"}, "a column of the slide table"),
    ({"site": "one"}, {"count": 2, "site": "site"}, "of at least 2 sites, one for each of fold 1, fold 2. Found 1. Add sites"),
    ({"site": ""}, {"count": 2, "site": "site"}, "`site` should be given for every slide"),
])
def test_refusals_of_folds(change: dict, options: dict, says: str) -> None:
    with pytest.raises(InputError) as error:
        folds(cohort(10, 20).assign(**change), seed=0, **options)
    assert says in str(error.value)


def test_a_patient_of_two_sites_is_refused() -> None:
    frame = cohort(5, 5).assign(site=lambda table: table["slide"].str[-1])
    with pytest.raises(InputError, match="the same for all slides of a patient"):
        folds(frame, 2, seed=0, site="site")


def test_too_few_patients_for_validation_are_refused() -> None:
    with pytest.raises(InputError, match="`y` should be positive for at least 2 patients, one for each of train, validation"):
        folds(cohort(2, 20), 2, seed=0)
    assert len(folds(cohort(2, 20), 2, seed=0, validation=0)) == 2


def test_rotations_need_a_split_and_keep_slides_without_one() -> None:
    with pytest.raises(InputError, match="train or validation for some slides"):
        rotations(cohort(), 3, seed=0)
    frame = cohort(6, 6).assign(split=lambda table: np.where(table["patient"] == "p0", "", "train"))
    for result in rotations(frame, 2, seed=0):
        assert (result["split"][result["patient"] == "p0"] == "").all()


def clam(tmp_path: Path, text: str, name: str = "splits_0.csv") -> Path:
    (tmp_path / name).write_text(text)
    return tmp_path


PLAIN = ",train,val,test\n0,a,d,e\n1,b,,f\n2,c,,\n"
MARKED = ",train,val,test\na,True,False,False\nb,True,False,False\nc,True,False,False\nd,False,True,False\n" \
         "e,False,False,True\nf,False,False,True\n"
NAMED = {"a": "train", "b": "train", "c": "train", "d": "validation", "e": "test", "f": "test", "g": ""}


def seven() -> pd.DataFrame:
    return pd.DataFrame({"slide": list("abcdefg"), "y": [0, 1, 0, 1, 0, 1, 0]})


@pytest.mark.parametrize(("text", "name"), [(PLAIN, "splits_0.csv"), (MARKED, "splits_0_bool.csv"),
                                            (PLAIN.replace("\n0,", "\n").replace("\n1,", "\n").replace("\n2,", "\n")[1:],
                                             "splits_0.csv")])
def test_what_clam_writes_is_read(tmp_path: Path, text: str, name: str) -> None:
    folder = clam(tmp_path, text, name)
    (folder / "splits_0_descriptor.csv").write_text(",train,val,test\nnormal,2,0,1\n")
    for path in (folder, folder / name):
        (table,) = read_splits(path, seven())
        assert table.set_index("slide")["split"].to_dict() == NAMED


def test_the_folds_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        clam(tmp_path, ",train,val,test\n0,a,d,e\n1,b,,\n" if number == 2 else PLAIN, f"splits_{number}.csv")
    assert [table["split"].tolist().count("train") for table in read_splits(tmp_path, seven())] == [2, 3]


def test_numbers_that_pandas_wrote_as_fractions_are_known(tmp_path: Path) -> None:
    frame = pd.DataFrame({"slide": ["1", "2", "3", "4"]})
    (table,) = read_splits(clam(tmp_path, ",train,val,test\n0,1,3.0,4.0\n1,2,,\n"), frame)
    assert table["split"].tolist() == ["train", "train", "validation", "test"]


def test_what_stamp_writes_is_read_and_validation_is_held_out(tmp_path: Path) -> None:
    frame = cohort(10, 10)
    patients = sorted(set(frame["patient"]))
    tests = [patients[::4], patients[1::4]]
    (tmp_path / "splits.json").write_text(json.dumps({"splits": [
        {"train_patients": sorted(set(patients) - set(test)), "test_patients": test} for test in tests]}, indent=4))
    for path in (tmp_path, tmp_path / "splits.json"):
        tables = read_splits(path, frame)
        assert [sorted(set(table["patient"][table["split"] == "test"])) for table in tables] == tests
        assert all(counts(table)["p"]["validation"] >= 1 for table in tables)
    assert set(read_splits(tmp_path, frame, validation=0)[0]["split"]) == {"train", "test"}


@pytest.mark.parametrize("layout", ["clam", "stamp"])
def test_folds_written_and_read_are_the_same(tmp_path: Path, layout: str) -> None:
    frame = cohort(10, 20)
    tables = folds(frame, 3, seed=4)
    files = write_splits(tables, tmp_path / "splits", layout)
    assert all(file.exists() for file in files)
    for table, read in zip(tables, read_splits(tmp_path / "splits", frame, seed=4), strict=True):
        pd.testing.assert_frame_equal(table, read)
    assert write_splits(tables, tmp_path / "splits", layout) == files


def test_clams_own_reading_of_our_files(tmp_path: Path) -> None:
    """CLAM takes the columns of splits_0.csv without their gaps; its bool file has the names as the index."""
    (frame,) = read_splits(clam(tmp_path, PLAIN), seven())
    plain, marked = write_splits([frame], tmp_path / "ours")
    assert plain.read_text() == PLAIN
    assert marked.read_text() == MARKED
    assert pd.read_csv(plain)["val"].dropna().tolist() == ["d"]
    assert pd.read_csv(io.StringIO(marked.read_text()), index_col=0)["test"].sum() == 2


def test_a_split_without_validation_is_written_and_read(tmp_path: Path) -> None:
    table = seven().assign(split=["train"] * 4 + ["test"] * 3)
    write_splits([table], tmp_path)
    assert read_splits(tmp_path / "splits_0_bool.csv", seven(), validation=0)[0]["split"].tolist() == table["split"].tolist()


@pytest.mark.parametrize(("name", "text", "says"), [
    ("splits_0.csv", ",train,val,test\n0,a,x,e\n1,y,,f\n", "2 others, like `y`"),
    ("splits_0.csv", ",train,val,test\n0,a,a,e\n", "`a` in train and validation"),
    ("splits_0.csv", ",train,val,test\n0,p,q,\n", "`one` in train and validation"),
    ("splits_0.csv", "slide,split\na,train\n", "CLAM's splits_0.csv"),
    ("splits_0.csv", "", "CLAM's splits_0.csv"),
    ("splits.json", "{", "STAMP's splits.json"),
    ("splits.json", '{"splits": [{"train_patients": ["a"]}]}', "STAMP's splits.json"),
    ("splits.json", '{"splits": [{"train_patients": ["a", "z"], "test_patients": ["b"]}]}', "1 others, like `z`"),
    ("splits.json", '{"splits": [{"train_patients": ["a", "b"], "test_patients": ["b"]}]}', "`b` in train and test"),
    ("other.csv", "", "CLAM's splits_0.csv"),
])
def test_refusals_of_splits(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    frame = pd.concat([seven(), pd.DataFrame({"slide": ["p", "q"], "patient": "one", "y": 0})], ignore_index=True)
    with pytest.raises(InputError) as error:
        read_splits(tmp_path, frame)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_splits_of_another_division_are_not_mixed_with_ours(tmp_path: Path) -> None:
    write_splits(folds(cohort(), 5, seed=0), tmp_path)
    with pytest.raises(InputError, match=r"splits_3\.csv in"):
        write_splits(folds(cohort(), 3, seed=0), tmp_path)
    with pytest.raises(InputError, match="`clam` or `stamp`"):
        write_splits([], tmp_path, "eva")
