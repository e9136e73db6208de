"""`retrieve --labels`: cells are ranked anew by verdicts on some of them."""

import importlib
import pickle
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.fake_scores import cell_table, slide_table, write_cells, write_scores

from milscope import cli
from milscope.configs import EncodeConfig, EvaluateConfig, RetrieveConfig
from milscope.evaluate import evaluate
from milscope.retrieve import COLUMNS, retrieve
from milscope.store import CellStore, Stage, read_manifest, write_features
from milscope.types import InputError


@pytest.fixture
def run(tmp_path):
    """Scores whose evidence says nothing, cells, and features in which witnesses stand out."""
    slides = slide_table()
    cells = cell_table(slides)
    random = np.random.default_rng(3)
    cells["evidence"] = random.permutation(cells["evidence"].to_numpy())
    with Stage(tmp_path / "encode", "features", EncodeConfig(), {}, ["P04"]) as stage:
        (stage.work / "features_fake").mkdir()
        for slide, rows in cells.groupby("slide"):
            features = random.normal(size=(len(rows), 8)).astype(np.float32)
            features[rows["witness"], :2] += 6
            table = pa.table({**{name: rows[name] for name in ("cell", "x", "y", "width", "height")},
                              "mpp": pa.nulls(len(rows), pa.float64())})
            write_features(stage.work / "features_fake" / f"{slide}.h5", features, table, encoder="fake")
    return (write_scores(tmp_path / "predict", slides, cells), write_cells(tmp_path / "tile", cells), tmp_path / "out",
            cells, tmp_path / "encode")


def judged(tmp_path, cells, slides=("S01", "S03", "S05"), each=6):
    """Verdicts on the first cells of some slides, three of which are abnormal on each positive one."""
    table = cells[cells["slide"].isin(slides)].groupby("slide").head(each)
    table = table[["slide", "cell"]].assign(label=table["witness"].astype(int))
    table.to_csv(tmp_path / "verdicts.csv", index=False)
    return tmp_path / "verdicts.csv", table


def test_abnormal_cells_come_first_on_slides_nobody_judged_and_judged_ones_stand_where_they_were_put(run, tmp_path):
    scores, store, out, cells, features = run
    path, said = judged(tmp_path, cells)
    result = retrieve(scores, store, out, labels=path, features=features)
    table = pd.read_csv(out / "ranked.csv")
    assert tuple(table.columns) == COLUMNS
    assert table.groupby("slide")["score"].apply(lambda own: own.is_monotonic_decreasing).all()
    found = table.merge(cells[["slide", "cell", "witness"]]).merge(said, how="left")
    others = found[~found["slide"].isin(said["slide"]) & found["slide"].isin(cells.loc[cells["witness"], "slide"])]
    assert others[others["rank"] <= 3]["witness"].mean() == 1
    assert (found.loc[found["label"] == 1, "rank"] <= 3).all()
    assert (found.loc[found["label"] == 0, "rank"] > 27).all()
    with pa.memory_map(str(out / "S07.arrow")) as file:
        arrow = pa.ipc.open_file(file).read_all()
    assert arrow["image"].to_pylist() == [cell.encode() for cell in arrow["cell"].to_pylist()]
    assert result.gain == "abnormal among the first 9 of 18 held-out verdicts: 6 before, 9 now, 4 by chance"
    assert result.warnings == ()
    assert retrieve(scores, store, out, labels=path, features=features) == result


def test_the_artifact_says_what_it_learned_from(run, tmp_path):
    scores, store, out, cells, features = run
    path, said = judged(tmp_path, cells)
    retrieve(scores, store, out, labels=path, features=features)
    manifest = read_manifest(out, "ranked")
    assert set(manifest.inputs) == {"scores", "cells", "labels", "features"}
    assert manifest.patients == ["P01", "P03", "P04", "P05"]
    assert manifest.summary["verdicts"] | {"gain": None} == {
        "abnormal": 9, "normal": 9, "unsure": 0, "unmatched": 0, "kept_order": False, "gain": None}
    said.iloc[1:].to_csv(path, index=False)
    retrieve(scores, store, out, labels=path, features=features)
    assert read_manifest(out, "ranked").fingerprint != manifest.fingerprint
    with pytest.raises(InputError, match="`ranked` should be ranked without verdicts"):
        evaluate(scores, tmp_path / "evaluate", EvaluateConfig(transductive=True), ranked=out)


@pytest.mark.parametrize(("label", "line"), [(0, "nothing abnormal was judged"), (1, "nothing normal was judged")])
def test_too_few_verdicts_leave_the_order_as_it_was(run, tmp_path, label, line):
    scores, store, out, cells, features = run
    path, said = judged(tmp_path, cells)
    said[said["label"] == label].assign(cell=lambda rows: rows["cell"]).to_csv(path, index=False)
    result = retrieve(scores, store, out, labels=path, features=features)
    assert line in result.warnings[0]
    assert result.gain is None
    retrieve(scores, store, tmp_path / "plain")
    assert (out / "ranked.csv").read_text() == (tmp_path / "plain" / "ranked.csv").read_text()


def test_cells_beyond_reach_follow_as_they_were(run, tmp_path):
    scores, store, out, cells, features = run
    path, _ = judged(tmp_path, cells)
    retrieve(scores, store, out, RetrieveConfig(reach=10), labels=path, features=features)
    retrieve(scores, store, tmp_path / "plain")
    tables = (pd.read_csv(where / "ranked.csv") for where in (out, tmp_path / "plain"))
    anew, plain = (table.loc[table["slide"] == "S07", "cell"].tolist() for table in tables)
    assert anew[10:] == plain[10:]
    assert anew[:10] != plain[:10]
    assert set(anew[:10]) == set(plain[:10])


def test_verdicts_of_a_task_change_that_task_only(run, tmp_path):
    _, store, out, cells, features = run
    both = cells.assign(**{"attention:clue": cells["attention"], "evidence:clue": -cells["evidence"]})
    scores = write_scores(tmp_path / "both", slide_table(), both)
    path, _ = judged(tmp_path, cells)
    retrieve(scores, store, tmp_path / "plain")
    retrieve(scores, store, out, RetrieveConfig(labels_task="clue"), labels=path, features=features)
    same = {name: (out / name).read_text() == (tmp_path / "plain" / name).read_text()
            for name in ("ranked.csv", "tasks/clue/ranked.csv")}
    assert same == {"ranked.csv": True, "tasks/clue/ranked.csv": False}
    with pytest.raises(InputError, match="`labels_task`"):
        retrieve(scores, store, out, RetrieveConfig(labels_task="other"), labels=path)


def test_what_the_new_order_loses_is_said(run, tmp_path):
    scores, store, out, cells, features = run
    path, said = judged(tmp_path, cells, each=8)
    table = pd.read_parquet(scores / "cells.parquet").merge(said, how="left")
    table["evidence"] = table["evidence"].where(table["label"].isna(), table["label"]).astype(np.float32)
    table.drop(columns="label").to_parquet(scores / "cells.parquet", index=False)
    random = np.random.default_rng(0)
    for file in sorted((features / "features_fake").glob("*.h5")):
        rows = cells[cells["slide"] == file.stem]
        table = pa.table({**{name: rows[name] for name in ("cell", "x", "y", "width", "height")},
                          "mpp": pa.nulls(len(rows), pa.float64())})
        file.unlink()
        write_features(file, random.normal(size=(len(rows), 8)).astype(np.float32) * 30, table, encoder="fake")
    assert "the new order is worse" in retrieve(scores, store, out, labels=path, features=features).warnings[0]


@pytest.fixture
def seen(run, tmp_path, monkeypatch):
    """Cells with pixels, two of each slide judged, and the numbers of cells that were measured, slide by slide."""
    scores, store, out, cells, _ = run

    def pixels(store, slide, rows, size):
        drawn = np.random.default_rng(int(slide[1:])).integers(0, 256, (store.count(slide), 16, 16, 3), dtype=np.uint8)
        return drawn[rows]

    monkeypatch.setattr(CellStore, "decode", pixels)
    module = importlib.import_module("milscope.ranking._looks")
    measured, measure = [], module.measure_cells
    monkeypatch.setattr(module, "measure_cells", lambda pixels: measured.append(len(pixels)) or measure(pixels))
    cells.groupby("slide").head(2)[["slide", "cell"]].assign(label=[0, 1] * cells["slide"].nunique()).to_csv(
        tmp_path / "v.csv", index=False)
    return scores, store, out, tmp_path / "v.csv", measured


def test_measures_of_pixels_are_kept_for_the_next_verdicts(seen):
    scores, store, out, path, measured = seen
    retrieve(scores, store, out, RetrieveConfig(k=20), labels=path)
    assert measured == [30] * 12
    table, said = (out / "ranked.csv").read_text(), path.read_text()
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    retrieve(scores, store, out, RetrieveConfig(k=10), labels=path)
    assert measured == [30] * 12, "nothing is measured twice"
    path.write_text(said)
    retrieve(scores, store, out, RetrieveConfig(k=20), labels=path)
    assert (out / "ranked.csv").read_text() == table, "the same from kept measures"


def test_slides_that_were_measured_before_it_was_interrupted_are_not_measured_again(seen, tmp_path, monkeypatch):
    scores, store, out, path, measured = seen
    module = importlib.import_module("milscope.ranking._looks")
    told, bars, measure = [], [], module.measure_cells

    @contextmanager
    def bar(*given):
        bars.append(given)
        yield told.append

    def breaks(pixels):
        if len(measured) == 5:
            raise KeyboardInterrupt
        return measure(pixels)

    monkeypatch.setattr(module, "progress", bar)
    with monkeypatch.context() as patched:
        patched.setattr(module, "measure_cells", breaks)
        with pytest.raises(KeyboardInterrupt):
            retrieve(scores, store, out, labels=path)
    retrieve(scores, store, out, labels=path)
    assert measured == [30] * 12
    assert bars == [("measure", 360, "cells", 0), ("measure", 360, "cells", 150)]
    assert told == [30] * 12
    table = (out / "ranked.csv").read_text()
    retrieve(scores, store, tmp_path / "whole", labels=path)
    assert (tmp_path / "whole" / "ranked.csv").read_text() == table


def test_many_cells_are_measured_over_all_cores(seen, monkeypatch):
    scores, store, out, path, _ = seen
    module = importlib.import_module("milscope.ranking._looks")
    asked = []

    def pool(function, jobs, workers):
        asked.append(workers)
        return ((job, pickle.loads(pickle.dumps(function))(job)) for job in jobs)  # as a process gets it

    monkeypatch.setattr(module, "over_slides", pool)
    retrieve(scores, store, out, labels=path)
    alone = (out / "ranked.csv").read_text()
    monkeypatch.setattr(module, "ALONE", 360)
    retrieve(scores, store, out.with_name("many"), labels=path)
    assert asked == [1, 0]
    assert (out.with_name("many") / "ranked.csv").read_text() == alone


def test_a_scored_cell_that_the_store_lacks_is_refused(run, tmp_path):
    scores, store, out, cells, features = run
    path, _ = judged(tmp_path, cells)
    table = pd.read_parquet(scores / "cells.parquet")
    table["cell"] = table["cell"].where(table.index != 40, "gone")
    table.to_parquet(scores / "cells.parquet", index=False)
    with pytest.raises(InputError, match=r"`cells` should be the store that the scores were made from\. Found 1 scored cells"):
        retrieve(scores, store, out, labels=path, features=features)


def test_refuses_what_does_not_fit(run, tmp_path):
    scores, store, out, cells, features = run
    path, said = judged(tmp_path, cells)
    with pytest.raises(InputError, match="`--features` should be given with `--labels`"):
        retrieve(scores, store, out, features=features)
    with pytest.raises(InputError, match="`reach`"):
        retrieve(scores, store, out, RetrieveConfig(reach=0), labels=path)
    (features / "features_fake" / "S02.h5").unlink()
    with pytest.raises(InputError, match="none of some cells of slide S02"):
        retrieve(scores, store, out, labels=path, features=features)
    said.assign(slide="other").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"`labels` should be about cells of the scored slides. Found none, .*`other`"):
        retrieve(scores, store, out, labels=path)
    assert not out.exists()


def test_the_command_tells_the_gain(run, tmp_path, monkeypatch, capsys):
    scores, store, out, cells, features = run
    path, _ = judged(tmp_path, cells)
    monkeypatch.setattr(sys, "argv", ["milscope", "retrieve", *map(str, (scores, store)), "--labels", str(path), "--features",
                                      str(features), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "held-out verdicts: 6 before, 9 now, 4 by chance" in capsys.readouterr().out
