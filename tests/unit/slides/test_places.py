import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.slide_files import write_tiff_pyramid

from milscope.slides import GivenUpError, Skip, SlideReader, cut_cells, decode_pixels, open_slide, read_places
from milscope.slides._images import DamagedError
from milscope.types import InputError

PICTURE = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)


@pytest.fixture
def reader(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as opened:
        yield opened


def cut(reader, centres, extent=32.0, size=32):
    places = pd.DataFrame([(f"{x},{y}", x, y) for x, y in centres], columns=["cell", "x", "y"])
    return list(cut_cells(reader, places, extent=extent, size=size, mpp=0.25, quality=100))


def test_centres_and_border(reader):
    inner, corner, far = cut(reader, [(50, 40), (3.0, 2.0), (140, 100)])
    assert (decode_pixels(inner.image) == PICTURE[24:56, 34:66]).all()
    assert (decode_pixels(corner.image) == PICTURE[:32, :32]).all()
    assert (decode_pixels(far.image) == PICTURE[68:, 108:]).all()
    assert (corner.x, corner.y, corner.width, corner.height, corner.mpp) == (3, 2, 32, 32, 0.25)


def test_resampled(reader):
    (cell,) = cut(reader, [(70, 50)], extent=64.0, size=16)
    wanted = np.asarray(Image.fromarray(PICTURE).resize((16, 16), Image.Resampling.BICUBIC, box=(38, 18, 102, 82)))
    assert np.abs(decode_pixels(cell.image).astype(int) - wanted).max() <= 1
    assert cell.width == 64


def test_outside_and_twice_are_skipped(reader):
    items = cut(reader, [(50, 40), (141, 40), (50, 40), (-1, 5)])
    assert [isinstance(item, Skip) for item in items] == [False, True, True, True]
    assert "outside" in items[1].reason
    assert "twice" in items[2].reason


class Damaged(SlideReader):
    """A slide of which the left half cannot be read."""

    def __init__(self, error):
        super().__init__(Path("a"), ((100, 80),), None)
        self.error = error

    def close(self):
        pass

    def _read(self, place, size, level):
        if place[0] < 50:
            raise self.error("a damaged tile")
        return np.zeros((size[1], size[0], 3), np.uint8)


def test_a_cell_that_cannot_be_read_costs_no_other_unless_the_slide_is_given_up():
    kept = cut(Damaged(DamagedError), [(20, 40), (80, 40), (20, 20)])
    assert [isinstance(item, Skip) for item in kept] == [True, False, True]
    assert kept[0].reason == "a damaged tile"
    with pytest.raises(GivenUpError):
        cut(Damaged(GivenUpError), [(80, 40), (20, 40)])


@pytest.mark.parametrize(("slide", "cell"), [("../s", "a"), ("s", "../../etc/passwd"), ("s", "/tmp/a"), ("s", "a\\..\\b")])
def test_names_that_lead_out_of_the_artifact_are_refused(tmp_path, slide, cell):
    (tmp_path / "cells.csv").write_text(f"slide,cell,x,y\n{slide},{cell},1,2\n")
    with pytest.raises(InputError, match="no paths that lead elsewhere"):
        read_places(tmp_path / "cells.csv")


def test_a_level_at_the_scale_that_is_asked_for_is_cut_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    write_tiff_pyramid(tmp_path / "a.tif", picture, shrinks=(1, 2))
    with open_slide(tmp_path / "a.tif") as reader:
        places = pd.DataFrame({"cell": ["a"], "x": [101.3], "y": [60.9]})
        (cell,) = cut_cells(reader, places, extent=64.0, size=32, mpp=None, quality=100)
        stored = reader.region((0, 0), (512, 512), (256, 256), level=1)
    assert (decode_pixels(cell.image) == stored[14:46, 35:67]).all()  # from 69.3 and 28.9 of level 0, to whole pixels


def test_image_smaller_than_a_crop(reader):
    with pytest.raises(DamagedError, match="smaller than one crop of 101"):
        cut(reader, [(50, 40)], extent=101, size=101)


@pytest.mark.parametrize("header", ["slide,x,y", "wsi,X,Y", "slide_id,centroid_x,centroid_y"])
def test_tables_and_names(tmp_path, header):
    (tmp_path / "cells.csv").write_text(f"{header},label\n001,10,20.5,LSIL\n002,123456.75,0,\n")
    places = read_places(tmp_path / "cells.csv")
    assert places["slide"].tolist() == ["001", "002"]
    assert places["cell"].tolist() == ["001:10,20.5", "002:123456.75,0"]
    assert places["x"].tolist() == [10, 123456.75]


def test_own_ids_and_parquet(tmp_path):
    pd.DataFrame({"slide": ["a", "a"], "x": [1, 2], "y": [3, 4], "cell": ["n1", None]}).to_parquet(tmp_path / "a.parquet")
    assert read_places(tmp_path / "a.parquet")["cell"].tolist() == ["n1", "a:2,4"]


@pytest.mark.parametrize(("text", "says"), [
    ("slide,x\na,1\n", "no y among: slide, x"),
    ("slide,x,y\na,1,\na,nan,2\na,inf,2\na,b,2\na,1,2\n", "4 rows without (line 2, line 3, line 4, …)"),
    ("slide,x,y\n", "at least one row"),
    ("", "empty file"),
])
def test_bad_tables(tmp_path, text, says):
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_places(tmp_path / "cells.csv")
    assert says in str(error.value)


def test_stored_as_jpeg(reader):
    places = pd.DataFrame({"cell": ["a"], "x": [50.0], "y": [50.0]})
    (cell,) = cut_cells(reader, places, extent=32, size=32, mpp=None, quality=95)
    assert Image.open(io.BytesIO(cell.image)).format == "JPEG"
