import numpy as np
import pandas as pd
import pytest

from milscope.check._attributes import Attribute, about_columns
from milscope.check._confounding import EVERYTHING, judge_attributes
from milscope.metrics import Bootstrap

DRAWS = Bootstrap(draws=300)


def attribute(values, name="scanner", family="made"):
    return Attribute(name, family, pd.DataFrame({name: values}))


def judge(labels, *attributes, patients=None, bootstrap=DRAWS):
    labels = np.asarray(labels, dtype=float)
    return judge_attributes("y", labels, patients or [f"p{n}" for n in range(len(labels))], attributes, bootstrap)


def test_a_scanner_of_its_own_for_each_class_tells_everything():
    labels = np.arange(40) % 2
    (told,) = judge(labels, attribute(np.where(labels == 1, "A", "B").tolist()))
    assert (told.auc, told.low, told.high) == (1, 1, 1)
    assert told.chance < 0.8
    assert told.warns
    assert told.detail == "B: 0 of 20, A: 20 of 20 positive"


def test_the_auc_of_two_values_is_the_area_under_two_lines():
    labels = np.repeat([1, 0], 100)
    scanner = np.repeat(["A", "B", "A", "B"], [80, 20, 30, 70]).tolist()
    (told,) = judge(labels, attribute(scanner))
    assert told.auc == pytest.approx((1 + 0.8 - 0.3) / 2, abs=0.01)
    assert told.low < 0.75 < told.high


@pytest.mark.parametrize("shape", ["number", "high and low", "category"])
def test_numbers_and_categories_in_any_relation(shape):
    random = np.random.default_rng(0)
    labels = np.arange(100) % 2
    values = {"number": labels + random.normal(size=100) * 0.3, "high and low": random.normal(size=100) * (0.1 + 3 * labels),
              "category": [f"s{label * 3 + random.integers(3)}" for label in labels]}[shape]
    (told,) = judge(labels, attribute(list(values)))
    assert told.auc > 0.8
    assert told.warns


@pytest.mark.parametrize("values", ["numbers", "sites"])
def test_what_tells_nothing_is_rarely_warned_of(values):
    warned, areas = 0, []
    for seed in range(30):
        random = np.random.default_rng(seed)
        drawn = random.normal(size=60) if values == "numbers" else random.integers(0, 15, 60).astype(str)
        (told,) = judge(random.permutation(np.arange(60) % 2), attribute(drawn.tolist()), bootstrap=Bootstrap(100))
        warned += told.warns
        areas.append(told.auc)
    assert warned <= 4
    assert abs(np.mean(areas) - 0.5) < 0.06


def test_slides_of_a_patient_are_one_case():
    labels = [*[1] * 30, *[0] * 30]
    patients = [*["a"] * 25, "b", "c", "d", "e", "f", *["g"] * 25, "h", "i", "j", "k", "l"]
    scanner = [*["A"] * 25, *["C"] * 5, *["B"] * 25, *["C"] * 5]
    (told,) = judge(labels, attribute(scanner), patients=patients)
    assert told.patients == 12
    assert not told.warns


def test_too_few_patients_say_nothing():
    labels = [1, 1, 1, 1] + [0] * 20
    assert judge(labels, attribute(["A"] * 4 + ["B"] * 20)) == []


def test_the_same_everywhere_or_unknown_everywhere_says_nothing():
    assert judge(np.arange(30) % 2, attribute(["A"] * 30), attribute([np.nan] * 30, "mpp")) == []


def test_that_it_is_unknown_may_tell():
    labels = np.arange(40) % 2
    (told,) = judge(labels, attribute(np.where(labels == 1, np.nan, 0.25).tolist(), "mpp"))
    assert told.auc == 1


def test_what_tells_only_together_is_told_together():
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    parts = [attribute((labels + random.normal(size=120) * 1.6).tolist(), name) for name in ("a", "b", "c")]
    told = {each.attribute: each for each in judge(labels, *parts)}
    assert told[EVERYTHING].auc > max(told[name].auc for name in "abc")
    assert EVERYTHING not in {each.attribute for each in judge(labels, *(part._replace(family="looks") for part in parts))}


def test_unlabelled_slides_take_no_part():
    labels = np.tile([1, 0, np.nan], 20)
    (told,) = judge(labels, attribute(np.tile(["A", "B", "C"], 20).tolist()))
    assert told.patients == 40
    assert "C" not in told.detail


def test_the_same_seed_gives_the_same_figures():
    values = attribute(np.random.default_rng(0).normal(size=40).tolist())
    assert judge(np.arange(40) % 2, values) == judge(np.arange(40) % 2, values)


def test_which_columns_say_how_slides_were_made():
    table = pd.DataFrame(columns=["slide", "file", "patient", "split", "mpp", "site", "scan_date", "grade", "label", "oddity"])
    assert about_columns(table, ["oddity"]) == ["site", "scan_date", "oddity"]
