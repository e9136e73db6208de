import os

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from tests.slide_files import smooth_picture, write_aperio, write_dicom, write_tiff_pyramid

from milscope.slides import DamagedError, GivenUpError, find_images, open_slide
from milscope.slides import _backends as module
from milscope.slides._backends import FieldReader, OpenSlideReader
from milscope.slides._tiff import TiffReader


def picture(height=100, width=140):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_backend_is_chosen_by_content(tmp_path):
    tifffile.imwrite(tmp_path / "tiled.tif", picture(), tile=(64, 64), photometric="rgb")
    Image.fromarray(picture()).save(tmp_path / "plain.tif")
    Image.fromarray(picture()).save(tmp_path / "field.png")
    (tmp_path / "misnamed.jpg").write_bytes((tmp_path / "plain.tif").read_bytes())
    (tmp_path / "misnamed.svs").write_bytes((tmp_path / "field.png").read_bytes())
    for name, kind in (("tiled.tif", TiffReader), ("plain.tif", TiffReader), ("field.png", FieldReader),
                       ("misnamed.jpg", TiffReader), ("misnamed.svs", FieldReader)):
        with open_slide(tmp_path / name) as reader:
            assert type(reader) is kind
            assert reader.size == (140, 100)
            assert (reader.region((0, 0), (140, 100), (140, 100)) == picture()).all()


@pytest.mark.parametrize("options", [
    {"compression": "jpeg", "subsampling": (1, 1)}, {"compression": "jpeg", "subsampling": (2, 2)}, {"compression": "jpeg2000"},
    {"compression": "lzw"}, {}])
@pytest.mark.parametrize("description", ["", "Aperio Image Library v11.2.1\n|AppMag = 20|MPP = 0.5"])
def test_tifffile_shows_the_pixels_that_openslide_shows(tmp_path, options, description):
    if options.get("compression") == "jpeg2000":
        options = {"compression": 33005} if description else {"compression": "deflate"}
    write = {"tile": (64, 48), "photometric": "rgb", "metadata": None, "software": False, **options}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(picture(500, 700), description=description, **write)
        file.write(picture(125, 175), description=description, subfiletype=0 if description else 1, **write)
    with open_slide(tmp_path / "a.tif") as quick, OpenSlideReader(tmp_path / "a.tif", quick.mpp) as sure:
        assert type(quick) is TiffReader
        assert (quick.levels, quick.mpp) == (sure.levels, sure.mpp)
        assert len(quick.levels) == 2
        for level, size in enumerate(quick.levels):
            whole = ((0, 0), quick.size, size)
            assert (quick.region(*whole, level=level) == sure.region(*whole, level=level)).all()


def test_a_scan_with_gaps_is_left_to_openslide(tmp_path):
    write_aperio(tmp_path / "a.svs", smooth_picture(), tile=128)
    with open_slide(tmp_path / "a.svs") as reader:
        assert type(reader) is TiffReader
    with tifffile.TiffFile(tmp_path / "a.svs", mode="r+") as file:
        counts = file.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    with open_slide(tmp_path / "a.svs") as reader:
        assert type(reader) is OpenSlideReader


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


def damage(path, page=0, piece=-1, sub=None):
    """Makes one tile of a TIFF undecodable; the last one, unless another is named."""
    with tifffile.TiffFile(path) as file:
        hit = file.pages[page] if sub is None else file.pages[page].pages[sub]
        offset, count = hit.dataoffsets[piece], hit.databytecounts[piece]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = b"\0" * count
    path.write_bytes(content)


@pytest.mark.parametrize("compression", ["zlib", "jpeg", "webp"])
def test_a_damaged_tile_costs_no_other(tmp_path, compression):
    """OpenSlide refuses everything after one error; the file is opened again."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(512, 512), tile=(128, 128), photometric="rgb", compression=compression)
    whole = read(path)
    damage(path)
    with open_slide(path) as reader:
        for _ in range(3):
            with pytest.raises(DamagedError, match=r"OpenSlide|damaged TIFF"):
                reader.region((448, 448), (64, 64), (64, 64))
            assert (reader.region((100, 200), (64, 64), (64, 64)) == whole[200:264, 100:164]).all()


def read(path):
    with open_slide(path) as reader:
        return reader.region((0, 0), reader.size, reader.size)


def test_what_can_be_read_is_salvaged_and_the_rest_is_grey(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(512, 512), tile=(128, 128), photometric="rgb", compression="zlib")
    whole = read(path)
    damage(path, piece=5)
    with open_slide(path) as reader:
        found = reader.salvage((0, 0), (512, 512), (512, 512))
        lost = ~found.read
        assert lost[128:256, 128:256].all()
        assert lost.sum() == 128 * 128
        assert (found.pixels[lost] == 128).all()
        assert (found.pixels[~lost] == whole[~lost]).all()
        small = reader.thumbnail(64)
        assert (small[17:31, 17:31] == 128).all()
        clean = np.asarray(Image.fromarray(whole).resize((64, 64), Image.Resampling.BICUBIC, reducing_gap=3.0))
        assert np.abs(small[40:].astype(int) - clean[40:]).max() <= 1


def test_trident_207_a_damaged_level_is_replaced_by_a_finer_one(tmp_path):
    path = tmp_path / "a.tif"
    write_tiff_pyramid(path, smooth_picture(512, 512), shrinks=(1, 2, 4))
    damage(path, page=2, piece=0)
    with open_slide(path) as reader:
        with pytest.raises(DamagedError):
            reader.region((0, 0), (256, 256), (64, 64), level=2)
        seen = reader.region((0, 0), (256, 256), (64, 64)).astype(int)
        assert np.abs(seen - smooth_picture(512, 512)[2:256:4, 2:256:4]).max() <= 4


def test_a_file_that_vanishes_is_given_up_at_once(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(512, 512), tile=(128, 128), photometric="rgb", compression="zlib")
    damage(path)
    with OpenSlideReader(path) as reader:
        path.unlink()
        for _ in range(2):
            with pytest.raises(GivenUpError):
                reader.salvage((0, 0), (512, 512), (512, 512))


def test_a_slide_of_rubble_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("milscope.slides._reader.UNREADABLE", 20)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(512, 512), tile=(128, 128), photometric="rgb", compression="zlib")
    for piece in range(16):
        damage(path, piece=piece)
    with open_slide(path) as reader, pytest.raises(GivenUpError, match="more than 20 reads failed"):
        reader.thumbnail(256)


def test_dicom_as_folder_or_file(tmp_path):
    write_dicom(tmp_path / "s", smooth_picture(300, 200))
    for path in (tmp_path / "s", tmp_path / "s" / "level2.dcm"):
        with open_slide(path) as reader:
            assert (reader.levels[0], reader.mpp) == ((300, 200), pytest.approx(0.5))


def test_two_dicom_slides_in_a_folder_are_not_guessed_between(tmp_path):
    write_dicom(tmp_path / "s", smooth_picture(300, 200), shrinks=(1,))
    write_dicom(tmp_path / "t", smooth_picture(200, 300), shrinks=(1, 2), series="1.2.3.4")
    for file in (tmp_path / "t").iterdir():
        file.rename(tmp_path / "s" / f"other-{file.name}")
    with pytest.raises(DamagedError, match="2 DICOM slides in one folder"):
        open_slide(tmp_path / "s")
    with open_slide(tmp_path / "s" / "other-level1.dcm") as reader:
        assert reader.size == (200, 300)


def test_a_damaged_level_of_dicom_is_not_passed_over(tmp_path):
    """OpenSlide would take the next level for the full resolution, and every cell would lie elsewhere."""
    write_dicom(tmp_path / "s", smooth_picture(300, 200))
    file = tmp_path / "s" / "level1.dcm"
    content = file.read_bytes()
    for damaged in (content[:700], content[:200], b"", b"\0" * len(content)):
        file.write_bytes(damaged)
        with pytest.raises(DamagedError):
            open_slide(tmp_path / "s")


def test_a_dicom_file_that_is_no_slide(tmp_path):
    (tmp_path / "ct.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 500)
    with pytest.raises(DamagedError, match="DICOM"):
        open_slide(tmp_path / "ct.dcm")


@pytest.mark.parametrize("levels", [(), ((0, 10),), ((10, 10), (5, -1))])
def test_a_slide_without_levels_or_pixels(tmp_path, monkeypatch, levels):
    write_aperio(tmp_path / "a.svs", smooth_picture(300, 200))
    monkeypatch.setattr(openslide.OpenSlide, "level_dimensions", levels)
    with pytest.raises(DamagedError, match="without pixels"):
        open_slide(tmp_path / "a.svs")


@pytest.mark.parametrize("size", [(2**31, 10), (10, 2**22), (2**20 + 1, 2**20)])
def test_absurd_dimensions(tmp_path, monkeypatch, size):
    write_aperio(tmp_path / "a.svs", smooth_picture(300, 200))
    monkeypatch.setattr(openslide.OpenSlide, "level_dimensions", (size,))
    with pytest.raises(DamagedError, match="more than any slide has"):
        open_slide(tmp_path / "a.svs")


def test_a_small_file_that_claims_to_be_a_large_slide_is_a_bomb(tmp_path, monkeypatch):
    write_aperio(tmp_path / "a.svs", smooth_picture(300, 200))
    monkeypatch.setattr(openslide.OpenSlide, "level_dimensions", ((46_341, 46_341),))  # 2^31 pixels
    with pytest.raises(DamagedError, match=r"46341 x 46341 pixels in .* bytes"):
        open_slide(tmp_path / "a.svs")


def test_tiles_too_large_to_decode(tmp_path, monkeypatch):
    write_aperio(tmp_path / "a.svs", smooth_picture(300, 200))
    monkeypatch.setattr(module, "FIELD_PIXELS", 128 * 128 - 1)
    with pytest.raises(DamagedError, match="tiles of 128 x 128 pixels"):
        open_slide(tmp_path / "a.svs")


def test_fields_too_large_to_decode(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIELD_PIXELS", 1000)
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(picture()).save(tmp_path / name)
        with pytest.raises(DamagedError, match="140 x 100 pixels, more than"):
            open_slide(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_fields_of_every_colour(tmp_path, mode):
    grey = smooth_picture(140, 100)[..., 0]
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    wanted = np.where(np.asarray(image), 255, 0) if mode == "1" else grey
    assert np.abs(read(path).astype(int) - wanted[..., None]).max() <= (8 if mode in ("CMYK", "P") else 0)


def test_images_by_name(tmp_path):
    for name in ("a.b.svs", "c.png", "c.JPG", ".d.png", "e.txt"):
        (tmp_path / name).touch()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "1.dcm").touch()
    (tmp_path / "other").mkdir()
    names = {slide: [path.name for path in paths] for slide, paths in find_images(tmp_path).items()}
    assert names == {"a.b": ["a.b.svs"], "c": ["c.JPG", "c.png"], "dicom": ["dicom"]}
