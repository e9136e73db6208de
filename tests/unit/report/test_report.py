import html.parser
import io
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.fake_run import KINDS, fake_run

from milscope.configs import ReportConfig
from milscope.report import report
from milscope.types import InputError

pytestmark = pytest.mark.usefixtures("plain_charts")

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Outline(html.parser.HTMLParser):
    """Collects headings, ids and references, and sees that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.headings, self.ids, self.links, self.sources = [], [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(run: Path, **config) -> str:
    return report(run, config=ReportConfig(**config)).page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run's pages."""
    return report(fake_run(tmp_path_factory.mktemp("made") / "run", cells=30)).directory


def test_every_file_that_a_page_names_is_in_the_folder_and_nothing_else_is_asked_for(made: Path):
    used = {made / "manifest.json"}
    for page in made.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        outline = Outline(text)
        assert not outline.open
        assert len(outline.ids) == len(set(outline.ids))
        named = (*outline.sources, *outline.links, *re.findall(r'url\("([^"#]+)"\)', text))
        names = [name for name in named if name != "data:,"]
        assert not [name for name in names if re.match(r"[a-z]+:|/", name)]
        for name in names:
            file, _, anchor = name.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.is_file(), (page.name, name)
            assert not anchor or f'id="{anchor}"' in target.read_text(encoding="utf-8"), (page.name, name)
            used.add(target)
        assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(outline.ids)
        used.add(page)
    assert made / "slides" / "1-heat.png" in used
    assert {file for file in made.rglob("*") if file.is_file()} == used, "nothing lies there that no page shows"


def test_headings_go_down_one_level_at_a_time(made: Path):
    for page in (made / "index.html", made / "method.html", made / "slides" / "1.html"):
        headings = Outline(page.read_text(encoding="utf-8")).headings
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_same_run_gives_the_same_page(tmp_path: Path):
    run = fake_run(tmp_path / "run", slides=4, cells=4)
    first, second = (report(run, tmp_path / name).directory for name in ("first", "second"))
    files = [file.relative_to(first) for file in first.rglob("*") if file.is_file() and file.name != "manifest.json"]
    assert len(files) > 20
    assert [name for name in files if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_an_interrupted_report_goes_on_with_the_slides_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = fake_run(tmp_path / "run", slides=6, cells=4)
    whole = report(run, tmp_path / "whole").directory
    module, made = sys.modules["milscope.report._page"], []
    write = module.write_slide

    def breaks(slide: str, looked: object) -> None:
        made.append(slide)
        if len(made) == 4:
            raise KeyboardInterrupt
        write(slide, looked)

    monkeypatch.setattr(module, "THREADS", 1)
    monkeypatch.setattr(module, "write_slide", breaks)
    with pytest.raises(KeyboardInterrupt):
        report(run)
    work = tmp_path / "run" / ".report.partial" / "slides"
    kept = {file.name: file.stat().st_mtime_ns for file in work.glob("*-first.jpg")}
    assert 3 <= len(kept) < 6
    monkeypatch.setattr(module, "write_slide", write)
    again = report(run).directory
    assert {name: (again / "slides" / name).stat().st_mtime_ns for name in kept} == kept
    names = {file.relative_to(whole) for file in whole.rglob("*") if file.is_file()} - {Path("manifest.json")}
    assert [name for name in names if (again / name).read_bytes() != (whole / name).read_bytes()] == []


def test_a_page_that_is_there_is_not_made_again_and_other_settings_make_another(tmp_path: Path):
    run = fake_run(tmp_path / "run", slides=2, cells=2)
    before = report(run).page.stat().st_mtime_ns
    assert report(run).page.stat().st_mtime_ns == before
    assert "<h1>Another</h1>" in page_of(run, title="Another")


@pytest.mark.parametrize("absent", [*KINDS, "slides.csv"])
def test_a_part_that_is_missing_leaves_its_section_out(tmp_path: Path, absent: str):
    assert not Outline(page_of(fake_run(tmp_path / "run", slides=3, cells=2, leave_out=[absent]))).open


def test_a_run_of_slides_alone_has_a_page(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", slides=2, leave_out=list(KINDS)))
    assert "No slide has been scored yet." in page
    assert "No stage of this run is finished." in (tmp_path / "run" / "report" / "method.html").read_text()


def test_a_run_without_truth_or_training_says_so(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", slides=2, cells=2, truth=False, epochs=0))
    assert "the ranking of cells is not measured" in page
    assert "The encoder was not trained in this run" in (tmp_path / "run" / "report" / "method.html").read_text()


def test_names_cannot_become_markup(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", slides=2, cells=2), title="<script>alert(1)</script>")
    assert "<script>alert" not in page
    assert "truncated JPEG &lt;b&gt;" in (tmp_path / "run" / "report" / "method.html").read_text()


def test_only_so_many_slides_and_cells_are_shown_but_all_are_listed(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", slides=6, cells=5), slides=2, cells=3)
    made = list((tmp_path / "run" / "report" / "slides").glob("*.html"))
    assert len(made) == 2
    assert [file.read_text().count("<li><button") for file in made] == [3, 3]
    assert page.count("<tr data-part=") == 6
    assert page.count('href="slides/') == 2
    shown = [row for row in page.split("<tr ")[1:] if 'href="slides/' in row]
    assert all('data-part="test"' in row for row in shown), "test slides before others"


def test_cells_are_where_the_page_says(tmp_path: Path):
    """Every cell of a page is cut out of its sheet as a browser would, and looks like the cell of that rank."""
    run = fake_run(tmp_path / "run", slides=2, cells=40, side=48)
    folder = report(run).directory / "slides"
    page = (folder / "1.html").read_text()
    slide = re.search(r"<h1>([^<]+)</h1>", page)[1]
    images = pa.ipc.open_file((run / "retrieve" / f"{slide}.arrow").read_bytes()).read_all()["image"].to_pylist()
    files = re.findall(r'\.s(\d)\{--c:(\d+);--r:(\d+)\}#task \.ranked \.s\d i\{background-image:url\("([^"]+)"\)', page)
    sheets = {number: (int(columns), int(rows), Image.open(folder / name)) for number, columns, rows, name in files}
    assert len(sheets) == 2
    found = re.findall(r'class="s(\d)" data-r="(\d+)" style="--i:(\d+);--j:(\d+)"', page)
    assert [int(rank) for _, rank, _, _ in found] == list(range(1, 41))
    for number, rank, i, j in found:
        columns, rows, picture = sheets[number]
        across, down = picture.width // columns, picture.height // rows
        cut = picture.crop((int(i) * across, int(j) * down, (int(i) + 1) * across, (int(j) + 1) * down)).resize((48, 48))
        own = Image.open(io.BytesIO(images[int(rank) - 1])).convert("RGB")
        assert np.abs(np.asarray(cut, float) - np.asarray(own, float)).mean() < 4, rank


def test_something_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="should be the directory of a run"):
        report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_a_negative_number_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="`cells` should be 0 or more"):
        report(fake_run(tmp_path / "run", slides=2, cells=2), config=ReportConfig(cells=-1))


def test_large_noisy_crops_do_not_make_a_large_folder(tmp_path: Path):
    run = fake_run(tmp_path / "run", slides=4, cells=16, side=180, grain=30)
    assert sum(file.stat().st_size for file in (run / "retrieve").glob("*.arrow")) > 4e6
    folder = report(run).directory
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 1e6
    assert (folder / "index.html").stat().st_size < 200_000
