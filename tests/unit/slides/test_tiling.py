import sys

import numpy as np
import pytest
from PIL import Image

from milscope.slides import DamagedError, Grid, Skip, choose_tiles, decode_pixels, foreground, grid_cells, open_slide, overview
from milscope.slides._tiling import find_glass, stained

EOSIN, GLASS = (225, 170, 200), (238, 236, 240)


@pytest.fixture
def slide(tmp_path):
    """Glass with tissue on the left half of the tile in row 1, column 2, and a black corner that was not scanned."""
    picture = np.full((200, 330, 3), GLASS, dtype=np.uint8)
    picture[64:128, 128:160] = EOSIN
    picture[:64, :64] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as reader:
        yield reader


def tiles(reader, *, extent=64.0, size=64, least=0.1, overlap=0):
    grid = Grid.over(reader.size, extent, size, overlap)
    chosen = choose_tiles(foreground(overview(reader, extent), reader.size, grid), least)
    return list(grid_cells(reader, "s", grid, chosen, mpp=None, quality=100))


def test_share_of_stain_per_tile(slide):
    grid = Grid.over(slide.size, 64, 64)
    shares = foreground(overview(slide, 64), slide.size, grid)
    wanted = np.zeros((3, 5))
    wanted[1, 2] = 0.5
    np.testing.assert_allclose(shares, wanted, atol=0.01)
    assert shares[0, 0] < 0.1


def test_only_stained_tiles_with_their_places(slide):
    (tile,) = tiles(slide)
    assert (tile.cell, tile.x, tile.y, tile.width, tile.height) == ("s:160,96", 160, 96, 64, 64)
    assert (decode_pixels(tile.image)[:, :32] == EOSIN).all()
    assert (decode_pixels(tile.image)[:, 32:] == GLASS).all()


def test_the_threshold_is_the_share(slide):
    assert len(tiles(slide, least=0.35)) == 1
    with pytest.raises(DamagedError, match="lower `foreground`"):
        tiles(slide, least=0.7)


def test_another_scale_has_another_grid(slide):
    (tile,) = tiles(slide, extent=100.0, size=50)
    assert (tile.x, tile.y, tile.width) == (150, 50, 100) or (tile.x, tile.y) == (150, 150)
    assert decode_pixels(tile.image).shape == (50, 50, 3)


def test_a_slide_smaller_than_a_tile(slide):
    with pytest.raises(DamagedError, match="smaller than one tile of 201"):
        tiles(slide, extent=201.0, size=201)


def test_glass_is_no_stain_at_any_brightness_of_the_lamp():
    for lamp in (210, 230, 255):
        glass = np.full((10, 10, 3), lamp, dtype=np.uint8)
        assert not stained(glass, find_glass(glass)).any()
    tissue = np.full((10, 10, 3), EOSIN, dtype=np.uint8)
    assert stained(tissue, find_glass(tissue)).all()  # a slide full of tissue is not taken for glass


def test_a_run_of_tiles_is_the_tiles(slide, monkeypatch):
    for options in ({}, {"extent": 40.0, "size": 33}, {"extent": 40.0, "size": 32, "overlap": 8}):
        together = tiles(slide, least=0.0, **options)
        with monkeypatch.context() as patched:
            patched.setattr(sys.modules["milscope.slides._tiling"], "RUN", 1)
            alone = tiles(slide, least=0.0, **options)
        assert [tile[:6] for tile in together] == [tile[:6] for tile in alone]
        for one, other in zip(together, alone, strict=True):
            difference = np.abs(decode_pixels(one.image).astype(int) - decode_pixels(other.image))
            assert difference.max() <= 1  # of rounding, where they are resampled


def test_one_tile_that_cannot_be_read_costs_only_itself(slide, monkeypatch):
    original = type(slide)._read

    def damaged(self, place, size, level):
        if place[0] < 100 < place[0] + size[0] and place[1] < 100 < place[1] + size[1]:
            raise DamagedError("a corrupt piece")
        return original(self, place, size, level)

    grid = Grid.over(slide.size, 64, 64)
    everything = choose_tiles(np.ones((grid.rows, grid.columns)), 0.5)
    whole = list(grid_cells(slide, "s", grid, everything, mpp=None, quality=100))
    monkeypatch.setattr(type(slide), "_read", damaged)
    cells = list(grid_cells(slide, "s", grid, everything, mpp=None, quality=100))
    assert [cell for cell in cells if isinstance(cell, Skip)] == [Skip("s:96,96", "a corrupt piece")]
    assert [cell for cell in cells if cell.cell != "s:96,96"] == [cell for cell in whole if cell.cell != "s:96,96"]


def test_tiles_overlap_by_the_pixels_asked_for(slide):
    grid = Grid.over(slide.size, extent=64.0, size=32, overlap=8)
    assert grid == (3, 6, 64.0, 48.0, 32, 24)
    shares = foreground(overview(slide, 64), slide.size, grid)
    assert shares[1, 2] == pytest.approx(32 * 48 / 64**2, abs=0.01)  # columns 96 to 160 and rows 48 to 112 of the slide
    assert shares[1, 3] == pytest.approx(16 * 48 / 64**2, abs=0.01)  # columns 144 to 208


def test_a_grid_ends_at_the_edge():
    assert Grid.over((640, 512), 64, 64)[:2] == (8, 10)
    assert Grid.over((639, 511), 64, 64)[:2] == (7, 9)
    assert Grid.over((64, 64), 64, 64, 63)[:2] == (1, 1)
