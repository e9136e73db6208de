"""A line of text names tasks; what cannot be meant is refused in one line."""

import json

import pandas as pd
import pytest

from milscope.slides import read_slides
from milscope.tasks import Binary, Cox, Hazards, MultiClass, Ordinal, described_task, parse_tasks, settled_tasks
from milscope.types import InputError

FRAME = read_slides(pd.DataFrame({"slide": list("abc"), "abnormal": [0, 1, 1], "grade": ["I", "II", "III"],
                                  "months": [1.5, 2.5, 3.5], "died": [1, 0, 1]}))


def test_every_kind_can_be_named():
    text = "abnormal, grade:ordinal(I<II<III),death:cox(months,died),late:hazards(months,died,3)"
    assert parse_tasks(text, FRAME) == [
        Binary("abnormal"), Ordinal("grade", ("I", "II", "III")), Cox("death", "months", "died"),
        Hazards("late", "months", "died", intervals=3)]
    assert parse_tasks("grade:multiclass", FRAME) == [MultiClass("grade")]
    assert parse_tasks("grade:multiclass(II, I,III)", FRAME) == [MultiClass("grade", ("II", "I", "III"))]
    assert parse_tasks("", FRAME.drop(columns="died")) == [Binary("abnormal")]


def test_horizons_and_intervals_can_be_given():
    text = ("death:cox(months,died, 2.5),late:hazards(months,died,1.5<2<3, 2),soon:hazards(months,died,2<),"
            "end:hazards(months,died,1<3)")
    assert parse_tasks(text, FRAME) == [
        Cox("death", "months", "died", 2.5), Hazards("late", "months", "died", 2.0, intervals=4, bounds=(1.5, 2.0, 3.0)),
        Hazards("soon", "months", "died", intervals=2, bounds=(2.0,)),
        Hazards("end", "months", "died", intervals=3, bounds=(1.0, 3.0))]


def test_a_settled_line_names_the_same_tasks_whatever_slides_they_are_fitted_to():
    text = "abnormal, death:cox(months,died),late:hazards(months,died,2),grade:multiclass"
    settled = settled_tasks(text, FRAME)
    fitted = [task.fitted(FRAME) for task in parse_tasks(text, FRAME)]
    assert parse_tasks(settled, FRAME)[1:3] == fitted[1:3]
    others = FRAME.assign(months=[10.0, 20.0, 30.0], died=[1, 1, 0])
    assert [task.fitted(others) for task in parse_tasks(settled, others)][:3] == fitted[:3]
    assert (settled.split(",")[0], settled.split(",")[-1]) == ("abnormal", "grade:multiclass")
    assert settled_tasks("", FRAME.drop(columns="died")) == ""


@pytest.mark.parametrize(("text", "line"), [
    ("", "2 such columns: abnormal, died"),
    ("nothing", "`task` should be a column of the slide table. Found `nothing`"),
    ("grade", "or say `grade:multiclass`"),
    ("grade:binary", "Say `grade:multiclass`"),
    ("grade:ordinal", "of the form"),
    ("grade:ordinals(a<b)", "of kind binary, multiclass, ordinal, cox, hazards. Found `ordinals`"),
    ("death:cox(months)", "of the form"),
    ("death:cox(months,gone)", "Found `gone`"),
    ("death:cox(months,died,soon)", "of the form"),
    ("death:cox(months,died,0)", "of the form"),
    ("death:cox(months,died,inf)", "of the form"),
    ("death:cox(months,died,2,3)", "of the form"),
    ("death:hazards(months,died,1)", "of the form"),
    ("death:hazards(months,died,four)", "of the form"),
    ("death:hazards(months,died,4,2)", "of the form"),
    ("death:hazards(months,died,3<2)", "of the form"),
    ("death:hazards(months,died,2<2)", "of the form"),
    ("death:hazards(months,died,2<3,2.5)", "of the form"),
    ("death:hazards(months,died,<)", "of the form"),
    ("abnormal,abnormal", "`abnormal` twice"),
    ("abnormal,,died", "of the form"),
    ("a/b:cox(months,died)", "named so that a file can bear it"),
])
def test_what_cannot_be_meant_is_refused(text, line):
    with pytest.raises(InputError) as refused:
        parse_tasks(text, FRAME)
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["abnormal", "grade:multiclass", "grade:ordinal(I<II<III)", "death:cox(months,died)",
                                  "death:hazards(months,died,3)"])
def test_a_task_comes_back_from_json(text):
    task = parse_tasks(text, FRAME)[0].fitted(FRAME)
    assert described_task(json.loads(json.dumps(task.describe()))) == task


def test_a_kind_of_a_newer_milscope_is_refused():
    with pytest.raises(InputError, match="Update milscope"):
        described_task({"kind": "telepathy", "name": "x"})
