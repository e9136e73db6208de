import io

import numpy as np
import pytest
from PIL import Image

from milscope.report._sheets import BLOCK, decoded, sheet


def cell(width: int, height: int, colour: tuple[int, int, int], noise: int = 0) -> np.ndarray:
    grain = np.random.default_rng(0).integers(-noise, noise + 1, (height, width, 3))
    return np.clip(np.array(colour) + grain, 0, 255).astype(np.uint8)


def cut(made, number: int) -> np.ndarray:
    """The cell as a browser shows it: its part of its square."""
    place, picture = made.places[number], np.asarray(Image.open(io.BytesIO(made.data)))
    top, left = place.row * made.side, place.column * made.side
    return picture[top:top + round(place.height * made.side), left:left + round(place.width * made.side)]


@pytest.mark.parametrize("count", [1, 2, 5, 24, 25])
def test_each_cell_lies_in_its_own_square(count):
    colours = [(10 * number, 250 - 10 * number, 100) for number in range(count)]
    made = sheet([cell(48, 48, colour) for colour in colours], 5_000)
    assert made.columns * made.rows >= count
    assert made.side % BLOCK == 0
    assert Image.open(io.BytesIO(made.data)).size == (made.columns * made.side, made.rows * made.side)
    for number, colour in enumerate(colours):
        assert np.abs(cut(made, number).reshape(-1, 3).mean(0) - colour).max() < 6
        assert cut(made, number).shape[:2] == (48, 48), "no cell is made larger than it is"


def test_cells_of_one_scale_keep_their_sizes_among_each_other():
    made = sheet([cell(400, 400, (90, 20, 20)), cell(200, 100, (20, 90, 20))], 2_000)
    large, small = cut(made, 0).shape, cut(made, 1).shape
    assert large[0] == large[1] <= 192
    assert small[1] == pytest.approx(large[1] / 2, abs=1)
    assert small[0] == pytest.approx(large[1] / 4, abs=1)


def test_the_less_room_the_smaller_down_to_the_last_step():
    cells = [cell(160, 160, (120, 90, 140), noise=60)] * 9
    sizes = [len(sheet(cells, most).data) / 9 for most in (20_000, 3_000, 900, 10)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] <= 3_000
    assert sizes[3] < 2_000


def test_what_cannot_be_read_is_none():
    assert decoded(b"") is None
    assert decoded(b"\xff\xd8 no JPEG") is None
