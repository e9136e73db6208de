"""The review page in a real browser, before a real server: judging by keys, undoing, filtering, zooming, failing, returning."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect
from tests.browser import chromium
from tests.fake_run import SIDE, fake_run

pytestmark = pytest.mark.browser
WIDTH, HEIGHT, CELLS, MANY = SIDE, SIDE * 3 // 4, 30, 50_000
FRAME = 50.0
"""Milliseconds that half of all frames of a scroll through 50,000 cells stay below, on a machine that does other things too."""
VIEWER = Path(__file__).parents[2] / "src" / "milscope" / "review" / "static" / "openseadragon" / "openseadragon.min.js"
expect.set_options(timeout=8000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides of 30 cells; all but slide-002 have an image."""
    home = tmp_path_factory.mktemp("review")
    run = fake_run(home / "run", slides=4, cells=CELLS, leave_out=("check", "pretrain", "encode", "train", "evaluate"))
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([columns * 255 // WIDTH, rows * 255 // HEIGHT, (columns // 50 + rows // 50) % 2 * 200], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(home / "slide.png", compress_level=1)
    tiled = pd.read_csv(run / "tile" / "slides.csv", dtype=str, keep_default_na=False)
    tiled["file"] = [str(home / ("moved.png" if slide == "slide-002" else "slide.png")) for slide in tiled["slide"]]
    tiled.to_csv(run / "tile" / "slides.csv", index=False)
    ranked = pd.read_csv(run / "retrieve" / "ranked.csv")
    ranked.assign(evidence=ranked["score"], attention=0.1).drop(columns=["rank", "score"]).to_parquet(
        run / "predict" / "cells.parquet")
    return run


class Server:
    """`milscope review` in a process of its own, on the same port after each start."""

    def __init__(self, run: Path) -> None:
        self._run, self._port, self.address = run, "0", ""
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", "from milscope.cli import main; main()", "review", str(self._run), "--no-open",
                   "--port", self._port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = next(line for line in self._process.stdout if "http://" in line)
        self.address = line.split()[-1]
        self._port = self.address.split(":")[2].split("/")[0]

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[Server]:
    server = Server(run)
    yield server
    server.kill()


class Reviewing:
    """A window of one reviewer, with everything the browser complained of."""

    def __init__(self, browser: Browser, server: Server, name: str, width: int = 1280, height: int = 800, **options) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.add_init_script(f"localStorage.setItem('milscope.reviewer', '{name}')" if name else "")
        self.context.set_default_timeout(8000)
        self.complaints: list[str] = []
        self.page = self.tab(server)

    def tab(self, server: Server) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(server.address)
        expect(page.locator("#slide-name")).to_contain_text("slide-")
        return page

    def __enter__(self) -> "Reviewing":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def tile(page: Page, rank: int):
    return page.locator(f"#cell-{rank}")


def at_cell(page: Page, rank: int) -> None:
    expect(page.locator("#cell-name")).to_have_text(f"Cell {rank}")


def test_asks_who_judges_once_and_fits_windows_of_all_widths(browser: Browser, server: Server):
    with Reviewing(browser, server, "") as opened:
        page = opened.page
        page.get_by_label("Your name").fill("Vera")
        page.get_by_role("button", name="Begin").click()
        expect(page.locator("#who-name")).to_have_text("Vera")
        expect(tile(page, 1).locator("img.here")).to_be_visible()
        assert tile(page, 1).locator("img").evaluate("image => image.naturalWidth") == 64
        listed = page.locator("#list .probability .number").all_inner_texts()
        assert listed == sorted(listed, reverse=True)
        assert len(listed) == 4
        for width in (1920, 1280, 800):
            page.set_viewport_size({"width": width, "height": 900})
            expect(tile(page, 6)).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.locator("#verdicts").bounding_box()["x"] < width - 200
        page.reload()
        expect(page.locator("#who-name")).to_have_text("Vera")
        assert not page.locator("#name-dialog").evaluate("dialog => dialog.open")
        assert opened.complaints == []


def test_one_key_judges_and_the_next_cell_without_a_verdict_comes_up(browser: Browser, server: Server):
    with Reviewing(browser, server, "Keys") as opened:
        page = opened.page
        at_cell(page, 1)
        for rank, (key, verdict) in enumerate(zip("anux", ("abnormal", "normal", "unsure", "artefact"), strict=True), 1):
            page.keyboard.press(key)
            expect(tile(page, rank)).to_have_attribute("data-verdict", verdict)
            at_cell(page, rank + 1)
        assert page.locator("#grid").get_attribute("aria-activedescendant") == "cell-5"
        expect(page.locator("#overall")).to_have_text(f"4 of {4 * CELLS} judged · 1 abnormal")
        expect(page.locator("#list [aria-current] .judged")).to_have_text(f"4 / {CELLS}")
        page.keyboard.press("k")
        page.keyboard.press("ArrowLeft")
        at_cell(page, 3)
        page.keyboard.press("a")  # a change of mind; the next one without a verdict is 5
        expect(tile(page, 3)).to_have_attribute("data-verdict", "abnormal")
        at_cell(page, 5)
        page.keyboard.press("z")  # back to what was said before
        expect(tile(page, 3)).to_have_attribute("data-verdict", "unsure")
        at_cell(page, 3)
        page.keyboard.press("z")
        expect(tile(page, 4)).to_have_attribute("data-verdict", "")
        at_cell(page, 4)
        page.keyboard.down("u")
        expect(tile(page, 4)).to_have_attribute("data-verdict", "unsure")
        at_cell(page, 5)
        page.keyboard.down("u")  # held down: the same key again is no second verdict
        page.keyboard.up("u")
        page.keyboard.press("ArrowDown")
        at_cell(page, 9)  # four columns
        expect(tile(page, 5)).to_have_attribute("data-verdict", "")
        page.keyboard.press("]")
        expect(page.locator("#list [aria-current] .place")).to_have_text("2")
        page.get_by_label("Find a slide or patient").press("a")  # what is typed into a field is no verdict
        expect(page.get_by_label("Find a slide or patient")).to_have_value("a")
        expect(page.locator("#overall")).to_contain_text("4 of")
        assert opened.complaints == []


def test_a_verdict_that_was_not_kept_is_not_shown(browser: Browser, server: Server):
    with Reviewing(browser, server, "Failing") as opened:
        page = opened.page
        page.route("**/api/verdicts", lambda route: route.abort())
        page.keyboard.press("a")
        expect(page.get_by_role("alert")).to_contain_text("“abnormal” was not kept")
        expect(tile(page, 1)).to_have_attribute("data-verdict", "")
        at_cell(page, 1)
        page.unroute("**/api/verdicts")
        page.get_by_role("button", name="Try again").click()
        expect(tile(page, 1)).to_have_attribute("data-verdict", "abnormal")
        at_cell(page, 2)
        expect(page.get_by_role("alert")).to_be_hidden()


def test_slides_and_cells_are_filtered(browser: Browser, server: Server):
    with Reviewing(browser, server, "Filter") as opened:
        page, rows = opened.page, opened.page.locator("#list li:visible")
        page.keyboard.press("a")
        at_cell(page, 2)
        page.get_by_label("Not yet judged").check()
        expect(rows).to_have_count(3)
        page.get_by_label("Not yet judged").uncheck()
        page.get_by_label("Label").select_option("normal")
        expect(rows).to_have_count(2)
        page.get_by_label("Part").select_option("train")
        expect(rows).to_have_count(1)
        page.get_by_label("Find a slide or patient").fill("nothing")
        expect(rows).to_have_count(0)
        expect(page.locator("#shown")).to_have_text("0 of 4 slides")
        page.locator("#only").select_option("abnormal")
        expect(page.locator("#sheet .tile:visible")).to_have_count(1)
        page.locator("#only").select_option("open")
        at_cell(page, 2)
        assert tile(page, 1).count() == 0 or not tile(page, 1).is_visible()
        page.get_by_label("Blind").check()
        assert not page.locator("#cell-score").is_visible()
        assert opened.complaints == []


@pytest.mark.skipif(not VIEWER.exists(), reason="OpenSeadragon is not there: run `python hatch_build.py`")
def test_the_slide_is_zoomed_its_marks_lead_to_cells_and_heat_lies_over_it(browser: Browser, server: Server):
    with Reviewing(browser, server, "Zoom") as opened:
        page, asked = opened.page, []
        page.on("response", lambda response: asked.append((response.url, response.status)))
        page.get_by_label("Find a slide or patient").fill("slide-001")
        page.locator("#list li:visible button").click()
        expect(page.locator("#slide-name")).to_have_text("slide-001")
        page.locator("#slide-name").click()
        page.keyboard.press("s")
        expect(page.locator("#zoom-scale")).to_be_visible()
        index = page.locator("#list [aria-current]").get_attribute("data-index")
        cells = page.evaluate(f"fetch('/api/slides/{index}').then(answer => answer.json())")["cells"]
        places = np.array([cells["x"], cells["y"]]).T
        apart = np.linalg.norm(places[:, None] - places, axis=2) + np.eye(CELLS) * 1e9
        row = int(apart.min(axis=1)[1:].argmax()) + 1
        box = page.locator("#viewer").bounding_box()
        scale = min(box["width"] / WIDTH, box["height"] / HEIGHT)
        middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        page.mouse.click(*(middle + (places[row] - (WIDTH / 2, HEIGHT / 2)) * scale))
        at_cell(page, row + 1)
        far = page.locator("#zoom-scale .length").inner_text()
        page.keyboard.press("c")
        expect(page.locator("#zoom-scale .length")).not_to_have_text(far)
        page.keyboard.press("n")
        expect(page.locator("#toast")).to_contain_text("normal")
        with page.expect_response("**/heat*") as heat:
            page.keyboard.press("h")
        assert heat.value.status == 200
        expect(page.locator("#legend")).to_contain_text("of all slides")
        assert any(f"/slides/{index}/tiles/11/" in url for url, _ in asked)
        assert {status for _, status in asked} <= {200}
        page.get_by_label("Find a slide or patient").fill("slide-002")
        page.locator("#list li:visible button").click()
        expect(page.locator("#zoom-note")).to_contain_text("no longer where it was")
        assert opened.complaints == []


def test_says_how_to_get_the_viewer_where_it_is_missing(browser: Browser, server: Server):
    with Reviewing(browser, server, "None") as opened:
        opened.page.route("**/openseadragon.min.js", lambda route: route.abort())
        opened.page.get_by_role("button", name="Slide S").click()
        expect(opened.page.locator("#zoom-note")).to_contain_text("python hatch_build.py")
        opened.page.keyboard.press("s")
        expect(tile(opened.page, 1)).to_be_visible()


def test_returns_where_one_stopped_and_tabs_and_reviewers_meet(browser: Browser, server: Server):
    with Reviewing(browser, server, "Two") as opened:
        first = opened.page
        first.keyboard.press("]")
        expect(first.locator("#list [aria-current] .place")).to_have_text("2")
        first.keyboard.press("a")
        at_cell(first, 2)
        first.keyboard.press("End")
        at_cell(first, CELLS)
        first.reload()
        at_cell(first, CELLS)  # this tab's place
        second = opened.tab(server)
        expect(second.locator("#list [aria-current] .place")).to_have_text("2")
        at_cell(second, 2)  # where the verdicts ended
        second.keyboard.press("x")
        at_cell(second, 3)
        first.evaluate("dispatchEvent(new Event('focus'))")
        first.keyboard.press("Home")
        expect(tile(first, 2)).to_have_attribute("data-verdict", "artefact")
        at_cell(first, 1)
        assert opened.complaints == []
    with Reviewing(browser, server, "Other") as opened:
        opened.page.keyboard.press("]")
        expect(opened.page.locator("#list [aria-current] .place")).to_have_text("2")
        assert not opened.page.locator("#others").is_visible()
        opened.page.keyboard.press("n")
        at_cell(opened.page, 2)
        opened.page.keyboard.press("k")
        expect(opened.page.locator("#others")).to_have_text("Two abnormal")
        assert opened.complaints == []


def test_each_task_has_its_own_cells_and_verdicts(browser: Browser, run: Path, tmp_path: Path):
    both = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("review"))
    shutil.copytree(run / "retrieve", both / "retrieve" / "tasks" / "clue cells #2")
    manifest = json.loads((both / "predict" / "manifest.json").read_text())
    names = ("abnormal", "clue cells #2")
    manifest["summary"]["tasks"] = [{"name": name, "classes": ["negative", "positive"]} for name in names]
    (both / "predict" / "manifest.json").write_text(json.dumps(manifest))
    server = Server(both)
    try:
        with Reviewing(browser, server, "Tasks") as opened:
            page = opened.page
            page.keyboard.press("a")
            at_cell(page, 2)
            page.get_by_label("Sought").select_option("clue cells #2")
            at_cell(page, 1)
            expect(tile(page, 1)).not_to_have_attribute("data-verdict", "abnormal")
            page.keyboard.press("n")
            expect(tile(page, 1)).to_have_attribute("data-verdict", "normal")
            page.reload()
            expect(page.get_by_label("Sought")).to_have_value("clue cells #2")
            expect(tile(page, 1)).to_have_attribute("data-verdict", "normal")
            page.get_by_label("Sought").select_option("abnormal")
            expect(tile(page, 1)).to_have_attribute("data-verdict", "abnormal")
            assert opened.complaints == []
    finally:
        server.kill()


def test_fifty_thousand_cells_scroll_smoothly(browser: Browser, server: Server):
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (214, 178, 190)).save(picture, "PNG")

    def many(route: Route) -> None:
        answer = route.fetch()
        slide = answer.json()
        for name, column in slide["cells"].items():
            slide["cells"][name] = list(range(1, MANY + 1)) if name == "rank" else (column * (MANY // CELLS + 1))[:MANY]
        route.fulfill(response=answer, json=slide)

    with Reviewing(browser, server, "Many", 1920, 1080) as opened:
        page = opened.page
        page.route("**/crops/**", lambda route: route.fulfill(body=picture.getvalue(), content_type="image/png"))
        page.route("**/context/**", lambda route: route.fulfill(body=picture.getvalue(), content_type="image/png"))
        page.route("**/api/slides/*", many)
        page.keyboard.press("]")
        expect(tile(page, 1)).to_have_attribute("aria-setsize", str(MANY))
        frames = np.array(page.evaluate("""() => new Promise(done => {
            const grid = document.getElementById("grid"), frames = [];
            let before = performance.now();
            const step = now => {
                frames.push(now - before);
                before = now;
                grid.scrollTop += frames.length < 60 ? 90 : 20000;
                if (frames.length < 100) requestAnimationFrame(step); else done(frames.slice(1));
            };
            requestAnimationFrame(step);
        })"""))
        print(f"frames of a scroll, ms: median {np.median(frames):.1f}, 95 % {np.quantile(frames, 0.95):.1f}")
        assert np.median(frames) < FRAME
        assert page.locator("#sheet .tile").count() < 250
        page.keyboard.press("End")
        at_cell(page, "50\u202f000")
        expect(tile(page, MANY).locator("img.here")).to_be_visible()
        assert opened.complaints == []


def test_can_be_used_without_eyes_or_mouse(browser: Browser, server: Server):
    with Reviewing(browser, server, "Axe", reduced_motion="reduce") as opened:
        page, axe = opened.page, Axe()
        page.keyboard.press("a")
        at_cell(page, 2)
        for key, shown in (("", "#grid"), ("s", "#zoom"), ("?", "#help-dialog")):
            page.keyboard.press(key) if key else None
            expect(page.locator(shown)).to_be_visible()
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                found = axe.run(page).response["violations"]
                assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


def test_a_killed_server_loses_nothing_and_the_page_says_what_to_do(browser: Browser, server: Server):
    with Reviewing(browser, server, "Killed") as opened:
        page, alert = opened.page, opened.page.get_by_role("alert")
        page.keyboard.press("a")
        expect(tile(page, 1)).to_have_attribute("data-verdict", "abnormal")
        assert opened.complaints == []
        server.kill()
        page.keyboard.press("n")
        expect(alert).to_contain_text("The server does not answer")
        expect(tile(page, 2)).to_have_attribute("data-verdict", "")
        server.start()
        page.get_by_role("button", name="Try again").click()
        expect(alert).to_contain_text("Open the address")
        expect(tile(page, 2)).to_have_attribute("data-verdict", "")
        page.goto(server.address)
        expect(tile(page, 1)).to_have_attribute("data-verdict", "abnormal")
        at_cell(page, 2)
        page.keyboard.press("n")
        expect(tile(page, 2)).to_have_attribute("data-verdict", "normal")
