"""TIFF that OpenSlide does not take, or of which it would see only a part."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.slide_files import MPP, smooth_picture, write_imagej, write_ome, write_striped

from milscope.slides import DamagedError, open_slide
from milscope.slides import _tiff as module
from milscope.slides._backends import FieldReader, OpenSlideReader
from milscope.slides._tiff import TiffReader

PICTURE = smooth_picture(300, 200)
GREY = PICTURE[..., 0]
TILE = (64, 64)


def save(path, pixels, **options):
    tifffile.imwrite(path, pixels, metadata=None, **options)
    return path


def seen(path):
    with open_slide(path) as reader:
        return reader.region((0, 0), reader.size, reader.size)


@pytest.mark.parametrize("layout", [
    {}, {"compression": "zlib", "predictor": True, "rowsperstrip": 7}, {"compression": "lzw", "rowsperstrip": 200},
    {"tile": TILE, "compression": "jpeg2000"}, {"tile": TILE, "compression": "webp"}, {"planarconfig": "separate"},
    {"planarconfig": "separate", "compression": "zlib", "rowsperstrip": 30}, {"byteorder": ">"}, {"bigtiff": True},
    {"tile": TILE, "compression": "zstd"}, {"compression": "packbits"}], ids=str)
def test_every_layout_gives_the_same_pixels(tmp_path, layout):
    pixels = np.moveaxis(PICTURE, 2, 0) if "planarconfig" in layout else PICTURE
    path = save(tmp_path / "a.tif", pixels, photometric="rgb", **layout)
    assert (seen(path) == PICTURE).all()
    with open_slide(path) as reader:
        assert (reader.region((33, 41), (70, 90), (70, 90)) == PICTURE[41:131, 33:103]).all()


def on_white(alpha):
    return ((PICTURE.astype(int) * alpha + 127) // 255 + 255 - alpha).astype(np.uint8)


CMYK = np.dstack([255 - PICTURE, np.full(GREY.shape, 51, np.uint8)])
COLOURS = {
    "grey": (GREY, {"photometric": "minisblack"}, GREY),
    "white is zero": (255 - GREY, {"photometric": "miniswhite"}, GREY),
    "16 bit": (PICTURE.astype(np.uint16) * 257, {"photometric": "rgb"}, PICTURE),
    "16 bit grey, zlib": (GREY.astype(np.uint16) * 257, {"photometric": "minisblack", "compression": "zlib"}, GREY),
    "16 bit, big-endian": (PICTURE.astype(np.uint16) * 257, {"photometric": "rgb", "byteorder": ">"}, PICTURE),
    "alpha": (np.dstack([PICTURE, np.full(GREY.shape, 128, np.uint8)]), {"photometric": "rgb", "extrasamples": [2]},
              on_white(128)),
    "clear": (np.dstack([PICTURE * 0, GREY * 0]), {"photometric": "rgb", "extrasamples": [1]}, np.full_like(PICTURE, 255)),
    "something more": (np.dstack([PICTURE, GREY]), {"photometric": "rgb", "extrasamples": [0]}, PICTURE),
    "CMYK": (CMYK, {"photometric": "separated"}, (PICTURE.astype(int) * 204 + 127) // 255),
    "palette": (GREY, {"photometric": "palette", "colormap": np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1))},
                255 - GREY),
    "one bit": (GREY > 127, {"photometric": "minisblack"}, np.where(GREY > 127, 255, 0)),
}


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("stored", [{}, {"tile": TILE}], ids=["striped", "tiled"])
def test_every_kind_of_colour_becomes_rgb(tmp_path, kind, stored):
    pixels, options, wanted = COLOURS[kind]
    wanted = wanted if wanted.ndim == 3 else np.repeat(wanted[..., None], 3, 2)
    found = seen(save(tmp_path / "a.tif", pixels, **options, **stored)).astype(int)
    assert np.abs(found - wanted).max() <= 2  # OpenSlide rounds alpha otherwise


def test_colours_that_only_pillow_knows(tmp_path):
    image = Image.fromarray(PICTURE).convert("YCbCr")
    image.save(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif") as reader:
        assert type(reader) is FieldReader
        assert np.abs(reader.region((0, 0), reader.size, reader.size).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize("kind", ["float32", "uint32", "int16"])
@pytest.mark.parametrize("tile", [None, TILE])
def test_numbers_that_are_no_colours_are_refused(tmp_path, kind, tile):
    with pytest.raises(DamagedError, match="save the image with 8 bits"):
        open_slide(save(tmp_path / "a.tif", GREY.astype(kind), photometric="minisblack", tile=tile))


def test_an_ome_pyramid_has_its_levels_and_its_scale_in_any_unit(tmp_path):
    for unit in ("µm", "nm", "mm"):
        write_ome(tmp_path / "a.ome.tif", PICTURE, unit=unit)
        with open_slide(tmp_path / "a.ome.tif") as reader:
            assert reader.levels == ((300, 200), (150, 100), (75, 50))
            assert reader.mpp == pytest.approx(MPP)


def test_three_channels_of_ome_are_red_green_and_blue(tmp_path):
    """As bioformats2raw and raw2ometiff write a bright-field scan."""
    told = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        options = {"photometric": "minisblack", "tile": TILE, "compression": "zlib"}
        file.write(np.moveaxis(PICTURE, 2, 0), subifds=1, metadata=told, **options)
        file.write(np.moveaxis(PICTURE[::2, ::2], 2, 0).copy(), subfiletype=1, **options)
    with open_slide(tmp_path / "a.ome.tif") as reader:
        assert reader.levels == ((300, 200), (150, 100))
        assert (reader.region((0, 0), reader.size, reader.size) == PICTURE).all()
        assert (reader.region((0, 0), reader.size, (150, 100), level=1) == PICTURE[::2, ::2]).all()


def test_twelve_bits_in_sixteen_are_not_dark_if_the_file_says_so(tmp_path):
    told = {"axes": "YXS", "SignificantBits": 12}
    tifffile.imwrite(tmp_path / "a.ome.tif", PICTURE.astype(np.uint16) * 16, photometric="rgb", metadata=told, tile=TILE)
    assert (seen(tmp_path / "a.ome.tif") == PICTURE).all()


@pytest.mark.parametrize(("unit", "resolution", "mpp"), [
    ("um", 2, 0.5), ("micron", 2, 0.5), ("\\u00B5m", 4, 0.25), ("mm", 2000, 0.5), ("pixel", 1, None), ("inch", 72, None)])
def test_the_scale_that_imagej_writes(tmp_path, unit, resolution, mpp):
    tifffile.imwrite(tmp_path / "a.tif", PICTURE, imagej=True, resolution=(resolution,) * 2, metadata={"unit": unit})
    with open_slide(tmp_path / "a.tif") as reader:
        assert reader.mpp == (pytest.approx(mpp) if mpp else None)


def test_a_broken_description_costs_no_pixels(tmp_path):
    for text in ("<OME><Image></OME>", "<OME/OME>", "ImageJ=1\nimages=x", "ImageJ=1\nunit=parsec\n", "\0\1\2"):
        tifffile.imwrite(tmp_path / "a.tif", PICTURE, description=text, metadata=None)
        assert (seen(tmp_path / "a.tif") == PICTURE).all()


STACKS = {
    "pages": ({"metadata": None}, (3,)), "focal planes of ImageJ": ({"imagej": True, "metadata": {"axes": "ZYX"}}, (3,)),
    "times of OME": ({"ome": True, "metadata": {"axes": "TYX"}}, (4,)),
    "channels of ImageJ": ({"imagej": True, "metadata": {"axes": "CYX"}}, (2,)),
    "channels of OME": ({"ome": True, "metadata": {"axes": "CYX"}}, (5,)),
}


@pytest.mark.parametrize(("kind", "tile"), [
    (kind, tile) for kind in STACKS for tile in (None, TILE) if not (tile and "ImageJ" in kind)])  # it writes no tiles
def test_a_stack_is_refused_rather_than_its_first_image_taken(tmp_path, kind, tile):
    options, count = STACKS[kind]
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY] * count[0]), photometric="minisblack", tile=tile, **options)
    with pytest.raises(DamagedError, match=r"stack of \d images|\d channels"):
        open_slide(tmp_path / "a.tif")


def test_labels_and_thumbnails_before_the_slide_are_passed_over(tmp_path):
    """OpenSlide takes the first page for the slide."""
    for tile in (None, TILE):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(PICTURE[:64, :90].copy(), photometric="rgb", metadata=None, tile=tile)
            file.write(PICTURE, photometric="rgb", metadata=None, tile=tile)
        assert (seen(tmp_path / "a.tif") == PICTURE).all()


def test_what_was_not_scanned_is_white(tmp_path):
    """A sparse file: tiles of glass have no bytes, as scanners leave them out."""
    for compression, readers in (("zlib", (OpenSlideReader, TiffReader)), ("webp", (TiffReader,))):
        path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", tile=TILE, compression=compression)
        with tifffile.TiffFile(path, mode="r+") as file:
            for tag in ("TileOffsets", "TileByteCounts"):
                values = list(file.pages[0].tags[tag].value)
                values[0] = 0
                file.pages[0].tags[tag].overwrite(values)
        for kind in readers:
            with kind(path) as reader:
                pixels = reader.region((0, 0), reader.size, reader.size)
            assert (pixels[:64, :64] == 255).all()
            assert (pixels[64:] == PICTURE[64:]).all()


def test_a_piece_is_decoded_once_and_memory_is_bounded(tmp_path, monkeypatch):
    write_striped(tmp_path / "a.tif", smooth_picture(400, 2000))
    monkeypatch.setattr(module, "CACHE", 400 * 40 * 3 * 4)
    with open_slide(tmp_path / "a.tif") as reader:
        calls = []
        original = reader._bytes
        reader._bytes = lambda offset, count: calls.append(offset) or original(offset, count)
        for left in range(0, 400, 50):
            reader.region((left, 10), (50, 50), (50, 50))
        assert len(calls) == 2
        reader.region((0, 0), (400, 2000), (400, 2000))
        assert sum(piece.nbytes for piece in reader._cache.values()) <= module.CACHE


def test_a_file_without_compression_is_read_by_rows_however_long_its_strip(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE_PIXELS", 300 * 64)
    write_imagej(tmp_path / "a.tif", PICTURE)
    assert (seen(tmp_path / "a.tif") == PICTURE).all()
    save(tmp_path / "a.tif", PICTURE, photometric="rgb", compression="zlib", rowsperstrip=200)
    with pytest.raises(DamagedError, match="save it as a tiled TIFF"):
        open_slide(tmp_path / "a.tif")


def overwrite(path, **tags):
    with tifffile.TiffFile(path, mode="r+") as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value)


@pytest.mark.parametrize("stored", [{}, {"compression": "zlib", "rowsperstrip": 40}, {"tile": TILE}], ids=str)
@pytest.mark.parametrize("size", [{"ImageLength": 2**31 - 1}, {"ImageWidth": 2**31 - 1},
                                  {"ImageWidth": 50_000, "ImageLength": 50_000}, {"ImageWidth": 0}], ids=str)
def test_absurd_dimensions_are_refused_at_once(tmp_path, stored, size):
    path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", **stored)
    overwrite(path, **size)
    with pytest.raises(DamagedError):
        open_slide(path)


def test_tiles_too_large_to_decode_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", tile=TILE, compression="zlib")
    overwrite(path, TileWidth=2**16, TileLength=2**15)
    with pytest.raises(DamagedError, match="more than"):
        open_slide(path)


def test_pages_in_a_circle_end(tmp_path):
    path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        place, after = page.offset, page.offset + 2 + 12 * len(page.tags)
    content = bytearray(path.read_bytes())
    content[after : after + 4] = place.to_bytes(4, "little")
    path.write_bytes(content)
    assert (seen(path) == PICTURE).all()


@pytest.mark.parametrize("stored", [
    {}, {"compression": "zlib", "rowsperstrip": 40}, {"tile": TILE, "compression": "webp"}, {"tile": TILE}], ids=str)
def test_a_truncated_file_says_so(tmp_path, stored):
    path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", **stored)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match="the file ends early"):
        open_slide(path)


def test_one_piece_past_the_end_costs_no_other(tmp_path):
    path = save(tmp_path / "a.tif", PICTURE, photometric="rgb", tile=TILE, compression="webp")
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileOffsets"]
        tag.overwrite([10**6, *tag.value[1:]])
    with open_slide(path) as reader:
        with pytest.raises(DamagedError, match="the file ends early"):
            reader.region((0, 0), TILE, TILE)
        assert (reader.region((64, 0), TILE, TILE) == PICTURE[:64, 64:128]).all()


def test_an_alien_says_tiff_and_is_none(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(range(256)))
    with pytest.raises(DamagedError, match="damaged TIFF"):
        open_slide(tmp_path / "a.tif")
