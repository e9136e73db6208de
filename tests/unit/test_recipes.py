"""Which stages a recipe consists of, what each gets, and where the encoder of a model is looked for."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from milscope import recipes
from milscope.configs import EndToEndConfig, PretrainConfig
from milscope.recipes import RECIPES, resolve, run
from milscope.store import Stage
from milscope.types import InputError

LATER = ["predict", "retrieve", "evaluate", "report"]
GRADES = "grade:ordinal(low<mid<high)"


@pytest.fixture
def table() -> pd.DataFrame:
    """Slides with a yes or no, and with a grade."""
    names = [f"s{number:02d}" for number in range(12)]
    return pd.DataFrame({"slide": names, "patient": names, "abnormal": [0, 1] * 6, "grade": ["low", "mid", "high"] * 4,
                         "split": ["train"] * 6 + ["validation"] * 3 + ["test"] * 3})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """Stage → what it was called with; the stages do nothing."""
    found: dict[str, SimpleNamespace] = {}

    def record(*inputs: object, out: Path, config: object, **named: object) -> SimpleNamespace:
        found[out.name] = SimpleNamespace(inputs=inputs, config=config, **named)
        return SimpleNamespace(page=out, auc=0.5)

    for verb in ("tile", "check", "pretrain", "endtoend", "encode", "train", "distill", "seek", *LATER):
        monkeypatch.setattr(recipes, verb, record)
    return found


def test_two_stages_learn_one_after_the_other(table: pd.DataFrame, calls: dict, tmp_path: Path) -> None:
    run(table, tmp_path)
    assert list(calls) == ["tile", "check", "pretrain", "encode", "train", *LATER]
    assert calls["encode"].inputs == (tmp_path / "tile", tmp_path / "pretrain")
    assert calls["predict"].inputs == (tmp_path / "encode", tmp_path / "train")


def test_a_recipe_end_to_end_goes_on_with_its_encoder_and_its_model(table: pd.DataFrame, calls: dict, tmp_path: Path) -> None:
    run(table, tmp_path, recipe="slam-ags-endtoend", settings={"endtoend": {"budget": 64}})
    assert list(calls) == ["tile", "check", "pretrain", "endtoend", "encode", *LATER]
    assert calls["endtoend"].init == tmp_path / "pretrain"
    assert calls["endtoend"].inputs[0] == tmp_path / "tile"
    assert calls["endtoend"].config == EndToEndConfig(budget=64)
    assert calls["pretrain"].config == PretrainConfig()
    assert calls["encode"].inputs == (tmp_path / "tile", tmp_path / "endtoend" / "encoder")
    assert calls["predict"].inputs == (tmp_path / "encode", tmp_path / "endtoend" / "model")


def test_without_epochs_of_pretraining_the_encoder_is_made_end_to_end(table: pd.DataFrame, calls: dict, tmp_path: Path) -> None:
    run(table, tmp_path, recipe="abmilx")
    assert list(calls) == ["tile", "check", "endtoend", "encode", *LATER]
    assert calls["endtoend"].init is None
    run(table, tmp_path, recipe="abmilx", settings={"pretrain": {"epochs": 1}})
    assert calls["endtoend"].init == tmp_path / "pretrain"
    calls.clear()
    run(table, tmp_path, recipe="untrained")
    assert list(calls) == ["tile", "check", "pretrain", "encode", "train", *LATER]


def test_the_task_of_a_recipe_end_to_end_is_its_own_and_needs_no_yes_or_no(table: pd.DataFrame, calls: dict,
                                                                          tmp_path: Path) -> None:
    graded = table.drop(columns="abnormal")
    run(graded, tmp_path, recipe="abmilx", settings={"endtoend": {"task": GRADES}})
    assert calls["check"].config.task == "grade"
    with pytest.raises(InputError):
        run(graded, tmp_path, recipe="slam-ags-endtoend", settings={"endtoend": {"task": GRADES}})
    with pytest.raises(InputError, match="happy"):
        run(table, tmp_path, recipe="abmilx", settings={"endtoend": {"task": "happy"}})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_says_all_its_settings(recipe: str, table: pd.DataFrame, calls: dict, tmp_path: Path) -> None:
    run(table, tmp_path, recipe=recipe)
    told = json.loads((tmp_path / "run.json").read_text())
    assert told["recipe"] == recipe
    assert {"endtoend", "train", "pretrain", "seek"} <= set(told)
    assert calls["retrieve"].config == resolve(recipe, {})["retrieve"]


def test_cells_are_sought_without_an_encoder_unless_a_ranking_looks_at_features(table: pd.DataFrame, calls: dict,
                                                                               tmp_path: Path) -> None:
    run(table, tmp_path, recipe="seek")
    assert list(calls) == ["tile", "check", "seek", *LATER[1:]]
    assert calls["seek"].inputs[0] == tmp_path / "tile"
    assert calls["seek"].features is None
    assert calls["retrieve"].inputs == (tmp_path / "seek", tmp_path / "tile")
    assert calls["evaluate"].inputs == (tmp_path / "seek",)
    assert calls["check"].config.task == "abnormal"
    calls.clear()
    run(table, tmp_path, recipe="seek", settings={"seek": {"rankings": ["seek", "svdd"]}})
    assert list(calls) == ["tile", "check", "pretrain", "encode", "seek", *LATER[1:]]
    assert calls["pretrain"].config.method == "simclr"
    assert calls["seek"].features == tmp_path / "encode"
    with pytest.raises(InputError, match="happy"):
        run(table, tmp_path, recipe="seek", settings={"seek": {"task": "happy"}})


def test_a_teacher_is_scored_and_judged_and_the_later_stages_go_on_with_its_student(table: pd.DataFrame, calls: dict,
                                                                                   tmp_path: Path) -> None:
    run(table, tmp_path, recipe="mecds")
    taught = ["predict-teacher", "evaluate-teacher", "distill"]
    assert list(calls) == ["tile", "check", "pretrain", "encode", "train", *taught, *LATER]
    assert calls["distill"].inputs == (tmp_path / "encode", calls["train"].inputs[1])
    assert calls["distill"].teacher == calls["predict-teacher"].inputs[1] == tmp_path / "train"
    assert calls["evaluate-teacher"].inputs == (tmp_path / "predict-teacher",)
    assert calls["predict"].inputs == (tmp_path / "encode", tmp_path / "distill")
    assert calls["evaluate"].inputs == (tmp_path / "predict",)
    assert (calls["train"].config.balance, calls["distill"].config.balance) == ("sampling", "none")
    assert calls["pretrain"].config.method == "simclr"


def test_the_student_learns_as_its_teacher_unless_told_otherwise(table: pd.DataFrame, calls: dict, tmp_path: Path) -> None:
    run(table, tmp_path, recipe="mecds", settings={"train": {"epochs": 7, "batch": 3, "balance": "weights"},
                                                   "distill": {"batch": 5, "margin": 0.1}})
    student, teacher = calls["distill"].config, calls["train"].config
    assert (teacher.epochs, teacher.batch, teacher.balance) == (7, 3, "weights")
    assert (student.epochs, student.batch, student.balance, student.margin) == (7, 5, "none", 0.1)


def test_a_recipe_with_a_teacher_learns_all_columns_of_yes_and_no_and_its_encoder_needs_none(table: pd.DataFrame, calls: dict,
                                                                                            tmp_path: Path) -> None:
    several = table.assign(clue=[1, 1, 0, 0, "", 0] * 2)
    run(several, tmp_path, recipe="mecds")
    assert calls["train"].config.task == calls["distill"].config.task == calls["check"].config.task == "abnormal,clue"
    assert calls["pretrain"].config.task == ""
    run(several, tmp_path, recipe="mecds", settings={"train": {"task": "clue"}})
    assert calls["train"].config.task == calls["distill"].config.task == "clue"
    for recipe in ("slam-ags", "mean"):
        with pytest.raises(InputError, match="2 such columns"):
            run(several, tmp_path, recipe=recipe)
    with pytest.raises(InputError, match="2 such columns"):
        run(several, tmp_path, recipe="mecds", settings={"pretrain": {"method": "slam-ags"}})


def artifact(place: Path, seed: int) -> str:
    with Stage(place, "encoder", PretrainConfig(seed=seed), {}) as stage:
        pass
    return stage.manifest.fingerprint


def test_the_encoder_of_a_model_is_found_beside_it(tmp_path: Path) -> None:
    own, other = artifact(tmp_path / "encoder", 0), artifact(tmp_path / "pretrain", 1)
    find = recipes._encoder
    assert find(tmp_path / "model", None, {"encoder": own}) == tmp_path / "encoder"
    assert find(tmp_path / "model", None, {"encoder": other}) == tmp_path / "pretrain"
    assert find(tmp_path / "model", tmp_path / "pretrain", {"encoder": other}) == tmp_path / "pretrain"
    with pytest.raises(InputError, match=f"Found {own} at .*encoder and {other} at .*pretrain. Give the right one"):
        find(tmp_path / "model", None, {"encoder": "abc"})
    with pytest.raises(InputError, match=f"Found {other} at"):
        find(tmp_path / "model", tmp_path / "pretrain", {"encoder": own})
    with pytest.raises(InputError, match=r"Found none at .*encoder or .*pretrain"):
        find(tmp_path / "elsewhere" / "model", None, {"encoder": own})
