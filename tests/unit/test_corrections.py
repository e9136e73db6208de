"""`retrieve --labels`: cells are ranked anew by verdicts on some of them."""

import importlib
import sys

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
def rendered_run(cells, table, tmp_path):
    """Scores of rendered cells, whose pixels can be measured."""
    store, random = CellStore(cells), np.random.default_rng(0)
    slides = table.rename(columns={"abnormal": "label"})[["slide", "patient", "split", "label"]]
    slides = slides.assign(probability=0.5, logit=0.0, called=1)
    frames = [store.table(slide).select(["cell", "x", "y", "width", "height"]).to_pandas().assign(slide=slide)
              for slide in slides["slide"]]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows.assign(attention=0.1, evidence=random.normal(size=len(rows)).astype(np.float32), witness=False)
    return write_scores(tmp_path / "predict", slides, rows), cells, rows


def test_measures_of_pixels_are_kept_for_the_next_verdicts(rendered_run, tmp_path, monkeypatch):
    scores, store, rows = rendered_run
    said = rows.groupby("slide").head(2)[["slide", "cell"]].assign(label=[0, 1] * rows["slide"].nunique())
    said.to_csv(tmp_path / "v.csv", index=False)
    looks = importlib.import_module("milscope.ranking._looks")
    measured, measure = [], looks.measure_cells
    monkeypatch.setattr(looks, "measure_cells", lambda pixels: measured.append(len(pixels)) or measure(pixels))
    retrieve(scores, store, tmp_path / "out", RetrieveConfig(k=20), labels=tmp_path / "v.csv")
    assert sum(measured) == len(rows)
    table = (tmp_path / "out" / "ranked.csv").read_text()
    said.iloc[1:].to_csv(tmp_path / "v.csv", index=False)
    retrieve(scores, store, tmp_path / "out", RetrieveConfig(k=10), labels=tmp_path / "v.csv")
    assert sum(measured) == len(rows), "nothing is measured twice"
    said.to_csv(tmp_path / "v.csv", index=False)
    retrieve(scores, store, tmp_path / "out", RetrieveConfig(k=20), labels=tmp_path / "v.csv")
    assert (tmp_path / "out" / "ranked.csv").read_text() == table, "the same from kept measures"


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
