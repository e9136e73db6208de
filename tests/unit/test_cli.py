import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from milscope.cli import cli, main
from milscope.configs import STAGES
from milscope.flags import read_toml
from milscope.types import InputError

V1 = Path(__file__).parents[1] / "formats" / "v1"
COMMANDS = ["synth", *STAGES, "run"]


def test_help_does_not_import_torch() -> None:
    script = ("import sys; sys.argv = ['milscope', '--help']\n"
              "from milscope.cli import main\n"
              "try: main()\n"
              "except SystemExit: pass\n"
              "print(sorted({'torch', 'pandas', 'timm', 'sklearn'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_units_and_defaults(command: str) -> None:
    told = CliRunner().invoke(cli, [command, "--help"]).output
    assert "Options:" in told
    if command != "report":
        assert "[default:" in told or "[required]" in told


def test_every_command_is_listed() -> None:
    told = CliRunner().invoke(cli, ["--help"]).output
    assert all(command in told for command in COMMANDS)


def test_version() -> None:
    assert "milscope, version" in CliRunner().invoke(cli, ["--version"]).output


@pytest.mark.parametrize(("arguments", "line"), [
    ([], ""),
    (["fly"], "No such command 'fly'"),
    (["tile"], "Missing argument 'SLIDES'"),
    (["pretrain", "a", "b", "--out", "c", "--epochs", "many"], "'many' is not a valid integer"),
    (["pretrain", "a", "b", "--out", "c", "--encoder-options", "{"], "should be JSON"),
    (["tile", "nowhere.csv", "--out", "c"], "nowhere.csv"),
    (["run", "nowhere.csv", "--recipe", "soup"], "`recipe` should be one of"),
    (["run", "nowhere.csv", "--set", "epochs"], "STAGE.KEY=VALUE"),
    (["run", "nowhere.csv", "--set", "pretrain.epoch=3"], "Did you mean `epochs`?"),
    (["run", "nowhere.csv", "--set", "cook.epochs=3"], "[cook]"),
    (["run", "nowhere.csv", "--config", "nowhere.toml"], "nowhere.toml"),
    (["predict", str(V1 / "model"), "new.csv", "--slides", "s.csv", "--out", "c"],
     "`--slides` should be left out with MODEL SLIDES. Found s.csv. The table goes"),
    (["predict", str(V1 / "features"), str(V1 / "model"), "--cells", "x.csv", "--out", "c"],
     "`--cells` should be left out with FEATURES MODEL. Found x.csv. The features are made"),
    (["predict", str(V1 / "features"), "m", "--images", "x", "--out", "c"], "`--images` should be left out"),
    (["predict", str(V1 / "features"), "m", "--encoder", "x", "--out", "c"], "`--encoder` should be left out"),
])
def test_a_mistake_is_one_line_and_exit_status_2(arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["milscope", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    if not arguments:
        assert "Commands:" in told.out + told.err
        return
    assert ended.value.code == 2
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert line in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_toml_file_sets_a_stage_and_flags_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from milscope.tile import Tiled

    seen = []
    monkeypatch.setattr(sys.modules["milscope.tile"], "tile",
                        lambda *_, config, **__: seen.append(config) or Tiled(Path(), 0, 0, 0))
    (tmp_path / "run.toml").write_text("[tile]\nsize = 80\nquality = 90\n[train]\nepochs = 3\n")
    CliRunner().invoke(cli, ["tile", "s.csv", "--out", "t", "--config", str(tmp_path / "run.toml"), "--size", "96"],
                       catch_exceptions=False)
    assert (seen[0].size, seen[0].quality) == (96, 90)


@pytest.mark.parametrize(("task", "columns"), [
    ("abnormal", "abnormal"), ("grade:ordinal(a<b)", None), ("abnormal,other", None)])
def test_kinds_of_tasks_go_to_the_stages_that_know_them(task: str, columns: str | None,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    from milscope.recipes import Ran

    seen = []
    monkeypatch.setattr(sys.modules["milscope.recipes"], "run",
                        lambda *_, settings, **__: seen.append(settings) or Ran(Path(), Path(), 0.5))
    CliRunner().invoke(cli, ["run", "s.csv", "--task", task, "--seed", "3"], catch_exceptions=False)
    told = {stage: values.get("task") for stage, values in seen[0].items()}
    assert told["train"] == told["endtoend"] == task
    assert told["pretrain"] == told["check"] == told["seek"] == columns
    assert seen[0]["endtoend"]["seed"] == seen[0]["pretrain"]["seed"] == 3


def test_broken_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[tile\n")
    with pytest.raises(InputError, match="a TOML file"):
        read_toml(tmp_path / "run.toml")
