import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from milscope.slides._drawn_cells import DYES, KINDS, Optics, draw_squamous
from milscope.slides._drawn_findings import DRAWN, HYPHAE, MUCUS, STEP, _path, draw_bacilli, draw_clue, draw_granular

OPTICS = Optics(0.5, np.array(list(DYES.values()), np.float32), 0.3)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("mpp", [0.25, 2.0])
def test_it_takes_light_and_has_a_middle(kind, mpp):
    rng = np.random.default_rng(0)
    for _ in range(2):
        density = DRAWN[kind](OPTICS._replace(mpp=mpp), rng)
        assert density.shape[1] == density.shape[2]
        assert density.shape[1] % 2 == 1
        assert np.isfinite(density).all()
        assert density.min() >= -1e-6
        assert density.max() > 0.1


@pytest.mark.parametrize("kind", DRAWN)
def test_it_is_about_as_dark_as_a_cell_alone(kind):
    rng = np.random.default_rng(1)
    plain = [light(draw_squamous(KINDS[name], OPTICS, rng)) for name in ("superficial", "intermediate") for _ in range(20)]
    own = [light(DRAWN[kind](OPTICS, rng)) for _ in range(20)]
    assert abs(np.mean(own) - np.mean(plain)) < 1.3 * np.std(plain)


def test_bacteria_are_finer_than_granules():
    rng = np.random.default_rng(2)
    fine = {draw.__name__: np.mean([grain(draw(OPTICS, rng)) for _ in range(12)]) for draw in (draw_clue, draw_granular)}
    plain = np.mean([grain(draw_squamous(KINDS["intermediate"], OPTICS, rng)) for _ in range(12)])
    assert fine["draw_clue"] > 1.15 * fine["draw_granular"]
    assert fine["draw_clue"] > 1.5 * plain


def test_lactobacilli_lie_beside_the_cell_bacteria_of_clue_cells_on_it():
    rng = np.random.default_rng(3)
    shares = {draw.__name__: np.mean([beside(draw(OPTICS, rng)) for _ in range(12)]) for draw in (draw_clue, draw_bacilli)}
    assert shares["draw_clue"] < 0.5 * shares["draw_bacilli"]


def test_hyphae_are_narrow_at_their_septa_and_mucus_has_none():
    rng = np.random.default_rng(4)
    hypha, strand = (_path(kind, np.zeros(2), 0.3, 80.0, rng) for kind in (HYPHAE, MUCUS))
    assert not strand.septa
    assert len(hypha.septa) >= 3
    between = [(left + right) // 2 for left, right in zip(hypha.septa[:-1], hypha.septa[1:], strict=True)]
    assert max(hypha.widths[hypha.septa]) < min(hypha.widths[between])
    assert np.diff(hypha.septa).min() * STEP >= HYPHAE.segment[0] - STEP
    assert np.allclose(np.hypot(*np.diff(hypha.points, axis=0).T), STEP)


def light(density):
    """Taken within 22 microns around the middle, mean over colours."""
    middle = density.shape[1] // 2
    return (1 - np.exp(-density[:, middle - 44 : middle + 45, middle - 44 : middle + 45])).mean()


def grain(density):
    """How much of the contrast at some distance around the nucleus is finer than a micron."""
    middle = density.shape[1] // 2
    plane = density.mean(0)[middle - 40 : middle + 41, middle - 40 : middle + 41]
    around = np.hypot(*np.ogrid[-40:41, -40:41]) > 14
    fine, middling = plane - gaussian_filter(plane, 1.0), gaussian_filter(plane, 1.0) - gaussian_filter(plane, 4.0)
    return fine[around].std() / middling[around].std()


def beside(density):
    """Share of the fine contrast further than 35 microns from the middle."""
    plane = density.mean(0)
    fine = np.abs(plane - gaussian_filter(plane, 1.2))
    y, x = np.ogrid[: len(plane), : len(plane)]
    far = np.hypot(y - len(plane) // 2, x - len(plane) // 2) * 0.5 > 35
    return fine[far].sum() / fine.sum()
