import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from milscope.configs import SplitConfig
from milscope.store import Stage, fingerprint, fingerprint_files, read_manifest, write_text
from milscope.types import InputError


def make(out: Path, *, seed: int = 0, inputs: dict[str, str] | None = None, text: str = "data") -> bool:
    """Makes a small artifact; tells whether anything had to be done."""
    with Stage(out, "cells", SplitConfig(seed=seed), inputs or {"slides": "a"}, ["p2", "p1", "p2"]) as stage:
        if stage.done:
            return False
        (stage.work / "data.txt").write_text(text)
        stage.summary["rows"] = 3
    return True


def test_an_artifact_says_what_it_is(tmp_path: Path) -> None:
    make(tmp_path / "a")
    manifest = read_manifest(tmp_path / "a", "cells")
    assert manifest.config == {"validation": 0.2, "test": 0.2, "seed": 0}
    assert manifest.inputs == {"slides": "a"}
    assert manifest.patients == ["p1", "p2"]
    assert manifest.summary == {"rows": 3}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_done_with_the_same_settings_and_inputs_is_skipped(tmp_path: Path) -> None:
    assert make(tmp_path / "a")
    assert not make(tmp_path / "a")
    assert make(tmp_path / "a", seed=1)
    assert make(tmp_path / "a", seed=1, inputs={"slides": "b"})


def test_a_failed_stage_leaves_the_earlier_artifact(tmp_path: Path) -> None:
    make(tmp_path / "a", text="old")
    with pytest.raises(ZeroDivisionError), Stage(tmp_path / "a", "cells", SplitConfig(seed=1), {}) as stage:
        stage.summary["share"] = (stage.work / "data.txt").write_text("half") / 0
    assert (tmp_path / "a/data.txt").read_text() == "old"


def test_an_interrupted_stage_goes_on_with_what_it_had(tmp_path: Path) -> None:
    def interrupted(seed: int) -> None:
        with Stage(tmp_path / "a", "cells", SplitConfig(seed=seed), {}) as stage:
            (stage.work / "first.txt").write_text("kept")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(seed=0)
    with Stage(tmp_path / "a", "cells", SplitConfig(seed=0), {}) as stage:
        assert (stage.work / "first.txt").read_text() == "kept"
    with pytest.raises(KeyboardInterrupt):
        interrupted(seed=0) if not (tmp_path / "a").exists() else interrupted(seed=1)
    with Stage(tmp_path / "a", "cells", SplitConfig(seed=2), {}) as stage:
        assert not (stage.work / "first.txt").exists()


def test_a_users_mistake_inside_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError), Stage(tmp_path / "a", "cells", SplitConfig(), {}):
        raise InputError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/thesis.docx").write_text("precious")
    with pytest.raises(InputError, match="something else"):
        make(tmp_path / "a")
    assert (tmp_path / "a/thesis.docx").read_text() == "precious"


def test_an_artifact_of_another_kind_is_not_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(InputError, match=r"should be a `model` artifact\. Found `cells`"):
        Stage(tmp_path / "a", "model", SplitConfig(), {})


@pytest.mark.parametrize(("change", "line"), [
    ({"format_version": 99}, "Update milscope"), ({"kind": "encoder"}, "Found `encoder`"),
    ({"extra": 1}, "a milscope manifest"),
])
def test_foreign_manifests_are_refused(tmp_path: Path, change: dict[str, object], line: str) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=line):
        read_manifest(tmp_path / "a", "cells")


def test_no_artifact_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run the stage that makes it"):
        read_manifest(tmp_path, "cells")


@pytest.mark.parametrize("out", ["/proc/nowhere/a", "{file}/a"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, out: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="a directory with room that can be written"):
        make(Path(out.format(file=file)))


def test_a_full_disk_is_told_and_leaves_no_artifact(tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: the operating system refuses the write."""
    script = f"""
        import resource, signal
        from pathlib import Path
        from milscope.configs import SplitConfig
        from milscope.store import Stage
        from milscope.types import InputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with Stage(Path({str(tmp_path / 'a')!r}), "cells", SplitConfig(), {{}}) as stage:
                (stage.work / "data").write_bytes(bytes(10_000))
        except InputError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("`out` should be a directory with room")
    assert not (tmp_path / "a").exists()


def test_an_input_that_cannot_be_read_is_not_called_the_output(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with (pytest.raises(InputError, match=r"table\.csv` should be a file that can be read"),
          Stage(tmp_path / "a", "cells", SplitConfig(), {})):
        (tmp_path / "table.csv").read_text()


def test_two_processes_do_not_write_one_artifact(tmp_path: Path) -> None:
    with Stage(tmp_path / "a", "cells", SplitConfig(), {}) as stage:
        second = Stage(tmp_path / "a", "cells", SplitConfig(), {})
        with pytest.raises(InputError, match="another milscope process"):
            second.__enter__()
        assert stage.work.exists()


def test_fingerprints() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_files_are_known_by_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_text(file, "one")
    before = fingerprint_files([file])
    assert fingerprint_files([file]) == before
    write_text(file, "other")
    assert fingerprint_files([file]) != before
