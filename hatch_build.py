"""Brings OpenSeadragon, the viewer of the review page, into the package when it is built, or run by hand.

Its package comes by npm, or from a file named by MILSCOPE_OPENSEADRAGON, and is taken only if it is the one pinned here.
"""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand
    BuildHookInterface = object

VERSION = "6.1.1"
SHA512 = "g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw=="
"""Of the package of that version, as the registry gives it (base64)."""
FILES = {"package/build/openseadragon/openseadragon.min.js": "openseadragon.min.js", "package/LICENSE.txt": "LICENSE.txt"}
HOME = Path("src", "milscope", "review", "static", "openseadragon")
NAMED = "MILSCOPE_OPENSEADRAGON"
PATIENCE = 60
"""Seconds that npm may take."""


class UnavailableError(RuntimeError):
    """The viewer cannot be had; the message says why, and what to do."""


class CustomBuildHook(BuildHookInterface):
    """Puts the viewer into wheels and source archives; an editable install without it warns, and the page says so too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it gathers the files."""
        try:
            bring(Path(self.root))
        except UnavailableError as error:
            if version != "editable":
                raise
            self.app.display_warning(f"The review page has no deep zoom: {error}")


def bring(root: Path) -> Path:
    """Unpacks the pinned viewer below a source tree, unless that version is there; gives its directory.

    Args:
        root: The source tree.

    Raises:
        UnavailableError: If it cannot be had, or is not what was pinned.
    """
    home = root / HOME
    mark = home / "version.txt"
    if mark.is_file() and mark.read_text().strip() == VERSION and all((home / name).is_file() for name in FILES.values()):
        return home
    package = _package()
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != SHA512:
        raise UnavailableError(f"The package should be OpenSeadragon {VERSION} with sha512 {SHA512}. Found {found}.")
    home.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for inside, name in FILES.items():
            member = archive.extractfile(inside)
            (home / name).write_bytes(member.read() if member else b"")
    mark.write_text(VERSION + "\n")  # last: only a whole copy counts
    return home


def _package() -> bytes:
    """The package's bytes, not yet checked."""
    named = os.environ.get(NAMED)
    if named:
        try:
            return Path(named).read_bytes()
        except OSError as error:
            raise UnavailableError(f"{NAMED} should name a file that can be read. Found {named}: {error.strerror}.") from error
    npm = shutil.which("npm")
    if npm is None:
        raise UnavailableError(f"npm is not installed. Install it, or set {NAMED} to openseadragon-{VERSION}.tgz.")
    with tempfile.TemporaryDirectory() as work:
        step = [npm, "pack", "--silent", f"openseadragon@{VERSION}", "--pack-destination", work]
        try:
            done = subprocess.run(step, cwd=work, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"npm did not bring openseadragon {VERSION} in {PATIENCE} s. Try again when it answers, "
                                   f"or set {NAMED} to the package's file.") from error
        packed = Path(work, f"openseadragon-{VERSION}.tgz")
        if done.returncode or not packed.is_file():
            said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            raise UnavailableError(f"npm could not bring openseadragon {VERSION}: {said}. Try again when it can be reached, "
                                   f"or set {NAMED} to the package's file.")
        return packed.read_bytes()


if __name__ == "__main__":
    try:
        print(bring(Path(__file__).resolve().parent))
    except UnavailableError as failure:
        sys.exit(str(failure))
