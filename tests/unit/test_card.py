"""A model's card and the lines of `milscope info` say what is on record, and leave out what is not."""

import json
import shutil
from pathlib import Path

import pytest

from milscope.card import card, card_of, describe, operating_lines
from milscope.configs import EndToEndConfig, ReportConfig, TileConfig, TrainConfig
from milscope.operating import Operating
from milscope.store import Stage, fingerprint, read_manifest
from milscope.types import InputError

V1 = Path(__file__).parents[1] / "formats" / "v1"
POINT = Operating(1.25, 0.98, 0.95, "exact", positives=149, missed=0, negatives=210, cleared=160, upper=2.5, specificity=0.9)
RECORD = {
    "aggregator": "ensemble", "members": ["abmil", "abmil", "clam-sb"], "task": "abnormal",
    "tasks": [{"kind": "binary", "name": "abnormal", "classes": ["negative", "positive"], "temperature": 1.5},
              {"kind": "ordinal", "name": "grade", "classes": ["NILM", "ASC|LSIL", "HSIL"], "temperature": 1.0},
              {"kind": "cox", "name": "death", "time": "months", "event": "died"}],
    "encoder": "e1f2", "encoder_name": "resnet18", "cells": {"size": 64, "mpp": 0.5},
    "operating": {"abnormal": POINT._asdict()}, "validation": {"abnormal": 0.951, "grade": 0.8, "death": float("nan")},
    "validation_intervals": {"abnormal": {"value": 0.951, "low": 0.9, "high": 0.98},
                             "death": {"value": float("nan"), "low": float("nan"), "high": float("nan")}},
    "validation_loss": 0.31, "patients_fingerprint": "abcd",
    "data": {"train": {"slides": 1200, "patients": 800, "classes": {"abnormal": {"negative": 900, "positive": 300}}},
             "calibration": {"slides": 359, "patients": 359, "classes": {"abnormal": {"negative": 210, "positive": 149}}}},
}


def model(folder, record, config=None):
    with Stage(folder / "model", "model", config or TrainConfig(), {"features": "f1"}, ["p2", "p1"]) as stage:
        (stage.work / "model.json").write_text(json.dumps(record))
        stage.summary.update(aggregator="ensemble", task="abnormal", skipped=["s1"], warnings=["1 slides were left out: s1"])
    return folder / "model"


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_card_says_what_is_predicted_from_what_and_for_whom(tmp_path):
    directory = model(tmp_path, RECORD)
    text = card(directory)
    assert text.startswith("# Model card: abnormal, grade, death\n")
    assert "(`ensemble`, the mean of 3: abmil, abmil, clam-sb)" in text
    predicts = section(text, "What it predicts").splitlines()
    assert "| abnormal | binary | negative, positive | 1.5 |" in predicts
    assert r"| grade | ordinal | NILM, ASC\|LSIL, HSIL | not fitted |" in predicts
    assert "| death | cox | months, died | not fitted |" in predicts
    assert "- Encoder: resnet18 (e1f2)" in predicts
    assert "- Cells: size 64, mpp 0.5" in predicts
    data = section(text, "Data")
    assert "| train | 1,200 | 800 | abnormal: negative 900, positive 300 |" in data
    assert "| calibration | 359 | 359 | abnormal: negative 210, positive 149 |" in data
    assert f"2 patients ({fingerprint(['p1', 'p2'])})" in data
    assert "`abcd`" in data
    validation = section(text, "Validation").splitlines()
    assert [line for line in validation if line.startswith("- ")] == [
        "- abnormal, AUC: 0.951 (95 % interval over patients: 0.9 to 0.98)",
        "- grade, concordance: 0.8", "- death, C-index: undefined", "- loss: 0.31"]
    manifest = read_manifest(directory, "model")
    assert f"- model: `{manifest.fingerprint}`" in section(text, "Versions")
    assert f"- milscope: {manifest.milscope}" in section(text, "Versions")


def test_the_card_states_the_promise_and_its_terms(tmp_path):
    text = section(card(model(tmp_path, RECORD)), "Operating point")
    assert "**abnormal**" in text
    assert "- negative below suspicion 1.25 (probability 0.777), positive from suspicion 2.5 (probability 0.924) on, " in text
    assert "- sensitivity: at least 0.98 of positive patients are not called negative, with confidence 0.95 (exact)." in text
    assert "- specificity: at least 0.9 of negative patients are not called positive, with confidence 0.95 (exact)." in text
    assert "- chosen on 149 positive patients, 0 of them below, and 210 negative ones, 160 below." in text
    assert "another laboratory" in text


@pytest.mark.parametrize(("change", "line"), [
    ({"upper": None, "specificity": None}, "positive from suspicion 1.25 (probability 0.777) on"),
    ({"upper": 0.5}, "positive from suspicion 1.25 (probability 0.777) on; nothing is left to review"),
    ({"threshold": -800.0, "upper": None}, "positive from suspicion -800 (probability 0) on"),
])
def test_the_decision_in_words(change, line):
    assert operating_lines(POINT._replace(**change)._asdict())[0] == line


def test_a_promise_on_average_names_no_confidence():
    lines = operating_lines(POINT._replace(guarantee="expected", confidence=None)._asdict())
    assert lines[1] == "sensitivity: at least 0.98 of positive patients are not called negative, on average (expected)"


def test_the_card_says_what_is_not_known_of_this_model(tmp_path):
    told = section(card(model(tmp_path / "a", RECORD)), "What it does not know")
    assert "not calibrated" not in told
    assert "equally many of each" in told
    plain = {**RECORD, "tasks": RECORD["tasks"][1:], "operating": {}}
    text = card(model(tmp_path / "b", plain, TrainConfig(balance="none")))
    assert "not calibrated" in section(text, "What it does not know")
    assert "equally many of each" not in text
    assert section(text, "Operating point").strip().startswith("None was chosen.")


@pytest.mark.parametrize("record", [{}, {"aggregator": "abmil", "task": "abnormal"}, {"tasks": None, "operating": None},
                                    {"operating": {"abnormal": {"threshold": 0.5}}, "task": "abnormal", "data": {"train": {}}}])
def test_what_is_not_on_record_is_left_out(record, tmp_path):
    directory = model(tmp_path, record)
    for text in (card(directory), describe(directory)):
        assert "None " not in text.replace("None was chosen", "")
        assert "nan" not in text
        assert "{" not in text


def test_a_model_of_the_first_format():
    text = card(V1 / "model")
    assert "| abnormal | binary | negative, positive | not fitted |" in text
    assert "- AUC: 1" in section(text, "Validation")
    assert "| train | 2 |  |  |" in section(text, "Data")
    assert card_of({}, read_manifest(V1 / "model", "model"))


def test_info_of_a_model(tmp_path):
    lines = describe(model(tmp_path, RECORD, TrainConfig(epochs=7, aggregators=("abmil", "clam-sb")))).splitlines()
    labels = [line.split("  ")[0] for line in lines]
    values = [line[len(max(labels, key=len)) + 2:] for line in lines]
    assert all(value == value.strip() != "" for value in values), "aligned"
    told = list(zip(labels, values, strict=True))
    assert told[0] == ("model", str(tmp_path / "model"))
    for each in [("from", "features f1"), ("settings", "aggregators abmil, clam-sb"), ("", "epochs 7"),
                 ("task", "abnormal: binary (negative, positive)"), ("", "temperature 1.5"),
                 ("", "validation AUC 0.951 (95 % interval over patients: 0.9 to 0.98)"),
                 ("task", "death: cox (months, died)"), ("", "validation C-index undefined"),
                 ("members", "the mean of 3: abmil, abmil, clam-sb"), ("encoder", "resnet18 (e1f2)"), ("skipped", "s1"),
                 ("warning", "1 slides were left out: s1")]:
        assert each in told
    assert any(value.startswith("negative below suspicion 1.25") for value in values)


def test_info_of_what_was_trained_end_to_end(tmp_path):
    with Stage(tmp_path / "both", "endtoend", EndToEndConfig(budget=64), {"cells": "c1"}, ["p1"]) as stage:
        with Stage(stage.work / "encoder", "encoder", EndToEndConfig(budget=64), {"cells": "c1"}, ["p1"]) as inner:
            inner.summary.update(encoder="resnet18", epochs=3)
        model(stage.work, RECORD, EndToEndConfig(budget=64))
        stage.summary.update(encoder="resnet18", chunk=256, task="abnormal")
    for part in ("", "encoder", "model"):
        lines = describe(tmp_path / "both" / part).splitlines()
        settings = [number for number, line in enumerate(lines) if line.startswith("settings ")]
        assert [lines[number].split()[1:] for number in settings] == [["budget", "64"]]
        assert not lines[settings[0] + 1].startswith(" "), "no other setting"
    told = describe(tmp_path / "both")
    assert told.startswith("endtoend ")
    assert "temperature 1.5" in told
    assert "chunk" in told
    assert sum(line.startswith("encoder") for line in told.splitlines()) == 1
    assert card(tmp_path / "both") == card(tmp_path / "both" / "model")


@pytest.mark.parametrize("kind", ["cells", "encoder", "features", "model", "scores"])
def test_info_of_every_archived_kind(kind):
    lines = describe(V1 / kind).splitlines()
    assert lines[0].split() == [kind, str(V1 / kind)]
    assert lines[1].split()[:4] == ["made", "by", "milscope", "0.1.0,"]
    assert "format 1" in lines[1]


def test_only_settings_unlike_the_defaults_are_listed(tmp_path):
    with Stage(tmp_path / "a", "cells", TileConfig(), {}):
        pass
    with Stage(tmp_path / "b", "cells", TileConfig(mpp=0.25), {}):
        pass
    assert describe(tmp_path / "a").splitlines()[-1].split() == ["settings", "as", "the", "defaults"]
    assert describe(tmp_path / "b").splitlines()[-1].split() == ["settings", "mpp", "0.25"]


def test_a_kind_without_known_defaults_lists_all_settings(tmp_path):
    with Stage(tmp_path / "x", "atlas", ReportConfig(title="t"), {"a": "b"}) as stage:
        stage.summary.update(parts=list(range(20)), share=0.25, whole=True)
    text = describe(tmp_path / "x")
    assert "title t" in text
    assert f"cells {ReportConfig().cells}" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, … (20 in all)" in text
    assert "whole     yes" in text


@pytest.mark.parametrize("tell", [describe, card])
def test_a_newer_format_is_refused_with_a_way_out(tell, tmp_path):
    shutil.copytree(V1 / "model", tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(InputError, match=r"Found format 99\. Update milscope"):
        tell(tmp_path / "model")


@pytest.mark.parametrize(("name", "content", "line"), [
    ("manifest.json", None, "should be a milscope artifact. Found no manifest.json there"),
    ("manifest.json", "{", "should be a milscope manifest"),
    ("manifest.json", "{}", "should be a milscope manifest"),
    ("model.json", None, "should be a model's record. Found FileNotFoundError"),
    ("model.json", "[1", "should be a model's record. Found JSONDecodeError"),
    ("model.json", "[1]", "should be a model's record. Found list"),
])
def test_damaged_artifacts_are_refused_in_one_line(name, content, line, tmp_path):
    shutil.copytree(V1 / "model", tmp_path / "model")
    path = tmp_path / "model" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError) as told:
        describe(tmp_path / "model")
    assert line in str(told.value)
    assert "\n" not in str(told.value)


def test_a_card_is_of_models_only():
    with pytest.raises(InputError, match="should be a `model` artifact"):
        card(V1 / "cells")
