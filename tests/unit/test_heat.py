import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.heat import COLOURS, FAINT, OPACITY, Window, draw, heat, legend, paint, rarity

CVD = {  # Machado, Oliveira, Fernandes, A physiologically-based model, 2009, severity 1, in linear light
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3).tolist(),
}


def slow(places, values, size, extent, least):
    """One pixel and one cell at a time, as the docstring says."""
    picture = np.full((size[1], size[0]), np.nan)
    across, down = extent[0] / size[0], extent[1] / size[1]
    for row in range(size[1]):
        for column in range(size[0]):
            for (x, y, width, height), value in zip(places, values, strict=True):
                radius = max(width / across, least) / 2, max(height / down, least) / 2
                inside = ((column + 0.5 - x / across) / radius[0])**2 + ((row + 0.5 - y / down) / radius[1])**2 <= 1
                holds = (int(x / across), int(y / down)) == (column, row)
                if np.isfinite(value) and (inside or holds):
                    picture[row, column] = np.nanmax([picture[row, column], value])
    return picture


@pytest.mark.parametrize("least", [0.1, 3.0])
def test_it_is_what_the_slow_loop_draws(least):
    random = np.random.default_rng(0)
    places = np.column_stack([random.uniform(0, (230, 190), (25, 2)), random.uniform(1, 60, (25, 2))])
    values = random.random(25)
    values[3] = np.nan
    drawn = draw(places, values, Window(0, 0, 230, 190), (21, 17), least=least)
    assert drawn == pytest.approx(slow(places, values, (21, 17), (230, 190), least), nan_ok=True)
    assert np.isnan(drawn).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 15))
def test_pieces_are_the_same_as_the_whole(seed, cut):
    random = np.random.default_rng(seed)
    places = np.column_stack([random.uniform(-5, 165, (40, 2)), random.uniform(2, 50, (40, 2))])
    values = random.random(40)
    whole = draw(places, values, Window(0, 0, 160, 160), (16, 16))
    left = draw(places, values, Window(0, 0, cut * 10, 160), (cut, 16))
    right = draw(places, values, Window(cut * 10, 0, 160 - cut * 10, 160), (16 - cut, 16))
    assert np.concatenate([left, right], axis=1) == pytest.approx(whole, nan_ok=True)


def test_cells_are_drawn_in_batches_without_a_change(monkeypatch):
    random = np.random.default_rng(1)
    places = np.column_stack([random.uniform(0, 100, (60, 2)), random.uniform(1, 40, (60, 2))])
    values = random.random(60)
    whole = draw(places, values, Window(0, 0, 100, 100), (30, 30))
    monkeypatch.setattr("milscope.heat._AT_ONCE", 64)
    assert draw(places, values, Window(0, 0, 100, 100), (30, 30)) == pytest.approx(whole, nan_ok=True)


def test_a_lone_rare_cell_among_many_is_seen_from_afar():
    places = np.column_stack([np.random.default_rng(0).uniform(0, 100_000, (5000, 2)), np.full((5000, 2), 40.0)])
    score = np.zeros(5000)
    score[17] = 1.0
    drawn = heat(places, score, (100_000, 100_000), (256, 256))
    assert (drawn > 0.5).sum() >= 5
    row, column = np.argwhere(drawn > 0.5).mean(axis=0) + 0.5
    assert (column, row) == pytest.approx(places[17, :2] * 256 / 100_000, abs=1)


def test_cells_without_a_place_and_slides_without_cells_are_blank():
    nowhere = np.full((3, 4), np.nan)
    assert np.isnan(heat(nowhere, np.arange(3.0), (100, 50), (10, 5))).all()
    assert heat(np.empty((0, 4)), np.empty(0), (100, 50), (10, 5)).shape == (5, 10)


def test_rarity_is_the_share_of_cells_with_so_high_a_score_on_a_scale_of_tens():
    score = np.random.default_rng(0).permutation(10_000).astype(float)
    values = rarity(score)
    assert values[score == 9000] == pytest.approx(1 / 3, abs=1e-4)
    assert values[score == 9900] == pytest.approx(2 / 3, abs=1e-3)
    assert values[score == 9999] == 1
    assert values[score == 0] == 0
    assert (np.diff(values[np.argsort(score)]) >= 0).all()


def test_only_the_order_counts_and_equal_cells_are_equally_rare():
    score = np.array([3.0, 1.0, 1.0, 2.0, -5.0])
    assert rarity(score).tolist() == rarity(np.exp(score)).tolist()
    assert rarity(np.full(7, 4.0)).tolist() == [0.0] * 7
    assert rarity(score)[1] == rarity(score)[2]


def test_the_best_of_few_is_not_called_rare():
    assert rarity(np.arange(10.0)).max() == pytest.approx(1 / 3)
    assert rarity(np.array([5.0])).tolist() == [0.0]


def test_a_reference_is_what_cells_are_compared_with():
    others = np.arange(1000.0)
    assert rarity(np.array([989.5]), others)[0] == pytest.approx(np.log(11 / 1001) / np.log(1e-3))
    assert rarity(np.array([990.0]), others)[0] == pytest.approx(2 / 3)
    assert rarity(np.array([1e9, np.nan]), others)[0] == 1
    assert np.isnan(rarity(np.array([np.nan, 1.0]))[0])
    assert rarity(np.array([1.0]), np.array([np.nan])).tolist() == [0.0]


def linear(colours):
    share = np.asarray(colours, float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055)**2.4)


def lightness(light):
    return 1.16 * np.cbrt(light @ [0.2126, 0.7152, 0.0722]) - 0.16


@pytest.mark.parametrize("sight", CVD)
def test_colours_grow_darker_all_the_way_for_everybody(sight):
    seen = np.clip(linear(COLOURS) @ np.array(CVD[sight]).T, 0, 1)
    assert (np.diff(lightness(seen)[::8]) < -0.01).all()


def test_colours_look_equally_far_apart():
    cone = np.cbrt(linear(COLOURS) @ np.array([[0.4122214708, 0.5363325363, 0.0514459929],
                                               [0.2119034982, 0.6806995451, 0.1073969566],
                                               [0.0883024619, 0.2817188376, 0.6299787005]]).T)
    lab = cone @ np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                           [0.0259040371, 0.7827717662, -0.8086757660]]).T
    steps = np.linalg.norm(np.diff(lab[::15], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.25


def test_paint_is_clear_where_there_is_nothing_and_opaque_where_cells_are_rare():
    painted = paint(np.array([[np.nan, 0.0, 1.0]]))
    assert painted[0, 0].tolist() == [255, 255, 255, 0]
    assert painted[0, 1].tolist() == [*COLOURS[0].tolist(), round(255 * FAINT)]
    assert painted[0, 2].tolist() == [*COLOURS[255].tolist(), round(255 * OPACITY)]


def test_the_legend_says_what_the_values_mean():
    ticks = legend()
    assert [tick.label for tick in ticks] == ["all cells", "top 10 %", "top 1 %", "top 0.1 %"]
    assert [tick.value for tick in ticks] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    for tick in ticks:
        red, green, blue = paint(np.array([[tick.value]]))[0, 0, :3]
        assert tick.colour == f"#{red:02x}{green:02x}{blue:02x}"
