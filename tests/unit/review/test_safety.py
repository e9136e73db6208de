import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from milscope.review._run import ReviewedRun
from milscope.review._safety import BODY, POLICY, Guard
from milscope.review._server import STATIC

HOME, TOKEN = "http://127.0.0.1:8000", "t" * 43
VERDICT = {"index": 0, "rank": 1, "reviewer": "anna", "verdict": "abnormal"}


def test_the_token_becomes_a_cookie_and_leaves_the_address(stranger: TestClient):
    answer = stranger.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, *rules = answer.headers["set-cookie"].split("; ")
    assert set(rules) == {"HttpOnly", "SameSite=Strict", "Path=/"}
    assert name.startswith("milscope-8000=")
    assert TOKEN not in name
    assert len(name.split("=")[1]) == 43, "32 bytes"
    assert stranger.get("/api/run").status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/run", "/api/slides/0", "/crops/0/1", "/context/0/1", "/slides/0/overview",
                                  "/slides/0/tiles/8/0_0", "/slides/0/heat", "/static/review.js", "/nothing"])
def test_without_the_cookie_nothing_is_given(stranger: TestClient, path: str):
    for tried in ({}, {"Cookie": "milscope-8000="}, {"Cookie": f"milscope-8000={TOKEN}"}, {"Cookie": "milscope-8000=x; a=b"}):
        answer = stranger.get(path, headers=tried)
        assert (answer.status_code, answer.text) == (403, "Open the address that `milscope review` printed.")


def test_a_wrong_token_opens_nothing(stranger: TestClient):
    for token in ("", "x", TOKEN[:-1], TOKEN + "t"):
        answer = stranger.get("/", params={"token": token})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert stranger.get(f"/api/run?token={TOKEN}").status_code == 403


def test_verdicts_need_the_cookie_too(stranger: TestClient):
    assert stranger.post("/api/verdicts", json=VERDICT, headers={"Origin": HOME}).status_code == 403


def test_the_cookie_is_found_among_those_of_other_servers_of_this_machine(page: TestClient):
    own = f"milscope-8000={page.cookies['milscope-8000']}"
    page.cookies.clear()
    for header in (f'odd="2|1:0|{{}}", x; {own}', f"{own};milscope-8000=tossed", f"milscope-8000=tossed;  {own} "):
        assert page.get("/api/run", headers={"Cookie": header}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1:8001", "127.0.0.1", "localhost.evil.example:8000",
                                  "127.0.0.1:8000.evil.example", "[::2]:8000", ""])
def test_a_name_that_was_made_to_point_here_is_refused(page: TestClient, host: str):
    for path in ("/api/run", f"/?token={TOKEN}"):
        answer = page.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "this machine only" in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_the_names_of_this_machine_are_right(page: TestClient, host: str):
    cookie = f"milscope-8000={page.cookies['milscope-8000']}"
    assert page.get("/api/run", headers={"Host": host, "Cookie": cookie}).status_code == 200


@pytest.mark.parametrize(("headers", "status"), [
    ({"Origin": HOME}, 200),
    ({"X-Milscope": "1"}, 200),
    ({}, 403),
    ({"X-Milscope": "0"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null", "X-Milscope": "1"}, 403),
    ({"Origin": "http://evil.example", "X-Milscope": "1"}, 403),
    ({"Origin": "http://127.0.0.1:8001"}, 403),
    ({"Origin": "http://localhost:8000"}, 403),
    ({"Origin": "https://127.0.0.1:8000"}, 403),
])
def test_verdicts_come_from_the_page_itself(page: TestClient, headers: dict[str, str], status: int):
    for path, asked in (("/api/verdicts", VERDICT), ("/api/undo", {"reviewer": "anna"})):
        assert page.post(path, json=asked, headers=headers).status_code == status
    assert bool(page.get("/api/run?reviewer=anna").json()["reviewers"]) == (status == 200)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_forms_of_other_pages_are_no_verdicts(page: TestClient, kind: str):
    answer = page.post("/api/verdicts", content=b"{}", headers={"Origin": HOME, "Content-Type": kind})
    assert answer.status_code == 415


def test_a_body_has_an_end(page: TestClient):
    def long() -> Iterator[bytes]:
        yield b'{"reviewer": "'
        yield b"x" * BODY

    for body in (b" " * (BODY + 1), long()):
        answer = page.post("/api/verdicts", content=body, headers={"Origin": HOME, "Content-Type": "application/json"})
        assert answer.status_code == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_only_get_and_post(page: TestClient, method: str):
    assert page.request(method, "/api/run").status_code == 405


def test_every_answer_says_what_a_page_may_load(page: TestClient):
    for answer in (page.get("/api/run"), page.get("/crops/0/1"), page.get("/nothing"), page.get("/?token=x"),
                   page.post("/api/verdicts", json={}, headers={"Origin": HOME}), page.get("/static/absent.js")):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none';")


def test_pictures_may_be_kept_by_this_browser_only_and_all_else_not(page: TestClient):
    picture, told = page.get("/crops/0/1"), page.get("/api/run")
    assert picture.headers["cache-control"] == "private, max-age=3600"
    assert picture.headers["vary"] == "Cookie"
    assert told.headers["cache-control"] == page.get("/crops/0/99").headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("path", [
    "/static/../_server.py", "/static/..%2f_server.py", "/static/%2e%2e/_server.py", "/static//etc/passwd",
    "/static/%2fetc/passwd", "/crops/..%2f..%2fslides.csv/1", "/crops/slide-000/1", "/crops/-1/1",
    "/slides/0/../../slides.csv", "/slides/0/tiles/8/..%2f0",
    "/slides/0/tiles/8/0_..", "/crops/0/1?task=../../predict", "/api/slides/0?task=../tile", "/crops/99/1", "/crops/0/0",
])
def test_no_path_leaves_the_run(page: TestClient, path: str):
    raw = page.build_request("GET", HOME + "/")
    raw.url = raw.url.copy_with(raw_path=path.encode())  # as it is: clients tidy `..` away
    answer = page.send(raw)
    assert answer.status_code == 404, answer.text
    assert answer.content.find(b"def ") == answer.content.find(b"root:") == -1


def test_a_run_whose_slides_have_the_names_of_paths_gives_none_of_them(run: Path):
    (run.parent / "secret.jpg").write_bytes(b"\xff\xd8\xff secret")
    for table in (run / "predict" / "slides.csv", run / "retrieve" / "ranked.csv"):
        table.write_text(table.read_text().replace("slide-002", "../../../secret"))
    assert ReviewedRun(run).slides == ReviewedRun(run).slides
    assert not any("secret" in slide for slide in ReviewedRun(run).slides)


def test_a_socket_of_another_kind_is_closed(page: TestClient):
    with pytest.raises(WebSocketDisconnect) as closed, page.websocket_connect("/api/run"):
        pass
    assert closed.value.code == 1008


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_the_server_says_that_a_browser_has_gone(method: str):
    """An answer that is told so too early stops in the middle, as files of several pieces do."""
    told = [{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "the browser is there"}]
    heard = []

    async def receive() -> dict:
        return told.pop(0)

    async def listening(_scope: dict, given: Callable, send: Callable) -> None:
        heard.extend([await given(), await given()])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(_: dict) -> None:
        return

    guard = Guard(listening, 8000, TOKEN)
    headers = [(b"host", b"127.0.0.1:8000"), (b"cookie", guard._cookie), (b"x-milscope", b"1"),
               (b"content-type", b"application/json")]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(guard(scope, receive, send))
    assert [each["type"] for each in heard] == ["http.request", "the browser is there"]
    assert heard[0]["body"] == b"{}"


def test_files_of_the_page_lie_in_their_folder_alone(page: TestClient):
    assert STATIC.name == "static"
    assert page.get("/static/").status_code == 404, "nothing is listed"
