import importlib.util
import socket
import threading
import webbrowser
from pathlib import Path

import pytest
import uvicorn

from milscope.configs import ReviewConfig
from milscope.review import review
from milscope.types import InputError

QUIET = ReviewConfig(open=False)


def test_it_listens_on_this_machine_alone_before_it_says_where(shared: Path, monkeypatch: pytest.MonkeyPatch):
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda _, sockets: served.extend(each.getsockname() for each in sockets))
    told: list[str] = []

    def ready(address: str) -> None:
        told.append(address)
        port = int(address.split(":")[2].split("/")[0])
        socket.create_connection(("127.0.0.1", port), timeout=5).close()

    for _ in range(2):
        review(shared, QUIET, ready=ready)
    assert [place[0] for place in served] == ["127.0.0.1"] * 2
    tokens = {address.split("/?token=")[1] for address in told}
    assert len(tokens) == 2, "a token of its own for every review"
    assert all(len(token) == 43 for token in tokens)


def test_the_browser_is_opened_if_wished(shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    opened, seen = threading.Event(), []
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: opened.wait(5))
    monkeypatch.setattr(webbrowser, "open", lambda address: (seen.append(address), opened.set()))
    review(shared)
    assert seen[0] in capsys.readouterr().out


def test_ctrl_c_ends_it_quietly(shared: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", interrupted)
    review(shared, QUIET)
    assert [path.name for path in (shared / "review").iterdir()] == ["verdicts.sqlite"], "the log is in the file"


def test_a_port_that_is_taken_or_none_is_refused(shared: Path):
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(InputError, match="one that is free"):
        review(shared, ReviewConfig(port=other.getsockname()[1], open=False))
    for port in (-1, 65536):
        with pytest.raises(InputError, match="0 to 65535"):
            review(shared, ReviewConfig(port=port, open=False))


def test_without_its_web_server_it_says_how_to_get_it(shared: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    with pytest.raises(InputError, match=r"no uvicorn. Run `pip install 'milscope\[review\]'`"):
        review(shared, QUIET)
    assert not (shared / "review").exists()
