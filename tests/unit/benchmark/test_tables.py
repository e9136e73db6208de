import numpy as np
import pandas as pd
import pytest

from milscope.benchmark import summarise, write_tables
from milscope.benchmark._tables import ordered, worst
from milscope.benchmark._words import MAIN, duration, percent, sentences, told, verdicts, warnings, worst_sentences
from milscope.metrics import Bootstrap, Interval


@pytest.fixture(scope="module")
def summary(grid):
    return summarise(grid, Bootstrap(200))


def altered(summary, name, values):
    """The same benchmark of another name, in which some recalls at 10 are others."""
    found = {(rate, method, "recall_at_10"): Interval(value, value, value) for (rate, method), value in values.items()}
    return summary._replace(grid=summary.grid._replace(name=name), values=summary.values | found)


def test_tables_hold_every_figure(summary, tmp_path):
    write_tables(summary, tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 2 * 4 * 10
    assert set(table.columns) == {"rate", "method", "measure", "value", "low", "high", "least", "most", "seeds"}
    assert len(pd.read_csv(tmp_path / "differences.csv")) == 2 * 3 * 10
    assert pd.read_csv(tmp_path / "methods.csv")["method"].tolist() == summary.grid.methods
    text = (tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == 4 * (len(MAIN) + 1)
    assert f"| `seek` | {told(summary.figure(0.1, 'seek', 'f1'))} | {told(summary.figure(0.05, 'seek', 'f1'))} |" in text


def test_the_ceiling_comes_last_and_is_no_rival(summary):
    assert ordered(summary, "recall_at_10") == ["seek", "simclr+svdd", "random", "supervised"]
    assert summary.rivals == ["simclr+svdd", "random"]
    assert sum(verdicts(summary, "recall_at_witnesses")) == 4
    assert verdicts(summary, "recall_at_witnesses").better == 4
    unsure = summary._replace(differences=summary.differences.assign(low=-0.1, high=0.2))
    assert verdicts(unsure, "recall_at_witnesses") == (0, 0, 4)


def test_sentences_tell_of_the_design_the_reference_and_the_rivals(summary):
    text = " ".join(sentences(summary))
    assert "4 positive and 4 normal test slides for each of 2 seeds" in text
    assert "At a witness rate of 5 %, `seek` puts" in text
    assert "recall@W 4 / 0 / 0" in text
    assert "`supervised` learned from the marked cells" in text
    assert any("2 seeds only" in warning for warning in warnings(summary))


def test_a_reference_that_is_beaten_says_so(summary):
    rows = summary.differences.assign(high=-0.1)
    text = " ".join(warnings(summary._replace(differences=rows)))
    assert "`seek` is worse in recall@10 than `simclr+svdd` at 10 %" in text


def test_the_worst_set_is_found_for_each_method(summary):
    sets = [altered(summary, "inclusion", {(0.1, "seek"): 0.8, (0.1, "random"): 0.1}),
            altered(summary, "outline", {(0.1, "seek"): 0.3, (0.1, "random"): 0.2, (0.05, "seek"): np.nan})]
    rows = worst(sets).query("measure == 'recall_at_10'").set_index(["rate", "method"])
    assert tuple(rows.loc[(0.1, "seek"), ["value", "name"]]) == (0.3, "outline")
    assert tuple(rows.loc[(0.1, "random"), ["value", "name"]]) == (0.1, "inclusion")
    assert (0.05, "seek") not in rows.index
    text = " ".join(worst_sentences(worst(sets), sets))
    assert "At 10 %, `seek` is worst on outline: 30 % of a slide's witnesses" in text
    assert "`seek` is better / not told apart / worse in so many comparisons" in text
    assert "recall@W 8 / 0 / 0" in text


def test_numbers_are_told_as_people_say_them():
    assert [percent(rate) for rate in (0.1, 0.005, 0.0125)] == ["10 %", "0.5 %", "1.25 %"]
    assert [duration(seconds) for seconds in (2.34, 42.0, 600.0, 7200.0, np.nan)] == ["2.3 s", "42 s", "10 min", "2.0 h", "–"]
    assert told(Interval(0.5, np.nan, np.nan)) == "0.50"
    assert told(Interval(np.nan, np.nan, np.nan)) == "–"
