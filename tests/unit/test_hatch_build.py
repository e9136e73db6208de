import base64
import hashlib
import importlib.util
import io
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the form that the registry gives, named and pinned."""
    path = tmp_path / "viewer.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for inside in (*build.FILES, "package/../../evil.js"):
            member = tarfile.TarInfo(inside)
            member.size = len(inside)
            archive.addfile(member, io.BytesIO(inside.encode()))
    monkeypatch.setattr(build, "SHA512", base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode())
    monkeypatch.setenv(build.NAMED, str(path))
    return path


def test_brings_the_pinned_files_and_no_others(build: ModuleType, package: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch):
    home = build.bring(tmp_path / "tree")
    assert sorted(path.name for path in home.iterdir()) == sorted([*build.FILES.values(), "version.txt"])
    assert (home / "LICENSE.txt").read_text() == "package/LICENSE.txt"
    monkeypatch.setenv(build.NAMED, "nowhere")
    assert build.bring(tmp_path / "tree") == home  # there already: nothing is asked for
    (home / "openseadragon.min.js").unlink()
    with pytest.raises(build.UnavailableError, match="nowhere"):
        build.bring(tmp_path / "tree")


def test_a_package_that_is_not_the_pinned_one_is_not_unpacked(build: ModuleType, package: Path, tmp_path: Path):
    package.write_bytes(package.read_bytes() + b"\0")
    with pytest.raises(build.UnavailableError, match="sha512"):
        build.bring(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_without_npm_a_wheel_fails_and_an_editable_install_warns(build: ModuleType, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(build.NAMED, raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    hook, said = build.CustomBuildHook.__new__(build.CustomBuildHook), []
    hook.__dict__.update(zip(("root", "app"), (tmp_path, type("App", (), {"display_warning": said.append})), strict=True))
    with pytest.raises(build.UnavailableError, match="npm is not installed"):
        hook.initialize("standard", {})
    hook.initialize("editable", {})
    assert len(said) == 1
    assert "npm is not installed" in said[0]


def test_an_npm_that_hangs_is_given_up(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(build.NAMED, raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda _: "/bin/sh")
    monkeypatch.setattr(build, "PATIENCE", 0.0)
    with pytest.raises(build.UnavailableError, match="did not bring"):
        build.bring(tmp_path)


def test_what_is_brought_is_packed_but_not_committed():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    home = "src/milscope/review/static/openseadragon/"
    assert built["artifacts"] == [home]
    assert "custom" in built["hooks"]
    assert f"/{home}" in (ROOT / ".gitignore").read_text().splitlines()
