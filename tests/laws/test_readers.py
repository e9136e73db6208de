"""Laws of every reader: the same place shows the same glass at every level; past the edge nothing is given."""

import itertools

import numpy as np
import pytest
from tests.slide_files import FORMATS, MPP, smooth_picture

from milscope.slides import open_slide

SIDE = (1024, 768)
LEVELS = {"pyramid.tiff": (1, 2, 4), "aperio.svs": (1, 4), "dicom": (1, 2, 4), "bioformats.ome.tif": (1, 2, 4)}
NO_SCALE = ("field.png", "field.jpg", "field.bmp")
LOSSY = {"aperio.svs": 6, "dicom": 6, "field.jpg": 3}
"""Grey values by which JPEG of the quality that was written changes waves."""


@pytest.fixture(params=FORMATS)
def name(request):
    return request.param


@pytest.fixture
def reader(name, tmp_path):
    FORMATS[name](tmp_path / name, smooth_picture(*SIDE))
    with open_slide(tmp_path / name) as opened:
        yield opened


def test_64_microns_show_the_same_64_microns_at_every_level(reader, name):
    extent = 64 / MPP
    for place in ((0, 0), (200.5, 301.25), (SIDE[0] - extent, SIDE[1] - extent)):
        views = [reader.region(place, (extent, extent), (32, 32), level=level).astype(int)
                 for level in range(len(reader.levels))]
        for view, other in itertools.combinations(views, 2):
            assert np.abs(view - other).max() <= 4 + LOSSY.get(name, 0)  # grey values: the waves' error of interpolation


def test_a_region_shows_what_lies_there(reader, name):
    wanted = smooth_picture(*SIDE)[50:82, 100:164]
    seen = reader.region((100, 50), (64, 32), (64, 32))
    assert np.abs(seen.astype(int) - wanted).max() <= LOSSY.get(name, 0)  # its own pixels, unchanged


def test_parts_make_the_whole(reader):
    whole = reader.region((0, 0), SIDE, SIDE)
    for left, top in itertools.product(range(0, SIDE[0], 256), range(0, SIDE[1], 256)):
        assert (reader.region((left, top), (256, 256), (256, 256)) == whole[top : top + 256, left : left + 256]).all()


@pytest.mark.parametrize("place", [(-1, 0), (0, -0.5), (SIDE[0] - 127, 0), (0, SIDE[1] - 127), (5000, 5000)])
def test_past_the_edge_is_refused_at_every_level(reader, place):
    for level in [None, *range(len(reader.levels))]:
        with pytest.raises(ValueError, match="inside the slide"):
            reader.region(place, (128, 128), (32, 32), level=level)


def test_levels_and_scale_are_what_was_written(reader, name):
    assert reader.levels == tuple((SIDE[0] // shrink, SIDE[1] // shrink) for shrink in LEVELS.get(name, (1,)))
    assert reader.mpp == (None if name in NO_SCALE else pytest.approx(MPP, rel=1e-3))


def test_the_thumbnail_is_the_slide_small(reader, name):
    thumbnail = reader.thumbnail(128).astype(int)
    assert thumbnail.shape == (96, 128, 3)
    assert np.abs(thumbnail - smooth_picture(*SIDE)[4::8, 4::8]).max() <= 8 + LOSSY.get(name, 0)
