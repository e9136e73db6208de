"""What holds of folds and rotations, whoever the patients are."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from milscope.split import folds, rotations
from milscope.types import InputError

GRADES = ("", "NILM", "LSIL", "HSIL")


@st.composite
def cohorts(draw: st.DrawFn) -> pd.DataFrame:
    """Patients of one to three slides; a yes/no label and a grade each slide, some missing; every patient at one site."""
    patients = draw(st.integers(12, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = [{"slide": f"{patient}-{number}", "patient": f"p{patient}", "site": f"site {random.integers(0, 8)}",
             "y": random.choice([0.0, 1.0, np.nan], p=[0.5, 0.4, 0.1]), "grade": random.choice(GRADES)}
            for patient in range(patients) for number in range(random.integers(1, 4))]
    frame = pd.DataFrame(rows)
    return frame.assign(site=frame.groupby("patient")["site"].transform("first"))


def divide(make: Callable[[], list[pd.DataFrame]]) -> list[pd.DataFrame]:
    """The result, unless the cohort is refused; that it is refused only for a reason is tested apart."""
    try:
        return make()
    except InputError:
        reject()


@settings(max_examples=40, deadline=None)
@given(frame=cohorts(), count=st.integers(2, 5), seed=st.integers(0, 99), task=st.sampled_from(["", "y", "grade", "y,grade"]),
       site=st.sampled_from(["", "site"]))
def test_every_patient_is_test_once_and_never_in_two_splits(frame: pd.DataFrame, count: int, seed: int, task: str,
                                                            site: str) -> None:
    results = divide(lambda: folds(frame, count, seed=seed, task=task, site=site))
    assert len(results) == count
    tests = pd.Series(0, index=frame["patient"].unique())
    homes: dict[str, int] = {}
    for number, result in enumerate(results):
        assert result["slide"].tolist() == frame["slide"].tolist()
        assert (result.groupby("patient")["split"].nunique() == 1).all()
        assert set(result["split"]) == {"train", "validation", "test"}
        mine = result[result["split"] == "test"]
        tests[mine["patient"].unique()] += 1
        if site:
            assert all(homes.setdefault(place, number) == number for place in mine["site"])
        for name in task.split(",") if task else ["y"]:
            given_labels = result[result[name].notna() & (result[name] != "")]
            patients = given_labels.groupby(["split", "patient"])[name].agg(max if name == "y" else set)
            for split in ("train", "validation", "test"):
                assert set(patients[split].explode()) == set(patients.explode())
    assert (tests == 1).all()


@settings(max_examples=25, deadline=None)
@given(frame=cohorts(), count=st.integers(2, 4), seed=st.integers(0, 99), task=st.sampled_from(["y", "grade"]))
def test_rotations_leave_the_test_alone_and_validate_on_everyone_once(frame: pd.DataFrame, count: int, seed: int,
                                                                      task: str) -> None:
    fold = divide(lambda: folds(frame, 3, seed=seed, task=task))[0]
    results = divide(lambda: rotations(fold, count, seed=seed, task=task))
    learns = fold["split"] != "test"
    validations = sum((result["split"] == "validation").astype(int) for result in results)
    assert (validations == learns.astype(int)).all()
    for result in results:
        assert ((result["split"] == "test") == ~learns).all()
        assert (result.groupby("patient")["split"].nunique() == 1).all()


@settings(max_examples=15, deadline=None)
@given(frame=cohorts(), seed=st.integers(0, 99), site=st.sampled_from(["", "site"]), task=st.sampled_from(["", "grade"]))
def test_the_order_of_rows_does_not_matter(frame: pd.DataFrame, seed: int, site: str, task: str) -> None:
    results = divide(lambda: folds(frame, 3, seed=seed, task=task, site=site))
    shuffled = frame.sample(frac=1, random_state=seed)
    for result, other in zip(results, folds(shuffled, 3, seed=seed, task=task, site=site), strict=True):
        assert result.set_index("slide")["split"].to_dict() == other.set_index("slide")["split"].to_dict()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 5, 10])
def test_folds_are_as_even_as_can_be(count: int, seed: int) -> None:
    frame = pd.DataFrame({"slide": [f"s{number}" for number in range(97)]})
    frame["y"] = (np.arange(97) % 4 == 0).astype(float)
    for results in (folds(frame, count, seed=seed), rotations(frame.assign(split="train"), count, seed=seed)):
        part = "test" if results[0]["split"].eq("test").any() else "validation"
        sizes = np.array([[sum((result["split"] == part) & (frame["y"] == label)) for label in (0, 1)] for result in results])
        assert (np.ptp(sizes, axis=0) <= 1).all()
        assert np.ptp(sizes.sum(1)) <= 1
