"""What users of other tools complain of about input, one test each, named by tool and issue."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from tests.slide_files import MPP, smooth_picture, write_aperio, write_plain, write_striped, write_tiff_pyramid

from milscope.configs import TileConfig
from milscope.slides import DamagedError, open_slide
from milscope.store import CellStore
from milscope.tile import tile
from milscope.types import InputError

SIDE = (320, 256)
CONFIG = TileConfig(size=64, workers=1, limit=0)


def slides(tmp_path, *names, **columns):
    return pd.DataFrame({"slide": [name.split(".")[0] for name in names], "file": [str(tmp_path / name) for name in names],
                         **columns})


def failures(result):
    return pd.read_csv(result.directory / "failures.csv", keep_default_na=False)


def test_trident_14_without_mpp_nothing_is_guessed_and_the_way_out_is_told(tmp_path):
    write_plain(tmp_path / "a.png", smooth_picture(*SIDE))
    with open_slide(tmp_path / "a.png") as reader:
        assert reader.mpp is None  # no assumed 40x
    config = TileConfig(size=32, mpp=1.0, workers=1, limit=0)
    with pytest.raises(InputError, match=r"its scale is unknown.*column `mpp`"):
        tile(slides(tmp_path, "a.png"), tmp_path / "none", config=config)
    result = tile(slides(tmp_path, "a.png", mpp=[0.5]), tmp_path / "tile", config=config)
    assert CellStore(result.directory).table("a")["width"].to_pylist()[0] == 64


@pytest.mark.parametrize("write", [write_striped, write_tiff_pyramid], ids=["striped", "tiled"])
def test_trident_60_and_111_a_tiff_of_a_single_level(tmp_path, write):
    write(tmp_path / "a.tif", smooth_picture(*SIDE), **({"shrinks": (1,)} if write is write_tiff_pyramid else {}))
    with open_slide(tmp_path / "a.tif") as reader:
        assert reader.levels == (SIDE,)
        small = reader.region((0, 0), (256, 256), (32, 32)).astype(int)  # coarser than any level it has
        assert np.abs(small - smooth_picture(*SIDE)[4:256:8, 4:256:8]).max() <= 8
    assert tile(slides(tmp_path, "a.tif"), tmp_path / "tile", config=CONFIG).cells == 20


def test_trident_92_one_corrupt_jpeg_does_not_kill_the_slide(tmp_path):
    write_aperio(tmp_path / "a.svs", smooth_picture(*SIDE), tile=64)
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        offset, count = file.pages[0].dataoffsets[7], file.pages[0].databytecounts[7]  # row 1, column 2 of 5
    content = bytearray((tmp_path / "a.svs").read_bytes())
    content[offset : offset + count] = b"\0" * count
    (tmp_path / "a.svs").write_bytes(content)
    result = tile(slides(tmp_path, "a.svs"), tmp_path / "tile", config=CONFIG)
    assert result[1:] == (1, 19, 1)
    ((slide, cell, reason),) = failures(result).to_numpy().tolist()
    assert (slide, cell) == ("a", "a:160,96")
    assert "damaged TIFF" in reason


def test_trident_120_tiles_of_odd_sizes(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", smooth_picture(*SIDE), tile=(80, 112), photometric="rgb", metadata=None,
                     compression="zlib")
    with open_slide(tmp_path / "a.tif") as reader:
        assert (reader.region((0, 0), SIDE, SIDE) == smooth_picture(*SIDE)).all()


def test_trident_219_a_slide_without_tiles_is_never_silent(tmp_path):
    write_plain(tmp_path / "a.png", smooth_picture(*SIDE))
    write_plain(tmp_path / "b.png", np.full((256, 320, 3), 245, np.uint8))
    result = tile(slides(tmp_path, "a.png", "b.png"), tmp_path / "tile", config=CONFIG)
    ((slide, _, reason),) = failures(result).to_numpy().tolist()
    assert slide == "b"
    assert "of 20 tiles none is stained" in reason
    assert "lower `foreground`" in reason


@pytest.mark.parametrize("unit", ["CENTIMETER", "INCH"])
def test_tiatoolbox_53_and_dlup_72_the_scale_stands_in_the_resolution_tags(tmp_path, unit):
    per_unit = {"CENTIMETER": 10_000, "INCH": 25_400}[unit] / MPP
    for tiles in (None, (64, 64)):
        tifffile.imwrite(tmp_path / "a.tif", smooth_picture(*SIDE), tile=tiles, photometric="rgb", metadata=None,
                         resolution=(per_unit, per_unit), resolutionunit=unit)
        with open_slide(tmp_path / "a.tif") as reader:
            assert reader.mpp == pytest.approx(MPP)


def test_tiffslide_65_a_description_that_is_not_ascii_hides_no_scale(tmp_path):
    write_aperio(tmp_path / "a.svs", smooth_picture(*SIDE), description="Aperio Image Library|User = Jurgen|MPP = 0.25")
    content = (tmp_path / "a.svs").read_bytes().replace(b"Jurgen", b"J\xfcrgen")
    (tmp_path / "a.svs").write_bytes(content)
    with open_slide(tmp_path / "a.svs") as reader:
        assert reader.mpp == pytest.approx(0.25)


def test_slideflow_438_a_crop_of_a_slide_saved_as_tiff(tmp_path):
    """As libvips saves it: uncompressed, in strips, with a printer's resolution."""
    tifffile.imwrite(tmp_path / "a.tif", smooth_picture(*SIDE), photometric="rgb", rowsperstrip=128, resolution=(72, 72),
                     resolutionunit="INCH", metadata=None)
    with open_slide(tmp_path / "a.tif") as reader:
        assert reader.mpp is None
    assert tile(slides(tmp_path, "a.tif"), tmp_path / "tile", config=CONFIG).cells == 20


def test_clam_82_and_317_a_slide_that_claims_too_much_memory_is_refused(tmp_path):
    write_striped(tmp_path / "a.tif", smooth_picture(*SIDE))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(2**31 - 1)
    with pytest.raises(DamagedError):
        open_slide(tmp_path / "a.tif")
