"""Tables of verdicts: what `milscope verdicts` writes, and tables of one's own."""

import numpy as np
import pandas as pd
import pytest

from milscope.judged import match_verdicts, read_verdicts
from milscope.types import InputError

TABLE = pd.DataFrame({
    "slide": ["a", "a", "a", "b"], "cell": ["a:0", "a:1", "a:2", "b:0"], "x": [1.5, 2.5, 3.5, 4.5], "y": [0.0, 1.0, 2.0, 3.0],
    "width": 64.0, "height": 64.0, "verdict": ["abnormal", "normal", "unsure", "artefact"], "label": ["1", "0", "", "0"],
    "reviewers": 1, "agreement": 1.0, "at": "2026-01-01T00:00:00+00:00"})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("lacks", [[], ["label"], ["verdict"]])
def test_what_milscope_verdicts_writes_is_read(tmp_path, suffix, lacks):
    path, table = tmp_path / f"verdicts{suffix}", TABLE.drop(columns=lacks)
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path, index=False)
    found = read_verdicts(path)
    assert list(found) == ["slide", "cell", "x", "y", "label"]
    assert found["label"].fillna(-1).tolist() == [1, 0, -1, 0]
    assert found[["slide", "cell", "x"]].to_numpy().tolist() == TABLE[["slide", "cell", "x"]].to_numpy().tolist()


def test_most_rows_of_a_cell_decide_and_a_tie_says_nothing(tmp_path):
    rows = [("a", "1", "abnormal"), ("a", "1", "abnormal"), ("a", "1", "artefact"), ("a", "2", "normal"),
            ("a", "2", "abnormal"), ("b", "1", "normal"), ("b", "1", "unsure")]
    pd.DataFrame(rows, columns=["slide", "cell", "verdict"]).to_csv(tmp_path / "t.csv", index=False)
    found = read_verdicts(tmp_path / "t.csv")
    assert found[["slide", "cell"]].to_numpy().tolist() == [["a", "1"], ["a", "2"], ["b", "1"]]
    assert found["label"].fillna(-1).tolist() == [1, -1, 0]


def test_cells_are_found_by_name_and_else_by_place(tmp_path):
    cells = pd.DataFrame({"cell": ["p", "q", "r"], "x": [1.0, 2.0, 3.0], "y": [1.0, 2.0, 3.0]})
    pd.DataFrame({"slide": "a", "cell": ["r", "p", "elsewhere"], "label": [1, 0, 1]}).to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_equal(match_verdicts(read_verdicts(tmp_path / "t.csv"), cells), [0, np.nan, 1])
    pd.DataFrame({"slide": "a", "x": [2.001, 9], "y": [2.0, 9], "label": [1, 0]}).to_csv(tmp_path / "t.csv", index=False)
    np.testing.assert_equal(match_verdicts(read_verdicts(tmp_path / "t.csv"), cells), [np.nan, 1, np.nan])


@pytest.mark.parametrize(("table", "line"), [
    ({"slide": ["a"], "cell": ["1"]}, "`labels` should be a table with `slide`, .* Found slide, cell"),
    ({"cell": ["1"], "label": [1]}, "`labels` should be a table"),
    ({"slide": ["a"], "x": [1], "label": [1]}, "`labels` should be a table"),
    ({"slide": ["a", "a"], "cell": ["1", "2"], "verdict": ["normal", "odd"]}, "`verdict` should be one of 1, 0, .*`odd`"),
])
def test_refuses_other_tables(tmp_path, table, line):
    pd.DataFrame(table).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match=line):
        read_verdicts(tmp_path / "t.csv")
