import html.parser
import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.fake_run import KINDS, fake_run

from milscope.configs import ReportConfig
from milscope.report import report
from milscope.types import InputError

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


def test_the_page_is_one_file_that_needs_no_other(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run"))
    outline = Outline(page)
    assert not outline.open
    assert [file.name for file in (tmp_path / "run" / "report").iterdir() if file.suffix != ".json"] == ["index.html"]
    assert all(source.startswith("data:image/") for source in outline.sources)
    assert all(link.startswith("#") or link == "data:," for link in outline.links)
    assert not re.search(r"url\((?!#)|@import", page)


def test_ids_are_unique_and_every_reference_has_its_target(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run"))
    outline = Outline(page)
    assert len(outline.ids) == len(set(outline.ids))
    used = {link[1:] for link in outline.links if link.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(outline.ids)


def test_headings_go_down_one_level_at_a_time(tmp_path: Path):
    headings = Outline(page_of(fake_run(tmp_path / "run"))).headings
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_the_same_run_gives_the_same_page(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    first = report(run, tmp_path / "first").page.read_bytes()
    assert first == report(run, tmp_path / "second").page.read_bytes()


def test_a_page_that_is_there_is_not_made_again_and_other_settings_make_another(tmp_path: Path):
    run = fake_run(tmp_path / "run")
    before = report(run).page.stat().st_mtime_ns
    assert report(run).page.stat().st_mtime_ns == before
    assert "<h1>Another</h1>" in page_of(run, title="Another")


@pytest.mark.parametrize("absent", [*KINDS, "slides.csv"])
def test_a_part_that_is_missing_leaves_its_section_out(tmp_path: Path, absent: str):
    assert not Outline(page_of(fake_run(tmp_path / "run", leave_out=[absent]))).open


def test_a_run_of_slides_alone_has_a_page(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", leave_out=list(KINDS)))
    assert "No slide has been scored yet." in page
    assert "No stage of this run is finished." in page


def test_a_run_without_truth_or_training_says_so(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", truth=False, epochs=0))
    assert "the ranking of cells is not measured" in page
    assert "The encoder was not trained in this run" in page


def test_names_cannot_become_markup(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run"), title="<script>alert(1)</script>")
    assert "<script>alert" not in page
    assert "truncated JPEG &lt;b&gt;" in page


def test_only_so_many_slides_and_cells_are_shown_but_all_are_listed(tmp_path: Path):
    page = page_of(fake_run(tmp_path / "run", slides=6, cells=5), slides=2, cells=3)
    assert page.count('<article class="slide"') == 2
    assert page.count('<div class="frame">') == 6
    assert page.count("<tr data-slide=") == 6


def test_something_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="should be the directory of a run"):
        report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_a_negative_number_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="`cells` should be 0 or more"):
        report(fake_run(tmp_path / "run"), config=ReportConfig(cells=-1))


def test_large_noisy_crops_do_not_make_a_large_page(tmp_path: Path):
    run = fake_run(tmp_path / "run", slides=12, cells=24, side=200, grain=30)
    assert sum(file.stat().st_size for file in (run / "retrieve").glob("*.arrow")) > 20e6
    assert report(run).page.stat().st_size < 12e6
