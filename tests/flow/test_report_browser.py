from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from tests.browser import chromium
from tests.fake_run import fake_run

from milscope.report import report

pytestmark = pytest.mark.browser
LEFT = "net::ERR_ABORTED"
"""What becomes of a picture that was still to come when the page was left; one that is not there fails otherwise."""
PAGES = ("index.html", "slides/1.html", "method.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(fake_run(tmp_path_factory.mktemp("browser") / "run", slides=10, cells=30)).directory


class Opened:
    """A page in a window, with everything the browser complained of or asked for beyond the folder."""

    def __init__(self, browser: Browser, folder: Path, name: str = "index.html", width: int = 1280, **options) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: None if request.failure == LEFT else self.complaints.append(request.url))
        self.page.on("request", lambda request: None if request.url.startswith(("data:", folder.as_uri()))
                     else self.complaints.append(request.url))
        self.page.goto((folder / name).as_uri())

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_opens_without_a_complaint_and_fits_the_window(browser: Browser, folder: Path, name: str):
    for width in (1280, 390):
        with Opened(browser, folder, name, width) as opened:
            assert opened.page.get_by_role("heading", level=1).count() == 1
            assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert opened.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_all(browser: Browser, folder: Path, scheme: str):
    rules = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # a page's structure is the same in the dark
    for name in PAGES:
        with Opened(browser, folder, name, color_scheme=scheme) as opened:
            found = Axe().run(opened.page, {"exclude": [[".chart"]]}, {"preload": False, **rules}).response
            assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
            assert len(found["passes"]) >= (20 if scheme == "light" else 1)


def test_charts_and_chips_are_legible(browser: Browser, folder: Path):
    """What axe does not measure: text of drawings."""
    for scheme in ("light", "dark"):
        with Opened(browser, folder, color_scheme=scheme) as opened:
            for selector in (".chart text", ".chip.abnormal", ".chip.normal", ".wrongly"):
                assert opened.page.locator(selector).first.evaluate(CONTRAST) >= 4.5, (scheme, selector)
            paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
            brightness = sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(",")))
            assert (brightness < 150) == (scheme == "dark")


def test_slides_are_filtered_and_sorted_and_the_choice_is_kept(browser: Browser, folder: Path):
    with Opened(browser, folder) as opened:
        page = opened.page
        rows, shown = page.locator("#all tbody tr:visible"), page.locator("#shown")
        assert (rows.count(), shown.inner_text()) == (6, "6 of 10 slides")
        page.get_by_label("Part", exact=True).select_option("all")
        page.get_by_label("Label", exact=True).select_option("abnormal")
        assert rows.count() == 5
        page.get_by_role("button", name="slide", exact=True).click()
        names = rows.locator("th").all_inner_texts()
        assert names == sorted(names)
        page.get_by_role("button", name="slide", exact=True).click()
        assert rows.locator("th").all_inner_texts() == names[::-1]
        page.get_by_role("button", name="probability").click()
        told = [float(text) for text in rows.locator(".figure").all_inner_texts()]
        assert told == sorted(told, reverse=True)
        page.get_by_label("Find").fill("SLIDE-003")
        assert rows.count() == 1
        page.reload()
        assert rows.count() == 1
        page.get_by_label("Find").fill("nothing")
        assert rows.count() == 0
        assert opened.complaints == []


def test_wrong_calls_can_be_picked(browser: Browser, folder: Path):
    with Opened(browser, folder) as opened:
        opened.page.get_by_label("Part", exact=True).select_option("all")
        opened.page.get_by_label("Called").select_option("wrong")
        rows = opened.page.locator("#all tbody tr:visible")
        assert rows.count() == opened.page.locator(".wrongly").count() > 0


def test_first_cells_are_loaded_when_they_come_into_sight(browser: Browser, folder: Path):
    with Opened(browser, folder) as opened:
        strip = opened.page.locator(".strip img:visible").first
        assert strip.get_attribute("loading") == "lazy"
        strip.scroll_into_view_if_needed()
        assert strip.evaluate("image => image.decode().then(() => image.naturalWidth)") == 384


def test_one_walks_through_the_slides_of_the_list(browser: Browser, folder: Path):
    with Opened(browser, folder) as opened:
        page = opened.page
        page.get_by_label("Label", exact=True).select_option("abnormal")
        names = page.locator("#all tbody tr:visible th").all_inner_texts()
        page.locator("#all tbody tr:visible a").first.click()
        page.wait_for_url("**/slides/*.html")
        walked = [page.locator("h1").inner_text()]
        while page.locator("a[rel=next]").count():
            with page.expect_navigation():
                page.keyboard.press("]")
            walked.append(page.locator("h1").inner_text())
        assert walked == names
        with page.expect_navigation():
            page.keyboard.press("[")
        assert page.locator("h1").inner_text() == names[-2]
        assert opened.complaints == []


def test_the_heat_map_fades_and_goes_and_marks_are_chosen(browser: Browser, folder: Path):
    with Opened(browser, folder, "slides/1.html") as opened:
        page = opened.page
        heat, glass = page.locator(".heat"), page.locator(".glass > img").first
        assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") == 768
        assert heat.bounding_box() == glass.bounding_box()
        page.get_by_label("Strength of the heat map").fill("20")
        assert heat.evaluate("image => getComputedStyle(image).opacity") == "0.2"
        page.keyboard.press("h")
        assert not heat.is_visible()
        assert page.locator("circle:visible").count() == 24
        page.get_by_label("Marks").select_option("many")
        assert page.locator("circle:visible").count() == 30
        before = glass.bounding_box()["width"]
        page.get_by_role("button", name="Enlarge").click()
        assert glass.bounding_box()["width"] > 1.5 * before
        page.reload()
        assert not heat.is_visible(), "what was chosen holds for the next slide"
        assert opened.complaints == []


def test_cells_have_a_size_on_the_glass_and_point_to_their_place(browser: Browser, folder: Path):
    with Opened(browser, folder, "slides/1.html") as opened:
        page, cell = opened.page, opened.page.locator(".cells.ranked button").first
        size = page.get_by_label("Size")
        size.fill("2")
        assert cell.locator("i").bounding_box()["width"] == pytest.approx(64, abs=0.5), "32 µm at 2 pixels each"
        page.keyboard.press("+")
        assert cell.locator("i").bounding_box()["width"] == pytest.approx(80, abs=0.5)
        bar = cell.locator("i").evaluate("part => getComputedStyle(part, '::before').width")
        assert bar == "25px", "10 µm at 2.5 pixels each"
        cell.hover()
        assert page.locator("circle.on").get_attribute("data-r") == "1"
        cell.click()
        page.keyboard.press("ArrowRight")
        assert page.locator(".cells [aria-pressed=true]").get_attribute("data-r") == "2"
        assert page.locator(".lens p").inner_text().startswith("Rank 2, ")
        assert opened.complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_is_complete_without_javascript(browser: Browser, folder: Path, name: str):
    with Opened(browser, folder, name, java_script_enabled=False) as opened:
        assert opened.page.locator("form:visible").count() == 0
        assert opened.page.locator({"index.html": "#all tbody tr:visible", "slides/1.html": ".cells button:visible",
                                    "method.html": ".chart:visible"}[name]).count() >= 9
        assert opened.complaints == []


def test_prints_what_is_chosen_without_the_controls(browser: Browser, folder: Path, tmp_path: Path):
    for name in PAGES:
        with Opened(browser, folder, name) as opened:
            opened.page.pdf(path=tmp_path / "page.pdf", format="A4")
            assert (tmp_path / "page.pdf").stat().st_size > 30_000
            opened.page.emulate_media(media="print")
            assert opened.page.locator("form:visible, nav.contents:visible").count() == 0
            assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


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
