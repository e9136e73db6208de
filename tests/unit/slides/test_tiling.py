import numpy as np
import pytest
from PIL import Image

from milscope.slides import DamagedError, decode_pixels, grid_cells, open_slide
from milscope.slides._tiling import find_glass, foreground, stained

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


def tiles(reader, *, extent=64.0, size=64, least=0.1):
    return list(grid_cells(reader, "s", extent=extent, size=size, mpp=None, quality=100, least=least))


def test_share_of_stain_per_tile(slide):
    shares = foreground(slide, 64)
    wanted = np.zeros((3, 5))
    wanted[1, 2] = 0.5
    np.testing.assert_allclose(shares, wanted, atol=0.13)  # a row of 8 samples may count the border
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
