"""Laws of every reader: the same place shows the same glass at every level; past the edge nothing is given."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from milscope.slides import open_slide

MPP = 0.5
SIDE = (1024, 768)


def smooth_picture():
    """Waves much longer than a pixel of the coarsest level, so that levels can be compared."""
    y, x = np.mgrid[: SIDE[1], : SIDE[0]]
    waves = [np.sin(x / 61), np.sin(y / 47), np.sin((x + y) / 83)]
    return np.stack([127 + 100 * wave for wave in waves], axis=2).round().astype(np.uint8)


def write_pyramid(path, picture, shrinks=(1, 2, 4)):
    with tifffile.TiffWriter(path) as file:
        for shrink in shrinks:
            size = (picture.shape[1] // shrink, picture.shape[0] // shrink)
            level = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
            file.write(level, tile=(128, 128), photometric="rgb", subfiletype=int(shrink > 1), resolutionunit="CENTIMETER",
                       resolution=(10_000 / (MPP * shrink),) * 2)


@pytest.fixture(params=["pyramid.tiff", "field.png"])
def reader(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".tiff":
        write_pyramid(path, smooth_picture())
    else:
        Image.fromarray(smooth_picture()).save(path)
    with open_slide(path) as opened:
        yield opened


def test_64_microns_show_the_same_64_microns_at_every_level(reader):
    extent = 64 / MPP
    for place in ((0, 0), (200.5, 301.25), (SIDE[0] - extent, SIDE[1] - extent)):
        views = [reader.region(place, (extent, extent), (32, 32), level=level).astype(int)
                 for level in range(len(reader.levels))]
        for view in views[1:]:
            assert np.abs(view - views[0]).max() <= 4  # grey values: the waves' error of interpolation


def test_own_pixels_are_given_unchanged(reader):
    assert (reader.region((100, 50), (64, 32), (64, 32)) == smooth_picture()[50:82, 100:164]).all()


@pytest.mark.parametrize("place", [(-1, 0), (0, -0.5), (SIDE[0] - 127, 0), (0, SIDE[1] - 127), (5000, 5000)])
def test_past_the_edge_is_refused_at_every_level(reader, place):
    for level in [None, *range(len(reader.levels))]:
        with pytest.raises(ValueError, match="inside the slide"):
            reader.region(place, (128, 128), (32, 32), level=level)


def test_a_reader_of_levels_has_them(tmp_path):
    write_pyramid(tmp_path / "a.tiff", smooth_picture())
    with open_slide(tmp_path / "a.tiff") as reader:
        assert reader.levels == ((1024, 768), (512, 384), (256, 192))
        assert reader.mpp == pytest.approx(MPP, rel=1e-3)
