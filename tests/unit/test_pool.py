import subprocess
import sys
import time

import pytest

from milscope.pool import over_slides

DIE = "__import__('os').kill(__import__('os').getpid(), 9)"
FAIL = "open('/nowhere/at/all')"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_once(workers):
    jobs = [f"2 * {i}" for i in range(7)]
    assert sorted(over_slides(eval, jobs, workers)) == [(f"2 * {i}", 2 * i) for i in range(7)]
    assert list(over_slides(eval, [], workers)) == []


def test_a_process_that_dies_harms_no_other_job():
    assert dict(over_slides(eval, ["0", "1", "2", DIE, "4", "5"], 2)) == {"0": 0, "1": 1, "2": 2, DIE: None, "4": 4, "5": 5}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_everything(workers):
    with pytest.raises(OSError, match="No such file"):
        list(over_slides(eval, [FAIL, "1", "2", "3"], workers))


SCRIPT = """
import os, sys
from milscope.pool import over_slides
print("script", flush=True)
list(over_slides({function}, range(4), 2))
"""


def test_a_script_without_a_guard_is_run_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(function="abs"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == "script\n"


def test_processes_end_with_their_parent(tmp_path):
    script = tmp_path / "script.py"
    jobs = [f"echo $PPID > {tmp_path}/{name}; for i in $(seq 300); do kill -0 $PPID || exit; sleep 0.1; done"
            for name in ("one", "two")]
    script.write_text(SCRIPT.format(function="os.system").replace("range(4)", repr(jobs)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids = [_number_in(tmp_path / name) for name in ("one", "two")]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _number_in(path):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.05)
    raise TimeoutError(path)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
