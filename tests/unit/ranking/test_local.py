import numpy as np
import pytest

from milscope.ranking import LEARNED, Seen
from milscope.ranking import _local as module
from milscope.ranking._bodies import densities

SIDE = 64


def flat(random, count):
    """Cells that fill the crop, each of a colour and with noise."""
    return np.clip(random.normal((180, 140, 170), 6, (count, SIDE, SIDE, 3)) + random.normal(0, 6, (count, 1, 1, 3)), 0, 255)


@pytest.fixture(scope="module")
def seen():
    """A normal slide, a positive one, and a new one of which the first cells are marked by the tests."""
    pixels = flat(np.random.default_rng(0), 60).astype(np.uint8)
    return Seen(pixels, np.zeros((60, 0)), np.repeat(np.arange(3), 20), np.array([0.0, 1.0, np.nan]), 0)


def marked(seen, **change):
    """The scores of the new slide's cells, its first changed; keys are `down_right_side`, values colours."""
    pixels = seen.pixels.copy()
    for place, colour in change.items():
        down, right, side = map(int, place[1:].split("_"))
        pixels[40, down : down + side, right : right + side] = colour
    return LEARNED["local"](seen._replace(pixels=pixels))[40:]


@pytest.mark.parametrize("side", [32, 64])
def test_a_spot_is_its_density_less_that_of_the_cell(side):
    pixels, spot = np.full((1, side, side, 3), 150, np.uint8), side // 16
    pixels[0, 20 : 20 + spot, 30 - spot : 30] = (40, 200, 150)
    spots = module._spots(pixels)[0]
    apart = (densities(pixels[:, 20:21, 29:30]) - densities(pixels[:, :1, :1])).ravel()
    assert spots[np.abs(spots).sum(1).argmax()] == pytest.approx(apart, abs=1e-5)
    assert (np.abs(spots).sum(1) > 1e-6).sum() == 9  # those that overlap it by a half or a quarter, too


def test_an_odd_spot_stands_out_and_more_so_the_odder_it_is(seen):
    plain, dim, odd = marked(seen), marked(seen, _20_30_6=(150, 120, 150)), marked(seen, _20_30_6=(60, 160, 40))
    assert plain[0] < dim[0] < odd[0]
    assert odd[0] > 10 * odd[1:].max()
    np.testing.assert_array_equal(odd[1:], plain[1:])


def test_what_lies_at_the_edge_is_left_out(seen):
    plain = marked(seen)[0]
    assert marked(seen, _0_30_2=(60, 160, 40))[0] == pytest.approx(plain, rel=0.02)
    assert marked(seen, _4_30_2=(60, 160, 40))[0] > 2 * plain


def test_what_was_blotted_out_is_no_spot(seen):
    blotted = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) > 26
    pixels = seen.pixels.copy()
    pixels[40, blotted] = 0
    found = LEARNED["local"](seen._replace(pixels=pixels))[40:]
    assert found[0] < 2 * found[1:].max()


def test_it_does_not_matter_how_many_cells_are_looked_at_at_once(seen, monkeypatch):
    found = LEARNED["local"](seen)
    monkeypatch.setattr(module, "CHUNK", 7)
    np.testing.assert_allclose(LEARNED["local"](seen), found, rtol=1e-6)
