import math

import numpy as np
import pytest

from milscope.metrics import REVIEW_METRICS, Bootstrap, Decisions, review_metrics

LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=bool)
SAID = np.array(["positive"] * 2 + ["review", "negative"] + ["positive"] + ["review"] * 2 + ["negative"] * 3)


def decisions(labels=LABELS, said=SAID):
    return Decisions(labels, said == "review", said == "positive", [str(i) for i in range(len(labels))])


def test_figures_by_hand():
    figures = review_metrics(decisions(), Bootstrap(200))
    assert tuple(figures) == REVIEW_METRICS
    assert figures["reviewed"].value == pytest.approx(3 / 10)
    assert figures["sensitivity"].value == pytest.approx(2 / 3)
    assert figures["specificity"].value == pytest.approx(3 / 4)
    assert figures["caught"].value == pytest.approx(3 / 4)
    assert all(figure.low < figure.value < figure.high for figure in figures.values())


def test_if_all_are_reviewed_nothing_is_decided_and_all_is_caught():
    figures = review_metrics(decisions(said=np.full(10, "review")), Bootstrap(5))
    assert figures["reviewed"] == figures["caught"] == (1, 1, 1)
    assert all(map(math.isnan, figures["sensitivity"]))
    assert all(map(math.isnan, figures["specificity"]))


def test_without_positive_slides_none_is_caught_or_missed():
    figures = review_metrics(decisions(labels=np.zeros(10, dtype=bool)), Bootstrap(5))
    assert math.isnan(figures["caught"].value)
    assert math.isfinite(figures["specificity"].value)
