"""The whole flow through the command line, on rendered slides: whole, killed, repeated, and with bad input."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from milscope.cli import main
from milscope.configs import RetrieveConfig
from milscope.recipes import apply
from milscope.recipes import run as run_recipe
from milscope.retrieve import retrieve
from milscope.store import read_manifest

SMALL = """
[split]
validation = 0.25
test = 0.25
[tile]
size = 96
workers = 1
limit = 0
[check]
workers = 1
[pretrain]
size = 32
epochs = 2
batch = 32
projection = 16
device = "cpu"
encoder_options = {channels = [8, 8, 16, 16]}
[train]
epochs = 10
aggregators = ["abmil-gated", "pamil"]
[endtoend]
epochs = 2
budget = 8
size = 32
device = "cpu"
encoder_options = {channels = [8, 8, 16, 16]}
options = {hidden = 16, heads = 2}
[evaluate]
draws = 100
"""
STAGES = ("tile", "check", "pretrain", "encode", "train", "predict", "retrieve", "evaluate", "report")
JOINT = ("tile", "check", "endtoend", "encode", "predict", "retrieve", "evaluate", "report")


def command(slides: Path, out: Path, *more: str) -> list[str]:
    settings = out.parent / "run.toml"
    settings.write_text(SMALL)
    return [sys.executable, "-m", "milscope", "run", str(slides), "--out", str(out), "--config", str(settings), *more]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return milscope(*command(*arguments)[3:])


def milscope(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process, as importing everything takes seconds; that it is a program, `finished` shows."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["milscope", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return subprocess.CompletedProcess(arguments, ended.value.code, out.getvalue(), err.getvalue())


def results(out: Path) -> dict[str, object]:
    """What must be the same in two runs, bit by bit."""
    tensors = {f"{name}/{key}": tensor.tolist() for name in ("pretrain/encoder", "train/model")
               for key, tensor in load_file(out / f"{name}.safetensors").items()}
    texts = {name: (out / name).read_text() for name in ("slides.csv", "predict/slides.csv", "retrieve/ranked.csv",
                                                         "evaluate/metrics.json", "train/log.csv")}
    return {**tensors, **texts}


@pytest.fixture(scope="module")
def finished(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    arguments = command(rendered / "slides.csv", out, "--cells", str(rendered / "cells.csv"),
                        "--truth", str(rendered / "truth/cells.csv"))
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"AUC [\d.]+ on test patients\. Open .*index\.html", done.stdout)
    assert done.stderr.replace("warning", "") == "" or all("warning" in line for line in done.stderr.splitlines())
    return out


def pages_of(report: Path) -> str:
    """What all pages of a report say."""
    return "".join(page.read_text() for page in sorted(report.rglob("*.html")))


def test_every_stage_leaves_its_artifact(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {"slides.csv", "run.json", *STAGES}
    metrics = json.loads((finished / "evaluate/metrics.json").read_text())
    assert set(metrics["slides"]["abnormal"]["auc"]) == {"value", "low", "high"}
    assert {"recall_at_10", "precision_at_10", "auc", "enrichment_at_10"} <= set(metrics["cells"]["abnormal"])
    ranked = pd.read_csv(finished / "retrieve/ranked.csv")
    assert (ranked.groupby("slide").size() == 30).all()
    assert (finished / "report/index.html").stat().st_size > 50_000


def test_the_patients_of_the_encoder_are_the_training_patients(finished: Path) -> None:
    table = pd.read_csv(finished / "slides.csv")
    assert read_manifest(finished / "pretrain", "encoder").patients == sorted(table.loc[table["split"] == "train", "patient"])


def test_a_finished_run_is_skipped(finished: Path, rendered: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.parent != finished and path.is_file()}
    done = run(rendered / "slides.csv", finished, "--cells", str(rendered / "cells.csv"),
               "--truth", str(rendered / "truth/cells.csv"))
    assert done.stdout.count("(done before)") == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("stage", ["pretrain", "predict"])
def test_a_killed_run_goes_on_and_ends_the_same(stage: str, finished: Path, rendered: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as the stage has begun to write; then the same command again."""
    arguments = (rendered / "slides.csv", tmp_path / "run", "--cells", str(rendered / "cells.csv"),
                 "--truth", str(rendered / "truth/cells.csv"))
    for earlier in STAGES[: STAGES.index(stage)]:
        shutil.copytree(finished / earlier, tmp_path / "run" / earlier)
    kill_when(lambda: began(tmp_path / "run" / f".{stage}.partial"), command(*arguments))
    assert not (tmp_path / "run" / stage).exists()
    assert run(*arguments).returncode == 0
    assert results(tmp_path / "run") == results(finished)
    assert not list((tmp_path / "run").glob(".*"))


def test_a_model_scores_slides_never_seen_from_their_images(finished: Path, rendered: Path, tmp_path: Path) -> None:
    """New slides go through the stages that the model's own slides went through: the same cells, the same scores."""
    fresh = pd.read_csv(rendered / "slides.csv")[["slide", "file"]].head(3)
    fresh["file"] = [str(rendered / file) for file in fresh["file"]]
    fresh.to_csv(tmp_path / "new.csv", index=False)
    done = milscope("predict", finished / "train", tmp_path / "new.csv", "--cells", rendered / "cells.csv",
                    "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "new" / "predict" / "slides.csv") in done.stdout
    new, old = (pd.read_csv(out / "predict" / "slides.csv").set_index("slide") for out in (tmp_path / "new", finished))
    np.testing.assert_allclose(new["logit"], old.loc[new.index, "logit"], atol=1e-4)
    assert new["label"].isna().all()
    shutil.copytree(finished / "train", tmp_path / "alone")
    lost = milscope("predict", tmp_path / "alone", tmp_path / "new.csv", "--out", tmp_path / "lost")
    assert lost.returncode == 2
    assert "Give it with `--encoder`" in lost.stderr
    assert not (tmp_path / "lost").exists()


def test_encoder_and_slide_model_together_and_slides_never_seen(rendered: Path, tmp_path: Path) -> None:
    arguments = (rendered / "slides.csv", tmp_path / "run", "--cells", str(rendered / "cells.csv"), "--recipe", "abmilx",
                 "--set", "pretrain.epochs=0", "--truth", str(rendered / "truth/cells.csv"))
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"slides.csv", "run.json", *JOINT}
    page = pages_of(tmp_path / "run/report")
    assert "Loss of abmilx" in page
    assert "How far like cells share their attention" in page
    assert len(pd.read_csv(tmp_path / "run/endtoend/log.csv")) == 2
    assert "abmilx" in milscope("info", tmp_path / "run/endtoend").stdout
    fresh = pd.read_csv(rendered / "slides.csv")[["slide", "file"]].head(2)
    fresh.assign(file=[str(rendered / file) for file in fresh["file"]]).to_csv(tmp_path / "new.csv", index=False)
    again = milscope("predict", tmp_path / "run/endtoend/model", tmp_path / "new.csv", "--cells", rendered / "cells.csv",
                     "--out", tmp_path / "new")
    assert again.returncode == 0, again.stderr
    new, old = (pd.read_csv(out / "predict" / "slides.csv").set_index("slide") for out in (tmp_path / "new", tmp_path / "run"))
    np.testing.assert_allclose(new["logit"], old.loc[new.index, "logit"], atol=1e-4)


def test_many_tasks_with_missing_labels_from_a_teacher_to_its_student(rendered: Path, tmp_path: Path) -> None:
    """Two columns of labels with gaps, which nobody names; the student's model scores a slide never seen."""
    table = pd.read_csv(rendered / "slides.csv")
    table["file"] = [str(rendered / file) for file in table["file"]]
    table["clue"] = ["1", "0", "0", "1", "", "1", "0", "1", "0", "", "1", "0"]
    truth = pd.read_csv(rendered / "truth/cells.csv").assign(clue=lambda cells: 1 - cells["abnormal"])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    out, settings = tmp_path / "run", tomllib.loads(SMALL)
    settings["train"] |= {"aggregators": ["mecds"], "options": {"mecds": {"width": 8, "heads": 2}}, "epochs": 3}
    settings["pretrain"]["epochs"] = 1
    run_recipe(table, out, cells=rendered / "cells.csv", truth=tmp_path / "truth.csv", recipe="mecds", settings=settings)
    stages = (*STAGES, "predict-teacher", "evaluate-teacher", "distill")
    assert {path.name for path in out.iterdir()} == {"slides.csv", "run.json", *stages}
    assert read_manifest(out / "predict", "scores").inputs["model"] == read_manifest(out / "distill", "model").fingerprint
    assert read_manifest(out / "train", "model").config["balance"] == "sampling"
    assert read_manifest(out / "distill", "model").config["epochs"] == 3
    assert list(json.loads((out / "evaluate/metrics.json").read_text())["cells"]) == ["abnormal", "clue"]
    assert len(pd.read_csv(out / "retrieve/tasks/clue/ranked.csv")) == len(pd.read_csv(out / "retrieve/ranked.csv"))
    page = pages_of(out / "report")
    for told in ("Sent to the expert of clue", "beside its teacher", "clue: slides, most suspicious first"):
        assert told in page
    new = apply(out / "distill", table[["slide", "file"]].head(1), tmp_path / "new", cells=rendered / "cells.csv").directory
    assert retrieve(new, tmp_path / "new/tile", tmp_path / "ranked", RetrieveConfig(rank="routing")).cells == 30


def test_info_tells_of_every_artifact(finished: Path) -> None:
    for stage in STAGES:
        done = milscope("info", finished / stage)
        assert done.returncode == 0, done.stderr
        assert "made by" in done.stdout
    assert "## Operating point" in milscope("info", finished / "train", "--card").stdout


def began(work: Path) -> bool:
    return work.exists() and len(list(work.rglob("*"))) > 1


def kill_when(ready: Callable[[], bool], arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_crops_whole_slides_and_a_table_give_runs(rendered_crops: Path, tmp_path: Path) -> None:
    done = run(rendered_crops / "slides.csv", tmp_path / "run", "--cells", str(rendered_crops / "cells"),
               "--truth", str(rendered_crops / "truth/cells.csv"))
    assert done.returncode == 0, done.stderr


def test_damaged_cells_are_skipped_named_and_counted(rendered_crops: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    shutil.copytree(rendered_crops / "cells", folder)
    slides = sorted(path for path in folder.iterdir())
    good = sorted(slides[0].iterdir())
    good[0].write_bytes(b"")
    good[1].write_bytes(good[1].read_bytes()[:200])
    (slides[0] / "notes.png").write_text("not a picture")
    for cell in slides[1].iterdir():
        cell.write_bytes(b"")
    done = run(rendered_crops / "slides.csv", tmp_path / "run", "--cells", str(folder))
    assert done.returncode == 0, done.stderr
    failures = pd.read_csv(tmp_path / "run/tile/failures.csv")
    assert {Path(cell).name for cell in failures.loc[failures["slide"] == slides[0].name, "cell"].dropna()} == {
        good[0].name, good[1].name, "notes.png"}
    page = pages_of(tmp_path / "run/report")
    assert slides[1].name in page
    assert "notes.png" in page


def bad(change: Callable[[Path], list[str] | None], line: str) -> object:
    return pytest.param(change, line, id=change.__name__)


def missing_file(place: Path) -> None:
    (place / "slides.csv").unlink()


def empty_table(place: Path) -> None:
    (place / "slides.csv").write_text("")


def header_only(place: Path) -> None:
    (place / "slides.csv").write_text("slide,abnormal\n")


def unknown_column(place: Path) -> list[str]:
    return ["--set", "pretrain.task=happy"]


def one_class(place: Path) -> None:
    edit(place, lambda table: table.assign(abnormal=1))


def no_cells_at_all(place: Path) -> None:
    for cell in (place / "cells").rglob("*.jpg"):
        cell.unlink()


def duplicate_slide(place: Path) -> None:
    edit(place, lambda table: pd.concat([table, table.head(1)]))


def patient_in_two_splits(place: Path) -> None:
    edit(place, lambda table: table.assign(patient="p1", split=["train", "test"] * 6))


def nan_places(place: Path) -> list[str]:
    table = pd.DataFrame({"slide": ["slide-001"], "x": [np.nan], "y": [3.0]})
    table.to_csv(place / "places.csv", index=False)
    return ["--cells", str(place / "places.csv"), "--images", str(place)]


def text_for_cells(place: Path) -> list[str]:
    (place / "places.png").write_text("hello")
    return ["--cells", str(place / "places.png"), "--images", str(place)]


def too_few_positives(place: Path) -> None:
    edit(place, lambda table: table.assign(abnormal=[1] + [0] * 11))


def no_k(place: Path) -> list[str]:
    return ["--set", "retrieve.k=0"]


def unknown_key(place: Path) -> list[str]:
    (place / "odd.toml").write_text("[pretrain]\nepoch = 3\n")
    return ["--config", str(place / "odd.toml")]


def read_only_out(place: Path) -> list[str]:
    return ["--out", "/proc/milscope"]


def edit(place: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(place / "slides.csv")).to_csv(place / "slides.csv", index=False)


@pytest.mark.parametrize(("change", "line"), [
    bad(missing_file, "slides.csv"), bad(empty_table, "slides.csv"), bad(header_only, "at least one row"),
    bad(unknown_column, "`happy`"), bad(one_class, "abnormal"), bad(no_cells_at_all, "cell"),
    bad(duplicate_slide, "slide-001"), bad(patient_in_two_splits, "p1"), bad(nan_places, "a number in every x and y"),
    bad(text_for_cells, "at least one row"), bad(too_few_positives, "patients"), bad(no_k, "`k`"),
    bad(unknown_key, "Did you mean `epochs`?"), bad(read_only_out, "can be written"),
])
def test_bad_input_is_one_line_and_exit_status_2(change: Callable[[Path], list[str] | None], line: str,
                                                 rendered_crops: Path, tmp_path: Path) -> None:
    place = tmp_path / "input"
    shutil.copytree(rendered_crops, place)
    more = change(place) or []
    done = milscope("run", place / "slides.csv", "--out", tmp_path / "run", "--cells", place / "cells",
                    "--set", "tile.workers=1", "--set", "tile.limit=0", *more)
    assert done.returncode == 2, done.stderr
    assert line in only_error(done)
    assert not list((tmp_path / "run").glob("*/.*")) if (tmp_path / "run").exists() else True


def only_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line, beside warnings, that tells what is wrong."""
    (error,) = [text for text in done.stderr.splitlines() if "warning" not in text]
    assert error.startswith("error: ")
    return error


def test_a_full_disk_is_told_and_what_was_finished_is_kept(finished: Path, rendered: Path, tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: the operating system refuses the write to a program of its own."""
    shutil.copytree(finished / "tile", tmp_path / "run/tile")
    limited = ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "bash"]
    arguments = command(rendered / "slides.csv", tmp_path / "run", "--cells", str(rendered / "cells.csv"))
    done = subprocess.run([*limited, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "with room" in only_error(done)
    assert (tmp_path / "run/tile/manifest.json").exists()
    assert not (tmp_path / "run/pretrain").exists()
