import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.configs import SplitConfig
from milscope.split import split
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
