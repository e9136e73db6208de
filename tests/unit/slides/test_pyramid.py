import numpy as np
import openslide
import pytest
import tifffile

from milscope.slides import _pyramid
from milscope.slides._pyramid import write_pyramid


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 / height, x * 255 / width, (x + y) * 255 / (height + width)], -1).astype(np.uint8)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.2425])
def test_openslide_finds_levels_and_scale(tmp_path, mpp):
    image = gradient(1100, 1600)
    write_pyramid(tmp_path / "a.tiff", image, mpp)
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert slide.level_dimensions == ((1600, 1100), (800, 550), (400, 275))
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(mpp, rel=1e-6)
        for level, step in enumerate((1, 2, 4)):
            width, height = slide.level_dimensions[level]
            seen = np.asarray(slide.read_region((0, 0), level, (width, height)).convert("RGB"), float)
            assert abs(seen - image[::step, ::step][:height, :width]).mean() < 2.5


def test_tiles_are_jpeg_and_lower_levels_are_marked_reduced(tmp_path):
    write_pyramid(tmp_path / "a.tiff", gradient(900, 900), 0.5)
    with tifffile.TiffFile(tmp_path / "a.tiff") as file:
        assert [page.subfiletype for page in file.pages] == [0, 1]
        assert all(page.is_tiled and page.compression == tifffile.COMPRESSION.JPEG for page in file.pages)


def test_an_image_smaller_than_a_tile(tmp_path):
    write_pyramid(tmp_path / "a.tiff", gradient(40, 30), 1.0)
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert slide.level_dimensions == ((30, 40),)


def test_equal_images_give_equal_files_and_a_failure_leaves_none(tmp_path, monkeypatch):
    for name in ("a.tiff", "b.tiff"):
        write_pyramid(tmp_path / name, gradient(600, 600), 0.5)
    assert (tmp_path / "a.tiff").read_bytes() == (tmp_path / "b.tiff").read_bytes()
    monkeypatch.setattr(_pyramid, "_levels", lambda image: 1 / 0 if image.any() else None)
    with pytest.raises(ZeroDivisionError):
        write_pyramid(tmp_path / "c.tiff", gradient(600, 600), 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tiff", "b.tiff"]
