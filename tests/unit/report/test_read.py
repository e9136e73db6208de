import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.fake_run import fake_run
from tests.unit.report.test_page import pages

from milscope.report._gather import gather
from milscope.report._read import LISTED, failures, findings, kept_pictures

pytestmark = pytest.mark.usefixtures("plain_charts")


def test_every_slide_is_shown_as_it_was_cut_the_fewest_cells_first(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3))
    run.slides.loc[3, "cells"] = 2
    shown = list(kept_pictures(run, tmp_path))
    assert (tmp_path / Path(shown[0].file).name).stat().st_size > 2_000
    assert sorted(kept.slide for kept in shown) == sorted(run.slides["slide"])
    assert (shown[0].slide, shown[0].cells) == (run.slides["slide"][3], 2)
    assert sum(kept.skipped for kept in shown) == 1
    _, page = pages(run, tmp_path / "pages")
    assert page.count("with its kept cells framed") == len(run.slides)
    assert (tmp_path / "pages" / "kept" / "1.jpg").exists()


def test_many_slides_take_no_more_room_than_the_page_has(tmp_path: Path, monkeypatch):
    run = gather(fake_run(tmp_path / "run", cells=3))
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for path in (run.run / "tile" / "kept").iterdir():
        Image.fromarray(noise).save(path)
    monkeypatch.setattr(sys.modules["milscope.report._read"], "ALL_BYTES", 200_000)
    few, many = tmp_path / "few", tmp_path / "many"
    for folder, slides in ((few, run.slides[:1]), (many, pd.concat([run.slides] * 2, ignore_index=True))):
        folder.mkdir()
        list(kept_pictures(run._replace(slides=slides), folder))
    sizes = [[file.stat().st_size for file in folder.iterdir()] for folder in (few, many)]
    assert len(sizes[1]) == 16
    assert sizes[0][0] > 1.5 * max(sizes[1])
    assert sum(sizes[1]) < 200_000


def test_whole_slides_that_failed_come_before_cells_and_long_lists_are_cut(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3))
    long = pd.DataFrame({"slide": "a", "cell": [f"a:{i}" for i in range(LISTED + 7)] + [""], "reason": "damaged"})
    listed, more = failures(run._replace(failures=long))
    assert (len(listed), more, listed[0]["cell"]) == (LISTED, 8, "")
    _, page = pages(run._replace(failures=long), tmp_path / "pages")
    assert "And 8 more, in <code>tile/failures.csv</code>" in page
    assert "the whole slide" in page


def test_a_run_of_crops_has_no_pictures_but_says_that_all_could_be_read(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3, places=False))
    assert not list(kept_pictures(run, tmp_path))
    _, page = pages(run._replace(failures=pd.DataFrame()), tmp_path / "pages")
    assert "Every slide and cell could be read." in page
    assert "Each slide as it was cut" not in page


def test_the_audit_is_told_the_gravest_first_and_warned_of_at_the_top(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", cells=3))
    assert [told.sign for told in findings(run)] == ["to look at", "fine"]
    first, method = pages(run, tmp_path / "pages")
    assert "0 things to mend and 1 thing to look at" in first
    assert "The scanner tells `abnormal` with an AUC of 0.91" in method
    without = gather(fake_run(tmp_path / "without", cells=3, leave_out=("check",)))
    assert findings(without) == []
    assert "audit" not in "".join(pages(without, tmp_path / "other"))
