import numpy as np
import pytest
import torch
from scipy import ndimage

from milscope.ranking._bodies import bodies, cell_masks, central, densities, outlines, shrunk, thresholds
from milscope.ranking._measures import CHUNK, _box, measure_cells

SIDE = 64
DOWN, RIGHT = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2


def ellipse(down=16.0, right=16.0):
    return (DOWN / down) ** 2 + (RIGHT / right) ** 2 <= 1


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def picture(background=235, seed=0):
    """A pale cell with a darker nucleus and a speck, off every axis of symmetry."""
    cell = np.full((SIDE, SIDE, 3), background, np.uint8)
    cell[ellipse(24, 18)] = (200, 170, 190)
    cell[ellipse(7, 8)] = (110, 80, 140)
    cell[20:24, 38:42] = (60, 60, 60)
    noise = np.random.default_rng(seed).integers(-4, 5, cell.shape)
    return np.where(cell.max(-1, keepdims=True) > 12, np.clip(cell + noise, 0, 255), cell).astype(np.uint8)


def test_a_disc_and_an_ellipse_are_told_by_their_axes():
    disc, flat = outlines(np.stack([ellipse(), ellipse(20, 10)]))
    assert disc[0] == pytest.approx(np.log(np.pi * 16**2), abs=0.02)
    assert disc[1] == pytest.approx(1, abs=0.01)
    assert flat[1] == pytest.approx(0.5, abs=0.02)
    assert flat[7] > disc[7] + 1  # two waves around the outline


def test_an_outline_is_the_same_whichever_way_round():
    mask = ellipse(20, 10) | ((DOWN > 0) & (np.abs(RIGHT) < 3) & (DOWN < 26))
    one, turned = outlines(np.stack([mask, np.rot90(mask)]))
    np.testing.assert_allclose(one[:6], turned[:6], atol=0.1)


def test_an_empty_mask_is_told_finitely():
    assert np.isfinite(outlines(np.zeros((1, SIDE, SIDE), bool))).all()


def test_the_part_nearest_the_middle_is_taken_and_its_holes_filled():
    middle, corner = ellipse(10, 10) & ~ellipse(3, 3), (DOWN > 20) & (RIGHT > 20)
    np.testing.assert_array_equal(central((middle | corner)[None])[0], ellipse(10, 10))


def test_a_threshold_lies_between_two_groups():
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(9, 10, 20)])
    assert 1 <= thresholds(values[None])[0] <= 9


def test_shrinking_takes_the_edge_of_the_crop_too():
    assert shrunk(np.ones((1, 9, 9), bool), 2).sum() == 25


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_shrinking_leaves_what_has_only_its_own_around_it(pixels):
    masks = np.random.default_rng(0).random((3, 20, 20)) < 0.97
    slow = [ndimage.minimum_filter(mask, 2 * pixels + 1, mode="constant", cval=False) for mask in masks]
    np.testing.assert_array_equal(shrunk(masks, pixels), slow)


@pytest.mark.parametrize("band", [3, 5, 7, 9, 13])
def test_the_mean_over_squares_is_that_of_a_slow_filter(band):
    maps = np.random.default_rng(0).normal(size=(2, 3, 20, 20))
    slow = ndimage.uniform_filter(maps, (1, 1, band, band), mode="nearest")
    np.testing.assert_allclose(_box(torch.from_numpy(maps.astype(np.float32)), band), slow, atol=1e-5)


def test_the_cell_and_the_body_in_its_middle_are_found():
    pixels = picture()[None]
    cell, body = cell_masks(pixels)[0], bodies(densities(pixels))[0]
    assert overlap(cell, ellipse(24, 18)) > 0.9
    assert overlap(body, ellipse(7, 8)) > 0.8


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("grey", [60, 240])
def test_a_body_is_found_at_other_sizes_and_lighter_than_what_surrounds_it(side, grey):
    pixels = np.full((2, SIDE, SIDE, 3), 150, np.uint8)
    pixels[0, ellipse(12, 9)] = grey
    body = bodies(densities(np.ascontiguousarray(pixels[:, :: SIDE // side, :: SIDE // side])))
    assert overlap(body[0], ellipse(12, 9)[:: SIDE // side, :: SIDE // side]) > 0.8
    assert not body[1].any()  # nothing there


def test_what_was_blotted_out_is_no_cell():
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    pixels[0, ellipse(24, 18)] = (200, 170, 190)
    pixels[0, ellipse(24, 18) & (RIGHT > 8)] = (50, 20, 60)
    np.testing.assert_array_equal(cell_masks(pixels)[0], ellipse(24, 18))


@pytest.mark.parametrize("turn", [np.fliplr, np.flipud, np.rot90], ids=["left-right", "up-down", "turned"])
def test_measures_hardly_depend_on_which_way_round_a_cell_lies(turn):
    others = np.stack([picture(seed=seed, background=200 + 10 * seed) for seed in range(4)])
    spread = {name: values.std(0) + 0.05 for name, values in measure_cells(others).items()}
    one, other = (measure_cells(cell[None]) for cell in (picture(), np.ascontiguousarray(turn(picture()))))
    for name in one:
        apart = np.abs(one[name] - other[name])[0] / spread[name]
        assert np.median(apart) < 0.5, name
    np.testing.assert_allclose(one["radial"], other["radial"], atol=1e-4)


def test_a_cell_is_measured_alike_alone_and_in_company():
    cells = np.stack([picture(seed=seed) for seed in range(CHUNK + 2)])
    together, alone = measure_cells(cells), measure_cells(cells[-1:])
    for name, values in together.items():
        assert len(values) == CHUNK + 2
        np.testing.assert_allclose(values[-1:], alone[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [8, 32, 64])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_crop_of_one_colour_is_measured_finitely(side, grey):
    for name, values in measure_cells(np.full((2, side, side, 3), grey, np.uint8)).items():
        assert np.isfinite(values).all(), name
