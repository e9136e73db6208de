import json
import subprocess
import sys

import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from tests.fake_scores import cell_table, slide_table, write_cells, write_scores

from milscope.configs import HeatmapConfig
from milscope.heat import Window, draw, paint, rarity
from milscope.heatmap import LONGEST, heatmap, plan
from milscope.store import Frame, read_manifest
from milscope.types import InputError

module = sys.modules["milscope.heatmap"]  # the module, not the function of the same name
PLACES = ["x", "y", "width", "height"]


def give_frames(store, frames):
    table = pd.read_csv(store / "slides.csv", dtype=str, keep_default_na=False).set_index("slide")
    for slide, (width, height, mpp) in frames.items():
        table.loc[slide, ["width", "height", "mpp"]] = [str(width), str(height), str(mpp)]
    table.reset_index().to_csv(store / "slides.csv", index=False)
    return store


@pytest.fixture
def run(tmp_path):
    slides = slide_table(4)
    cells = cell_table(slides)
    cells[["x", "y"]] *= 20
    cells.loc[cells["cell"].str.endswith(":9"), ["x", "y"]] = 3990, 3990  # over the border of tiles, both ways
    store = write_cells(tmp_path / "tile", cells)
    give_frames(store, dict.fromkeys(slides["slide"], (8000, 5000, 0.5)))
    return write_scores(tmp_path / "predict", slides, cells), store, cells, tmp_path / "heat"


def test_every_slide_becomes_a_pyramid_of_the_right_scale_that_others_open(run):
    scores, store, cells, out = run
    assert heatmap(scores, store, out, HeatmapConfig(among="slide")) == (out, 4, 0, [])
    told = pd.read_csv(out / "slides.csv")
    assert told["slide"].tolist() == ["S00", "S01", "S02", "S03"]
    assert told.iloc[0][["cells", "width", "height"]].tolist() == [30, 1024, 640]
    with openslide.OpenSlide(out / "S01.tif") as slide:
        assert slide.level_dimensions == ((1024, 640), (512, 320))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(8000 * 0.5 / 1024, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(5000 * 0.5 / 640, rel=1e-4)
    own = cells[cells["slide"] == "S01"]
    values = draw(own[PLACES].to_numpy(), rarity(own["evidence"].to_numpy()), Window(0, 0, 8000, 5000), (1024, 640))
    with tifffile.TiffFile(out / "S01.tif") as colour, tifffile.TiffFile(out / "values" / "S01.tif") as plain:
        assert colour.pages[0].is_tiled
        assert colour.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,)
        assert [page.subfiletype for page in colour.pages] == [0, 1]
        assert np.array_equal(colour.pages[0].asarray(), paint(values))
        assert plain.pages[0].asarray() == pytest.approx(values.astype(np.float32), nan_ok=True)
        assert np.nanmax(plain.pages[1].asarray()) == np.nanmax(plain.pages[0].asarray())  # a rare cell is not averaged away
    assert "top 0.1 %" in (out / "legend.svg").read_text()


def test_a_cohort_is_one_scale_and_needs_scores_that_can_be_compared(run):
    scores, store, cells, out = run
    heatmap(scores, store, out)
    best = {slide: np.nanmax(tifffile.imread(out / "values" / f"{slide}.tif", key=0)) for slide in ("S00", "S01", "S02", "S03")}
    expected = pd.Series(rarity(cells["evidence"].to_numpy())).groupby(cells["slide"]).max()
    assert best == pytest.approx(expected.to_dict(), rel=1e-5)
    heatmap(scores, store, out, HeatmapConfig(rank="attention"))
    assert read_manifest(out, "heatmap").config["among"] == "slide"
    with pytest.raises(InputError, match="`rank` should be evidence or a learned ranking, where slides are compared"):
        heatmap(scores, store, out, HeatmapConfig(among="cohort", rank="attention"))


def test_slides_that_cannot_be_drawn_are_named_and_the_others_drawn(run, tmp_path):
    _, store, cells, out = run
    give_frames(store, {"S00": ("", "", "")})
    cells.loc[cells["slide"] == "S01", ["x", "y"]] = np.nan
    cells.loc[(cells["slide"] == "S02") & (cells["x"] > 1000), "x"] = np.nan
    result = heatmap(write_scores(tmp_path / "some", slide_table(4), cells), store, out)
    assert result[1:3] == (2, 2)
    assert result.warnings == ["no heat map of slide S00: the size of its image is not known",
                               "no heat map of slide S01: none of its cells has a place on the image"]
    assert pd.read_csv(out / "failures.csv")["slide"].tolist() == ["S00", "S01"]
    assert pd.read_csv(out / "slides.csv").set_index("slide")["cells"].to_dict() == {"S02": 5, "S03": 30}
    assert not (out / "S00.tif").exists()


def test_crops_have_no_heat_map_and_nothing_is_left_behind(tmp_path):
    slides = slide_table(4)
    cells = cell_table(slides, places=False)
    store, scores = write_cells(tmp_path / "tile", cells), write_scores(tmp_path / "predict", slides, cells)
    with pytest.raises(InputError, match=r"whose cells have places\. Found none of 4 slides; S00: the size"):
        heatmap(scores, store, tmp_path / "heat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predict", "tile"]


@pytest.mark.parametrize(("setting", "line"), [
    ({"mpp": 0.0}, "`mpp` should be more than 0"), ({"task": "none"}, "`task` should be one whose scores of cells are there")])
def test_odd_settings_are_refused(run, setting, line):
    with pytest.raises(InputError, match=line):
        heatmap(*run[:2], run[3], HeatmapConfig(**setting))


def test_what_was_drawn_is_kept_when_it_is_interrupted(run, monkeypatch):
    scores, store, _, out = run
    drawn, write = [], module.write_colours

    def counted(path, sheet):
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(path.name)
        write(path, sheet)

    monkeypatch.setattr(module, "write_colours", counted)
    with pytest.raises(KeyboardInterrupt):
        heatmap(scores, store, out)
    monkeypatch.setattr(module, "write_colours", lambda path, sheet: (drawn.append(path.name), write(path, sheet)))
    assert heatmap(scores, store, out).slides == 4
    assert drawn == ["S00.tif", "S01.tif", "S02.tif", "S03.tif"]
    assert len(pd.read_csv(out / "slides.csv")) == 4
    assert heatmap(scores, store, out).slides == 4
    assert len(drawn) == 4


def placed(side, places=((500, 500),)):
    return pd.DataFrame([{"x": x, "y": y, "width": side, "height": side, "score": 1.0} for x, y in places])


@pytest.mark.parametrize(("frame", "side", "mpp", "size"), [
    (Frame(100_000, 80_000, 0.25), 256, 8.0, (3125, 2500)),        # as it was asked for
    (Frame(100_000, 80_000, 0.25), 40, 8.0, (10_000, 8000)),       # a cell of 10 microns still has 4 pixels
    (Frame(2000, 1000, 0.5), 96, 8.0, (LONGEST, 512)),             # a small slide is no stamp
    (Frame(600, 600, 0.5), 96, 8.0, (600, 600)),                   # never finer than the slide
    (Frame(50_000, 50_000, float("nan")), 400, 8.0, (LONGEST, LONGEST)),
])
def test_the_picture_is_large_enough_to_be_used(frame, side, mpp, size):
    sheet = plan(placed(side), frame, None, mpp)
    assert sheet.size == size
    assert side * size[0] / frame.width >= 4


def test_a_cell_outside_its_slide_is_no_cell_of_it():
    assert plan(placed(50, [(500, 500), (5000, 500)]), Frame(1000, 1000, 1.0), None, 8.0).places.shape == (1, 4)


PEAK = """
import json, resource, sys
import numpy as np, pandas as pd
from pathlib import Path
from milscope.heatmap import plan, write_colours, write_values
from milscope.store import Frame
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
random, count = np.random.default_rng(0), 50_000
cells = pd.DataFrame({"x": random.uniform(0, 1e5, count), "y": random.uniform(0, 1e5, count), "width": 256.0, "height": 256.0,
                      "score": random.normal(size=count)})
before = peak()
sheet = plan(cells, Frame(100_000, 100_000, 0.25), None, 8.0)
write_values(Path(sys.argv[1]), sheet)
write_colours(Path(sys.argv[2]), sheet)
print(json.dumps({"size": sheet.size, "megabytes": peak() - before}))
"""


def test_a_slide_of_100_000_pixels_and_50_000_cells_needs_less_than_100_megabytes(tmp_path):
    told = json.loads(subprocess.run([sys.executable, "-c", PEAK, tmp_path / "values.tif", tmp_path / "colours.tif"],
                                     capture_output=True, text=True, check=True).stdout)
    assert told["size"] == [3125, 3125]
    assert told["megabytes"] < 100
