"""Most memory of a whole training end to end, in a process of its own.

    python benchmarks/_held.py STORE TABLE OUT SETTINGS      prints JSON; SETTINGS: those of EndToEndConfig, as JSON
"""

import json
import subprocess
import sys
import threading
from pathlib import Path

from _timing import memory

import milscope as ms

PAUSE = 0.01
"""Seconds between looks at the memory."""


def alone(store: Path, table: Path, out: Path, settings: dict) -> dict[str, float]:
    """Peak bytes of memory of its own (mapped files left out), those of the process before training, and what it says."""
    command = [sys.executable, __file__, str(store), str(table), str(out), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class Most:
    """Looks at the memory again and again."""

    def __init__(self) -> None:
        self.bytes, self.over = memory("RssAnon"), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.over.wait(PAUSE):
            self.bytes = max(self.bytes, memory("RssAnon"))


def main() -> None:
    """One training."""
    store, table, out, settings = sys.argv[1:]
    config = ms.EndToEndConfig(**json.loads(settings))
    from milscope.endtoend import endtoend

    most = Most()
    before = most.bytes
    endtoend(store, table, out, config)
    most.over.set()
    summary = json.loads((Path(out) / "manifest.json").read_text())["summary"]
    print(json.dumps({"peak": most.bytes, "before": before, **{name: summary[name] for name in (
        "chunk", "budget", "precision", "memory")}}))


if __name__ == "__main__":
    main()
