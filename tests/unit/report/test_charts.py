import re
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from milscope.report import _charts as charts

ROC = {"false_positive_rate": [0, 0, 1], "sensitivity": [0, 0.5, 1],
       "band": {"false_positive_rate": [0, 1], "low": [0.2, None], "high": [0.6, 1]}}
DRAWN = {
    "roc": lambda: charts.roc(ROC, (0.0, 0.5)),
    "pr": lambda: charts.precision_recall({"recall": [0, 0.5, 1, 1], "precision": [1, 1, 0.6, 0.2], "prevalence": 0.2}),
    "calibration": lambda: charts.calibration({"probability": [0.1, 0.6, None], "share": [0, 0.5, None], "low": [0, 0.2, None],
                                               "high": [0.3, 0.8, None]}),
    "recall": lambda: charts.recall_at({"k": [1, 2, 3], "value": [0.2, 0.9, 1.0], "low": [0, 0, 0], "high": [1, 1, 1]}, 0.01),
    "dots": lambda: charts.scores([0.1, 0.1, 0.2], [0.9], 0.5),
    "bars": lambda: charts.scores([0.1] * 400, [0.9] * 300, 0.5),
    "one class": lambda: charts.scores([], [0.9], 0.95),
    "epochs": lambda: charts.epochs("pretrain-x", "loss", [charts.Line("a", [1, 2], [3, 4])], reference=(1.0, "chance")),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_chart_follows_the_page(draw):
    svg = str(draw())
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"]
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]|font-family|<style|<metadata|<\?xml", svg)
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) <= {"#000000", "#ffffff"}
    assert svg == str(draw())


@pytest.mark.parametrize("name", ["roc", "pr", "recall", "calibration"])
def test_the_ids_of_a_chart_carry_its_name_so_that_no_two_share_one(name):
    ids = re.findall(r' id="([^"]+)"', str(DRAWN[name]()))
    assert ids
    assert all(found.startswith(f"{name}-") for found in ids)


def test_every_slide_is_a_dot_and_dots_do_not_touch():
    values, heights = charts._swarm(pd.Series([0.1, 0.101, 0.102, 0.5]).to_numpy())
    assert len(set(zip(values // charts.DOT_WIDTH, heights, strict=True))) == 4
    assert heights.tolist() == [0.7, 1.7, 2.7, 0.7]


def test_columns_without_numbers_are_not_drawn():
    frame = pd.DataFrame({"epoch": [1, 2], "a": [1.0, 2.0], "b": [float("nan")] * 2})
    assert [line.label for line in charts.lines_of(frame, {"a": "first", "b": "second", "c": "third"})] == ["first"]
