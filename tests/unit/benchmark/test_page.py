import base64
import io
import json
import re
import shutil

import pytest
from PIL import Image

from milscope.benchmark import write_page
from milscope.benchmark._drawn import looks
from milscope.benchmark._examples import examples
from milscope.benchmark._gathered import read_grid
from milscope.metrics import Bootstrap
from milscope.types import InputError

BOOTSTRAP = Bootstrap(40)


@pytest.fixture(scope="module")
def page(grid, tmp_path_factory):
    return write_page([grid], tmp_path_factory.mktemp("page") / "index.html", BOOTSTRAP).read_text()


def colour(picture):
    """The middle pixel of an embedded picture."""
    with Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))) as image:
        return image.convert("RGB").getpixel((8, 8))


def check_self_contained(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert not re.search(r"<script|url\(http", page)
    assert {link for link in re.findall(r'href="#([^"]+)"', page) if link.islower()} <= set(ids)


def test_the_page_needs_nothing_else_and_holds_every_method(page):
    check_self_contained(page)
    for method in ("seek", "simclr+svdd", "random", "supervised"):
        assert f"<code>{method}</code>" in page
    assert page.count('class="chart"') == 4 + 4 + 1 + 4  # measures; recall and precision; limits; differences
    assert "2 seeds only" in page
    assert not re.search(r"#0[1-4]0[1-4]0[1-4]", page)


def test_several_sets_tell_the_worst_first(grid, tmp_path):
    other = shutil.copytree(grid, tmp_path / "other")
    plan = json.loads((other / "grid.json").read_text())
    (other / "grid.json").write_text(json.dumps({**plan, "name": "<other>", "rates": [0.1], "settings": {"cells": 40}}))
    (other / "0/0.1/random/result.json").write_text(json.dumps({"error": "out of <luck>"}))
    page = write_page([grid, other], tmp_path / "page.html", BOOTSTRAP).read_text()
    check_self_contained(page)
    assert page.index("The worst of all sets") < page.index("simulated: against witness rate")
    assert "Recall@10 of seek on each set" in page
    assert "out of &lt;luck&gt;" in page
    assert "<other>" not in page
    with pytest.raises(InputError, match="`simulated` twice"):
        write_page([grid, grid], tmp_path / "twice.html", BOOTSTRAP)
    with pytest.raises(InputError, match="none"):
        write_page([], tmp_path / "no.html", BOOTSTRAP)


def test_misses_are_witnesses_and_alarms_are_normal_cells(grid):
    for each in examples(read_grid(grid), "simclr+svdd"):
        assert 0 < each.missed_count < each.witnesses
        assert {colour(shown.picture) for shown in each.missed} == {(200, 60, 60)}
        assert {colour(shown.picture) for shown in each.alarms} == {(90, 110, 190)}
        assert len(each.alarms) == 12
        assert {shown.positive for shown in each.alarms} == {True, False}


def test_without_drawn_cells_there_are_no_pictures(grid, tmp_path):
    out = shutil.copytree(grid, tmp_path / "bare", ignore=shutil.ignore_patterns("cells"))
    assert examples(read_grid(out), "seek") == []


def test_methods_are_told_apart_by_colour_dashes_and_mark():
    methods = ["a", "seek", "b", "c", "d", "simclr+svdd", "supervised"]
    found = looks(methods, "seek", methods)
    assert [look.method for look in found] == ["seek", "simclr+svdd", "a", "b", "supervised"]
    for part in ("colour", "dash", "mark"):
        assert len({str(getattr(look, part)) for look in found[:-1]}) == 4
