import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from milscope.configs import TileConfig
from milscope.pool import Lost, over_slides
from milscope.pool._cluster import _in_place, _Place
from milscope.store import Stage
from milscope.types import InputError, Unfinished

DIE = "__import__('os').kill(__import__('os').getpid(), 9)"
SLEEP = "__import__('time').sleep({})"
FAIL = "open('/nowhere/at/all')"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_once(workers):
    jobs = [f"2 * {i}" for i in range(7)]
    assert sorted(over_slides(eval, jobs, workers)) == [(f"2 * {i}", 2 * i) for i in range(7)]
    assert list(over_slides(eval, [], workers)) == []


def test_a_process_that_dies_harms_no_other_job():
    assert dict(over_slides(eval, ["0", "1", "2", DIE, "4", "5"], 2)) == {
        "0": 0, "1": 1, "2": 2, DIE: Lost("the process that read it died (signal 9: Killed; out of memory?)"), "4": 4, "5": 5}


@pytest.mark.parametrize(("job", "reason"), [
    ("__import__('os').kill(__import__('os').getpid(), 11)", "the process that read it died (signal 11: Segmentation fault)"),
    ("__import__('os')._exit(3)", "the process that read it died (exit status 3)"),
    ("__import__('sys').exit(4)", "the process that read it died (exit status 4)"),
    ("exec('raise MemoryError')", "the process that read it died (not enough memory)"),
    (SLEEP.format(1000), "not done after 1.5 s"),
    ("exec('while True: pass')", "not done after 1.5 s"),
    ("__import__('re').match('(a+)+$', 'a' * 40 + 'b')", "not done after 1.5 s"),
])
def test_a_slide_that_crashes_or_hangs_is_lost_with_its_reason_and_no_other(job, reason):
    others = [SLEEP.format(0.1), "1", "2"]
    found = dict(over_slides(eval, [job, *others], 2, limit=1.5))
    assert found == {job: Lost(reason), SLEEP.format(0.1): None, "1": 1, "2": 2}


def test_a_slide_alone_is_kept_apart_too():
    for workers, limit in ((0, None), (1, 60)):
        (_, lost), = over_slides(eval, [DIE], workers, limit=limit)
        assert lost.reason == "the process that read it died (signal 9: Killed; out of memory?)"


def once_alone(job, *, marks):
    """Dies the first time; the second time tells how many processes there are."""
    mark = Path(marks) / job
    if job == "dies" and not mark.exists():
        mark.touch()
        os._exit(1)
    return mark.exists(), os.getppid()


def test_a_process_that_dies_once_is_given_a_second_chance_at_the_end(tmp_path):
    jobs = ["dies", *"abcdef"]
    found = list(over_slides(partial(once_alone, marks=tmp_path), jobs, 2))
    assert sorted(job for job, _ in found) == sorted(jobs)
    assert found[-1] == ("dies", (True, os.getpid()))


def test_the_limit_is_each_slides_own_and_starts_when_its_work_does():
    jobs = [f"({SLEEP.format(0.6)}, {number})[1]" for number in range(4)]
    assert sorted(number for _, number in over_slides(eval, jobs, 1, limit=1.2)) == [0, 1, 2, 3]


def test_a_process_serves_many_slides():
    jobs = [f"({number}, __import__('os').getpid())" for number in range(20)]
    assert len({pid for _, (_, pid) in over_slides(eval, jobs, 2)}) <= 2


def test_a_process_that_dies_between_slides_is_replaced():
    leave = "__import__('threading').Timer(0.1, __import__('os')._exit, [1]).start()"
    jobs = [leave, SLEEP.format(0.01), *map(str, range(5))]
    assert {job for job, _ in over_slides(eval, jobs, 1, limit=60)} == set(jobs)


def test_no_process_is_left_when_the_work_is_given_up():
    work = over_slides(eval, ["__import__('os').getpid()", SLEEP.format(1000), SLEEP.format(1001)], 2)
    _, pid = next(work)
    work.close()
    assert not _alive(pid)


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_odd(job):
    raise Odd(job, 2)


def test_errors_say_where_they_come_from_even_if_they_cannot_be_sent():
    with pytest.raises(FileNotFoundError) as told:
        list(over_slides(eval, [FAIL], 2))
    assert told.value.filename == "/nowhere/at/all"
    assert any("In a process that worked on a slide" in note for note in told.value.__notes__)
    with pytest.raises(RuntimeError, match="Odd: 1"):
        list(over_slides(raise_odd, [1], 2))
    with pytest.raises(pickle.PicklingError, match="lambda"):
        list(over_slides(eval, ["lambda: 1"], 2))


def test_large_jobs_and_results_pass():
    text = repr("x" * 3_000_000)
    assert dict(over_slides(eval, [text, "1"], 2)) == {text: "x" * 3_000_000, "1": 1}


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


@pytest.mark.parametrize(("place", "told"), [
    ({"milscope": "0.0"}, "machines with milscope 0.0. Found "),
    ({"folder": "/nowhere/at/all"}, "machines that see the same folders. Found no /nowhere/at/all on "),
    ({"shared": Path("/nowhere/out")}, "machines that see the same folders. Found no /nowhere/out on "),
])
def test_a_machine_of_a_cluster_that_lacks_something_is_named(tmp_path, monkeypatch, place, told):
    monkeypatch.chdir("/")
    good = _Place(str(tmp_path), tmp_path, version("milscope"))
    assert _in_place(-2, function=abs, place=good) == 2
    assert Path.cwd() == tmp_path
    with pytest.raises(Unfinished, match=told):
        _in_place(-2, function=abs, place=good._replace(**place))


def test_a_cluster_that_is_not_there_is_told_at_once():
    pytest.importorskip("ray")
    with pytest.raises(Unfinished, match=r"Found `127\.0\.0\.1:1`: .*refused. Start it with `ray start`"):
        list(over_slides(abs, [1], 0, executor="ray", address="127.0.0.1:1"))


def test_without_ray_its_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unfinished, match=r"pip install 'milscope\[cluster\]'"):
        list(over_slides(abs, [1], 0, executor="ray"))


def test_what_was_finished_is_kept_when_a_stage_cannot_go_on(tmp_path):
    for error, kept in ((Unfinished("no machine"), True), (InputError("bad input"), False)):
        with pytest.raises(InputError), Stage(tmp_path / "out", "cells", TileConfig(), {}) as stage:
            raise error
        assert stage.work.exists() == kept


def test_ctrl_c_ends_everything_at_once_and_quietly(tmp_path):
    script = tmp_path / "script.py"
    jobs = [f"open('{tmp_path}/{name}', 'w').write(str(__import__('os').getpid())) and {SLEEP.format(300)}"
            for name in ("one", "two")]
    script.write_text(SCRIPT.format(function="eval").replace("range(4)", repr(jobs)))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                              start_new_session=True)
    pids = [_number_in(tmp_path / name) for name in ("one", "two")]
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=60)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1
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
