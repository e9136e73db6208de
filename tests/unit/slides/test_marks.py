import numpy as np

from milscope.slides import mark_cells
from milscope.slides._marks import LINE

PICTURE = np.random.default_rng(0).integers(0, 200, (60, 80, 3), dtype=np.uint8)


def cells(*rows):
    return np.array(rows, float)


def test_what_was_kept_stays_and_is_framed_and_the_rest_fades():
    marked = mark_cells(PICTURE, (800, 600), cells((200, 200, 100, 100)))
    frame = np.zeros((60, 80), bool)
    frame[15:25, 15:25] = True
    frame[16:24, 16:24] = False
    assert ((marked == LINE).all(axis=2) == frame).all()
    assert (marked[16:24, 16:24] == PICTURE[16:24, 16:24]).all()
    outside = np.ones((60, 80), bool)
    outside[15:25, 15:25] = False
    assert (marked[outside] >= PICTURE[outside]).all()
    assert marked[outside].std() < PICTURE[outside].std() / 2


def test_large_cells_have_a_frame_each_and_small_ones_one_together():
    large = mark_cells(PICTURE, (80, 60), cells((10, 10, 10, 10), (20, 10, 10, 10)))
    assert (large[10, 14:16] == LINE).all()
    small = mark_cells(PICTURE, (80, 60), cells(*((x, y, 4, 4) for x in (10, 14) for y in (10, 14))))
    assert (small[8, 8:16] == LINE).all()
    assert not (small[11:13, 11:13] == LINE).all(axis=2).any()


def test_cells_at_the_edge_or_smaller_than_a_pixel_are_seen():
    marked = mark_cells(PICTURE, (8000, 6000), cells((0, 0, 10, 10), (8000, 6000, 10, 10), (4000, 3000, 10, 10)))
    found = np.argwhere((marked == LINE).all(axis=2))
    assert sorted(map(tuple, found.tolist())) == [(0, 0), (30, 40), (59, 79)]
