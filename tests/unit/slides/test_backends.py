import os

import numpy as np
import pytest
import tifffile
from PIL import Image

from milscope.slides import DamagedError, find_images, open_slide
from milscope.slides._backends import FieldReader, OpenSlideReader


def picture(height=100, width=140):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_backend_is_chosen_by_content(tmp_path):
    tifffile.imwrite(tmp_path / "tiled.tif", picture(), tile=(64, 64), photometric="rgb")
    Image.fromarray(picture()).save(tmp_path / "plain.tif")
    Image.fromarray(picture()).save(tmp_path / "field.png")
    for name, kind in (("tiled.tif", OpenSlideReader), ("plain.tif", FieldReader), ("field.png", FieldReader)):
        with open_slide(tmp_path / name) as reader:
            assert type(reader) is kind
            assert reader.size == (140, 100)
            assert (reader.region((0, 0), (140, 100), (140, 100)) == picture()).all()


@pytest.mark.parametrize(("unit", "resolution", "mpp"), [
    ("CENTIMETER", 20_000, 0.5), ("INCH", 101_600, 0.25), ("INCH", 72, None), ("NONE", 20_000, None)])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_scale_from_tiff_and_a_printers_dots_are_no_scale(tmp_path, unit, resolution, mpp, tile):
    tifffile.imwrite(tmp_path / "a.tif", picture(), resolution=(resolution, resolution), resolutionunit=unit, tile=tile,
                     photometric="rgb")
    with open_slide(tmp_path / "a.tif") as reader:
        assert reader.mpp == (pytest.approx(mpp) if mpp else None)


def test_resampling_is_anti_aliased(tmp_path):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(np.repeat(board[..., None], 3, 2).astype(np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as reader:
        small = reader.region((0, 0), (256, 256), (32, 32))
        assert np.abs(small.astype(int) - 127).max() <= 8  # a checkerboard of pixels turns grey


def test_thumbnail_in_bands_equals_one_resize(tmp_path, monkeypatch):
    y, x = np.mgrid[:600, :400]
    smooth = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.sin(y / 50), 0 * x + 90], 2).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    monkeypatch.setattr("milscope.slides._reader.BAND", 400 * 40)
    with open_slide(tmp_path / "a.png") as reader:
        banded = reader.thumbnail(150)
        whole = np.asarray(Image.fromarray(smooth).resize((100, 150), Image.Resampling.BICUBIC))
        assert banded.shape == (150, 100, 3)
        assert np.abs(banded.astype(int) - whole).max() <= 1
        assert reader.thumbnail(1000).shape == (600, 400, 3)


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "zero.svs").touch()
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.svs").write_text("no image")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    Image.fromarray(picture()).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", 500)
    for name in ("zero.svs", "text.png", "text.svs", "folder", "circle.png", "pipe.png", "cut.png", "absent.svs"):
        with pytest.raises(DamagedError) as error:
            open_slide(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_damaged_tile_of_a_slide(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(512, 512), tile=(128, 128), photometric="rgb", compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[-1]
    content[offset : offset + 400] = b"\0" * 400
    path.write_bytes(content)
    with open_slide(path) as reader, pytest.raises(DamagedError, match="OpenSlide"):
        reader.region((448, 448), (64, 64), (64, 64))


def test_images_by_name(tmp_path):
    for name in ("a.b.svs", "c.png", "c.JPG", ".d.png", "e.txt"):
        (tmp_path / name).touch()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").touch()
    (tmp_path / "other").mkdir()
    names = {slide: [path.name for path in paths] for slide, paths in find_images(tmp_path).items()}
    assert names == {"a.b": ["a.b.svs"], "c": ["c.JPG", "c.png"], "dicom": ["dicom"]}
