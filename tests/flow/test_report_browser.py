from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from tests.browser import chromium
from tests.fake_run import fake_run

from milscope.report import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(fake_run(tmp_path_factory.mktemp("browser") / "run", slides=10, cells=8)).page


class Opened:
    """The page in a window, with everything the browser complained of or asked the network for."""

    def __init__(self, browser: Browser, file: Path, width: int = 1280, **options) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("request", lambda request: None if request.url.startswith("data:") or request.url == file.as_uri()
                     else self.complaints.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def test_opens_without_a_complaint_and_fits_the_window(browser: Browser, file: Path, tmp_path: Path):
    for width in (1280, 390):
        with Opened(browser, file, width) as opened:
            assert opened.page.get_by_role("heading", level=1).inner_text() == "run"
            assert opened.page.get_by_role("heading", level=2).count() == 8
            assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            opened.page.screenshot(path=tmp_path / f"{width}.png")
            assert (tmp_path / f"{width}.png").stat().st_size > 20_000
            assert opened.complaints == []


def test_crops_are_shown_large(browser: Browser, file: Path):
    for width in (1280, 390):
        with Opened(browser, file, width) as opened:
            crop = opened.page.locator("article.slide:visible .frame img").first
            crop.scroll_into_view_if_needed()
            assert crop.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
            assert crop.bounding_box()["width"] >= 112


def test_slides_are_filtered_by_part_label_and_name(browser: Browser, file: Path):
    with Opened(browser, file) as opened:
        page = opened.page
        rows, cards = page.locator("#all tbody tr:visible"), page.locator("article.slide:visible")
        assert (rows.count(), cards.count()) == (6, 6)
        page.get_by_label("Part", exact=True).select_option("all")
        assert rows.count() == 10
        page.get_by_label("Label", exact=True).select_option("abnormal")
        assert rows.count() == 5
        page.get_by_label("Find").fill("SLIDE-003")
        assert rows.count() == cards.count() == 1
        assert page.locator("#shown").inner_text() == "1 of 10 slides, 1 with cells"
        page.get_by_label("Find").fill("nothing")
        assert cards.count() == 0
        assert opened.complaints == []


def test_cells_grow_with_the_slider_and_point_to_their_place(browser: Browser, file: Path):
    with Opened(browser, file) as opened:
        page, frame = opened.page, opened.page.locator("article.slide:visible .frame").first
        frame.scroll_into_view_if_needed()
        before = frame.bounding_box()["width"]
        page.get_by_label("Size of cells").press("End")
        assert frame.bounding_box()["width"] > before + 50
        frame.hover()
        assert page.locator(".mark.on").get_attribute("data-rank") == "1"
        assert opened.complaints == []


def test_dark_and_light_are_both_legible(browser: Browser, file: Path):
    for scheme in ("light", "dark"):
        with Opened(browser, file, color_scheme=scheme) as opened:
            for selector in LEGIBLE:
                contrast = opened.page.locator(selector).first.evaluate(CONTRAST)
                assert contrast >= 4.5, (scheme, selector, contrast)
            paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(",")))
            assert (brightness < 150) == (scheme == "dark")


def test_is_complete_without_javascript(browser: Browser, file: Path):
    with Opened(browser, file, java_script_enabled=False) as opened:
        assert opened.page.locator("#all tbody tr:visible").count() == 10
        assert not opened.page.locator("#tools").is_visible()
        assert opened.complaints == []


def test_prints_what_is_chosen_without_the_controls(browser: Browser, file: Path, tmp_path: Path):
    with Opened(browser, file) as opened:
        opened.page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").stat().st_size > 50_000
        opened.page.emulate_media(media="print")
        assert not opened.page.locator("#tools").is_visible()
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


LEGIBLE = ("body", ".muted", ".chip.abnormal", ".chip.normal", ".warning h3", ".chart text", "a[href^='#slide']")
CONTRAST = """element => {
  const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => numbers(colour).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  let behind = element;
  while (behind.parentElement && numbers(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const style = getComputedStyle(element);
  const pair = [light(element.closest("svg") ? style.fill : style.color), light(getComputedStyle(behind).backgroundColor)];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
