"""Artifacts: directories that are whole or absent, and that say what they are and what they were made from."""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from milscope.configs import identity
from milscope.types import InputError, Unfinished, refuse

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


class Manifest(NamedTuple):
    """What an artifact is, what it was made from, and whose cells it has seen."""

    kind: str
    format_version: int
    milscope: str
    config: dict[str, Any]
    inputs: dict[str, str]
    patients: list[str]
    summary: dict[str, Any]
    created: str

    @property
    def made_from(self) -> str:
        """Of kind, settings and inputs."""
        return fingerprint({"kind": self.kind, "version": self.format_version, "config": self.config, "inputs": self.inputs})

    @property
    def fingerprint(self) -> str:
        """What later stages record and compare: same kind, settings and inputs, same fingerprint, unless slides were mended."""
        mended = self.summary.get("mended")
        return fingerprint([self.made_from, mended]) if mended else self.made_from


class Stage:
    """Makes one artifact: everything is written to a hidden work directory, renamed when the stage ends well.

    A stage that was interrupted finds its work directory again, if settings and inputs are the same, and goes on.

    Args:
        out: The artifact's directory. An earlier artifact of the same kind is replaced, anything else refused.
        kind: What it will hold.
        config: The stage's settings, a dataclass of `milscope.configs`.
        inputs: Name → fingerprint of everything it is made from.
        patients: The patients whose cells or labels it learns from.
        leads: False in processes that take part in the work while another one writes.
        again: Makes it again though it is done.
        keeps_work: A work directory begun with other inputs is not emptied, as the stage itself knows what is still good.

    Raises:
        InputError: If `out` holds something else, cannot be written, or is being written by another process.
    """

    def __init__(self, out: Path, kind: str, config: object, inputs: Mapping[str, str], patients: Iterable[str] = (), *,
                 leads: bool = True, again: bool = False, keeps_work: bool = False) -> None:
        self.out, self.leads = Path(out), leads
        self.work = self.out.parent / f".{self.out.name}.partial"
        self.summary: dict[str, Any] = {}
        self._manifest = Manifest(kind, FORMAT_VERSION, version("milscope"), identity(config), dict(inputs),
                                  sorted(set(patients)), self.summary, datetime.now(UTC).isoformat(timespec="seconds"))
        self._lock: int | None = None
        before = self._before()
        self.earlier = self.out if before and before.config == self._manifest.config else None
        self.done = not again and before is not None and before.made_from == self._manifest.made_from
        self._claim_text = self._manifest.made_from
        if keeps_work:
            self._claim_text = fingerprint([kind, FORMAT_VERSION, self._manifest.config])

    def __enter__(self) -> "Stage":
        if not self.done and self.leads:
            try:
                self._claim()
            except OSError as error:
                raise unwritable(self.out, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.done or not self.leads:
            return
        try:
            if error is None:
                self._publish()
                self.done = True
            elif isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and error.errno is not None:
                raise self._told(error) from error
        finally:
            self._release(discard=isinstance(error, InputError) and not isinstance(error, Unfinished))

    def _told(self, error: OSError) -> InputError:
        """The line for a file that could not be used: one of the stage's own, or one that it reads."""
        file = Path(os.fsdecode(error.filename)).resolve() if isinstance(error.filename, str | bytes) else self.work
        own = (self.out.resolve(), self.work.resolve())
        if error.errno in _NO_ROOM or any(folder in (file, *file.parents) for folder in own):
            return unwritable(self.out, error)
        return refuse(str(file), "a file that can be read", error.strerror, "Correct it; what was finished before is kept.")

    @property
    def planned(self) -> Manifest:
        """The manifest as it will be, with the summary so far."""
        return self._manifest

    @property
    def manifest(self) -> Manifest:
        """The finished artifact's manifest."""
        return read_manifest(self.out, self._manifest.kind)

    def _before(self) -> Manifest | None:
        """The manifest of an earlier artifact in the same place."""
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return None
        if not (self.out / MANIFEST).exists():
            raise refuse("out", f"a new directory or an earlier `{self._manifest.kind}`", f"something else in {self.out}",
                         "Give another directory.")
        return read_manifest(self.out, self._manifest.kind)

    def _claim(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.work, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise refuse("out", "free", f"another milscope process writing {self.out}", "Wait for it to end.") from error
        self._lock = lock
        claim = self.work / "stage.json"
        if not claim.exists() or claim.read_text() != self._claim_text:
            for leftover in self.work.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            write_text(claim, self._claim_text)

    def _publish(self) -> None:
        (self.work / "stage.json").unlink()
        for begun in self.work.rglob(".*.tmp"):  # by processes that were killed
            begun.unlink()
        write_text(self.work / MANIFEST, json.dumps(self._manifest._asdict(), indent=1, sort_keys=True))
        retired = self.out.parent / f".{self.out.name}.retired"
        shutil.rmtree(retired, ignore_errors=True)
        if self.out.exists():
            self.out.rename(retired)
        self.work.rename(self.out)
        shutil.rmtree(retired, ignore_errors=True)

    def _release(self, *, discard: bool) -> None:
        if discard:
            shutil.rmtree(self.work, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


def read_manifest(directory: Path, kind: str) -> Manifest:
    """The manifest of an artifact, refused with a way out if it is of another kind or newer than this milscope.

    Raises:
        InputError: If there is no artifact, it is of another kind, damaged, or of a newer format.
    """
    path = Path(directory) / MANIFEST
    if not path.exists():
        raise refuse(str(directory), f"a finished `{kind}` artifact", "no manifest.json there", "Run the stage that makes it.")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise refuse(str(path), "a milscope manifest", f"{type(error).__name__}: {error}",
                     "Make the artifact again.") from error
    if manifest.kind != kind:
        raise refuse(str(directory), f"a `{kind}` artifact", f"`{manifest.kind}`", "Give the right directory.")
    if manifest.format_version > FORMAT_VERSION:
        raise refuse(str(directory), f"of format {FORMAT_VERSION} or older", f"format {manifest.format_version}",
                     "Update milscope.")
    return manifest


def artifact_kind(directory: Path) -> str:
    """The kind of the artifact that a directory holds; "" if it holds none."""
    try:
        return str(json.loads((Path(directory) / MANIFEST).read_text())["kind"])
    except (OSError, ValueError, KeyError):
        return ""


def fingerprint(value: object) -> str:
    """16 hexadecimal digits of the SHA-256 of plain values, as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint_files(paths: Iterable[Path]) -> str:
    """The fingerprint of files by name, size and time of change: nothing is read."""
    stats = sorted((str(path), path.stat()) for path in paths if path.exists())
    return fingerprint([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def write_text(path: Path, text: str, *, contested: bool = False) -> None:
    """Writes a small file so that it is whole or absent, even if the machine stops.

    Args:
        path: The file.
        text: What will be in it.
        contested: Whether another process may be writing the same file.
    """
    temporary = temporary_name(path) if contested else path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def json_values(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """The same values with None for NaN and infinity, which strict JSON does not have."""
    if isinstance(value, Mapping):
        return {key: json_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def temporary_name(path: Path) -> Path:
    """Where a file is written before it is renamed: no other process, of this machine or another, writes there."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def unwritable(out: Path, error: OSError) -> InputError:
    """The line for a directory that cannot be written: read-only, full, or in the way of a file."""
    return refuse("out", "a directory with room that can be written", f"{error.strerror or error} ({out})",
                  "Give another directory, or make room; what was finished before is kept.")
