import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tests.fake_run import fake_run

from milscope.configs import ReportConfig
from milscope.report._gather import gather
from milscope.report._page import render
from milscope.report._read import LISTED, failures, findings, kept_pictures


def test_every_slide_is_shown_as_it_was_cut_the_fewest_cells_first(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    run.slides.loc[3, "cells"] = 2
    shown = list(kept_pictures(run))
    assert sorted(kept.slide for kept in shown) == sorted(run.slides["slide"])
    assert (shown[0].slide, shown[0].cells) == (run.slides["slide"][3], 2)
    assert sum(kept.skipped for kept in shown) == 1
    page = render(run, ReportConfig(), lambda _: None)
    assert page.count("with its kept cells framed") == len(run.slides)


def test_many_slides_take_no_more_room_than_the_page_has(tmp_path: Path, monkeypatch):
    run = gather(fake_run(tmp_path / "run"))
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    for path in (run.run / "tile" / "kept").iterdir():
        Image.fromarray(noise).save(path)
    monkeypatch.setattr(sys.modules["milscope.report._read"], "ALL_BYTES", 200_000)
    few = list(kept_pictures(run._replace(slides=run.slides[:1])))
    many = list(kept_pictures(run._replace(slides=pd.concat([run.slides] * 2, ignore_index=True))))
    assert len(many) == 16
    assert len(few[0].picture.uri) > 1.5 * len(many[0].picture.uri)
    assert sum(len(kept.picture.uri) for kept in many) < 1.4 * 200_000  # base64 makes 3 bytes 4


def test_whole_slides_that_failed_come_before_cells_and_long_lists_are_cut(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    long = pd.DataFrame({"slide": "a", "cell": [f"a:{i}" for i in range(LISTED + 7)] + [""], "reason": "damaged"})
    listed, more = failures(run._replace(failures=long))
    assert (len(listed), more, listed[0]["cell"]) == (LISTED, 8, "")
    page = render(run._replace(failures=long), ReportConfig(), lambda _: None)
    assert "And 8 more, in <code>tile/failures.csv</code>" in page
    assert "the whole slide" in page


def test_a_run_of_crops_has_no_pictures_but_says_that_all_could_be_read(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", places=False))
    assert not list(kept_pictures(run))
    page = render(run._replace(failures=pd.DataFrame()), ReportConfig(), lambda _: None)
    assert "Every slide and cell could be read." in page
    assert "Each slide as it was cut" not in page


def test_the_audit_is_told_the_gravest_first_and_warned_of_at_the_top(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    assert [told.sign for told in findings(run)] == ["to look at", "fine"]
    page = render(run, ReportConfig(), lambda _: None)
    assert "0 things to mend and 1 thing to look at" in page.split('id="read"')[0]
    assert "The scanner tells `abnormal` with an AUC of 0.91" in page.split('id="read"')[1]
    without = gather(fake_run(tmp_path / "without", leave_out=("check",)))
    assert findings(without) == []
    assert "audit" not in render(without, ReportConfig(), lambda _: None)
