import shutil
import sqlite3
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from milscope.review._run import ReviewedRun
from milscope.review._server import AGAIN, STATIC
from milscope.review._store import VerdictStore

OWN = {"Origin": "http://127.0.0.1:8000"}


def post(page: TestClient, verdict: str | None = "abnormal", rank: int = 1, reviewer: str = "anna", **more):
    asked = {"index": 0, "rank": rank, "task": "abnormal", "reviewer": reviewer, "verdict": verdict, **more}
    return page.post("/api/verdicts", json=asked, headers=OWN)


def undo(page: TestClient, reviewer: str = "anna"):
    return page.post("/api/undo", json={"task": "", "reviewer": reviewer}, headers=OWN)


def test_a_run_is_told_with_its_slides(page: TestClient, shared: Path):
    told = page.get("/api/run").json()
    assert (told["title"], told["task"], told["reviewer"]) == ("run", "abnormal", "")
    assert (told["reviewers"], told["place"], told["elsewhere"]) == ([], None, 0)
    assert told["tasks"] == [{"name": "abnormal", "sought": "abnormal"}]
    assert told["verdicts"] == ["abnormal", "normal", "unsure", "artefact"]
    by_name = {each["slide"]: each for each in told["slides"]}
    first, known = by_name["slide-000"], {
        "patient": "P000", "split": "test", "label": 0, "called": 0, "cells": 6, "image": True, "mpp": 0.5, "judged": 0,
        "abnormal": 0, "decision": ""}
    assert {name: first[name] for name in known} == known
    assert [each["index"] for each in told["slides"]] == [0, 1, 2]
    assert [by_name[f"slide-{place:03}"]["image"] for place in range(3)] == [True, False, False]
    assert by_name["slide-002"]["mpp"] is None


def test_a_slide_is_told_by_columns(page: TestClient, shared: Path):
    index = ReviewedRun(shared).number("slide-000")
    told = page.get(f"/api/slides/{index}?reviewer=anna").json()
    assert (told["slide"], told["size"], told["mpp"], told["missing"]) == ("slide-000", [1200, 900], 0.5, "")
    run = ReviewedRun(shared)
    table = run.cells("slide-000", run.tasks[0])
    cells = told["cells"]
    assert cells["rank"] == [1, 2, 3, 4, 5, 6]
    assert cells["name"] == table["cell"].to_pylist()
    assert cells["x"] == [round(value, 1) for value in table["x"].to_pylist()]
    assert cells["score"] == pytest.approx(table["score"].to_pylist(), rel=1e-5)
    assert cells["verdict"] == cells["others"] == [None] * 6
    gone, crops = (page.get(f"/api/slides/{run.number(name)}").json() for name in ("slide-001", "slide-002"))
    assert gone["size"] == [1200, 900]
    assert "no longer where it was" in gone["missing"]
    assert crops["size"] is None
    assert "given as crops" in crops["missing"]


def test_a_verdict_is_kept_counted_and_told_again_after_the_page_is_loaded_anew(page: TestClient):
    answer = post(page, cell=page.get("/api/slides/0").json()["cells"]["name"][0]).json()
    assert (answer["verdict"], answer["judged"], answer["abnormal"]) == ("abnormal", 1, 1)
    assert post(page, "normal", rank=4).json()["judged"] == 2
    told = page.get("/api/run?reviewer=anna").json()
    assert told["place"] == {"index": 0, "rank": 4}
    assert (told["slides"][0]["judged"], told["slides"][0]["abnormal"]) == (2, 1)
    assert told["reviewers"] == ["anna"]
    assert page.get("/api/slides/0?reviewer=anna").json()["cells"]["verdict"] == ["abnormal", None, None, "normal", None, None]
    assert post(page, None).json()["abnormal"] == 0
    assert page.get("/api/run?reviewer=bo").json()["slides"][0]["judged"] == 0


def test_undo_tells_what_stands_now_and_ends(page: TestClient):
    for verdict in ("abnormal", "normal"):
        post(page, verdict, rank=2)
    assert undo(page, "bo").status_code == 409
    steps = [undo(page).json() for _ in range(2)]
    assert [(step["index"], step["rank"], step["verdict"], step["undone"]) for step in steps] == [
        (0, 2, "abnormal", "normal"), (0, 2, None, "abnormal")]
    assert steps[1]["judged"] == 0
    last = undo(page)
    assert last.status_code == 409
    assert "no verdict of yours" in last.json()["error"]


def test_what_others_say_is_hidden_until_one_has_judged(page: TestClient):
    post(page, "abnormal", reviewer="bo")
    assert page.get("/api/slides/0?reviewer=anna").json()["cells"]["others"] == [None] * 6
    assert page.get("/api/slides/0").json()["cells"]["others"] == [None] * 6
    assert post(page, None).json()["others"] is None, "to say nothing is no verdict"
    assert post(page, "unsure").json()["others"] == {"bo": "abnormal"}
    told = page.get("/api/slides/0?reviewer=anna").json()["cells"]
    assert (told["verdict"][0], told["others"][0]) == ("unsure", {"bo": "abnormal"})
    assert undo(page).json()["others"] is None


@pytest.mark.parametrize(("wrong", "status"), [
    ({"index": 3}, 404), ({"index": -1}, 404), ({"index": "0"}, 404), ({"index": True}, 404), ({"index": None}, 404),
    ({"rank": 0}, 404), ({"rank": 7}, 404), ({"rank": 1.0}, 404), ({"rank": True}, 404),
    ({"task": "other"}, 404), ({"task": ["abnormal"]}, 404),
    ({"reviewer": ""}, 400), ({"reviewer": "  "}, 400), ({"reviewer": 7}, 400), ({"reviewer": "x" * 61}, 400),
    ({"reviewer": "a\nb"}, 400), ({"verdict": "perhaps"}, 400), ({"verdict": 1}, 400), ({"cell": "slide-000:77"}, 409),
])
def test_what_is_no_verdict_is_refused_in_a_sentence_and_not_kept(page: TestClient, wrong: dict, status: int):
    answer = post(page, **wrong) if "verdict" not in wrong else post(page, wrong["verdict"])
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")
    assert page.get("/api/run").json()["reviewers"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff"])
def test_what_is_no_json_object_is_refused(page: TestClient, body: bytes):
    for path in ("/api/verdicts", "/api/undo"):
        answer = page.post(path, content=body, headers={**OWN, "Content-Type": "application/json"})
        assert answer.status_code == 400


def test_a_verdict_that_cannot_be_written_is_not_told_to_be_kept(page: TestClient, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(VerdictStore, "keep", full)
        answer = post(page)
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["error"]
    assert post(page).status_code == 200


def test_after_another_ranking_nothing_is_shown_or_kept_by_rank(page: TestClient, shared: Path):
    post(page)
    manifest = shared / "retrieve" / "manifest.json"
    shutil.copy(manifest, manifest.with_suffix(".other"))
    manifest.with_suffix(".other").replace(manifest)
    for answer in (post(page, "normal"), undo(page), page.get("/api/run"), page.get("/api/slides/0"), page.get("/crops/0/1")):
        assert (answer.status_code, answer.json()["error"]) == (409, AGAIN)


def test_a_damaged_table_of_cells_is_told_and_the_other_slides_go_on(run: Path, page: TestClient, shared: Path):
    path = shared / "retrieve" / f"{ReviewedRun(shared).slides[2]}.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    try:
        answer = page.get("/api/slides/2")
        assert answer.status_code == 503
        assert "could not be read" in answer.json()["error"]
        assert page.get("/api/slides/1").status_code == 200
    finally:
        path.write_bytes(whole)


def test_the_page_has_its_file_or_says_that_it_has_none(page: TestClient):
    answer = page.get("/")
    file = STATIC / "index.html"
    if file.exists():
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
    else:
        assert "not installed" in answer.json()["error"]
