import numpy as np
import pytest

from milscope.slides._drawn_cells import (
    DYES,
    KINDS,
    Optics,
    draw_debris,
    draw_neutrophils,
    draw_speck,
    draw_squamous,
    draw_strand,
    texture,
)

OPTICS = Optics(0.5, np.array(list(DYES.values()), np.float32), 0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mpp", [0.25, 1.0, 2.0])
def test_a_cell_takes_light_and_ends_within_its_square(kind, mpp):
    rng = np.random.default_rng(0)
    for _ in range(5):
        density = draw_squamous(KINDS[kind], OPTICS._replace(mpp=mpp), rng)
        assert density.shape[1] % 2 == 1
        assert np.isfinite(density).all()
        assert density.min() >= 0
        assert max(density[:, [0, -1]].max(), density[:, :, [0, -1]].max()) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_a_cell_does_not_depend_on_the_scale(kind):
    def area(mpp):
        rng = np.random.default_rng(1)
        drawn = [draw_squamous(KINDS[kind], OPTICS._replace(mpp=mpp), rng)[1] > 0.02 for _ in range(25)]
        return np.mean([cell.sum() * mpp**2 for cell in drawn])

    assert area(0.5) == pytest.approx(area(1.0), rel=0.3)


@pytest.mark.parametrize("kind", ["low-grade", "high-grade", "keratinising"])
def test_abnormal_nuclei_are_larger_and_darker_than_any_normal_kind_usually_has(kind):
    def dark(name):
        rng = np.random.default_rng(2)
        middle = [draw_squamous(KINDS[name], OPTICS, rng) for _ in range(25)]
        return np.median([(density[0] > 0.65).sum() for density in middle]) / 4  # square microns

    assert dark(kind) > 2 * max(dark(name) for name in ("superficial", "intermediate", "parabasal", "degenerated"))


@pytest.mark.parametrize("draw", [draw_debris, draw_strand, draw_speck, lambda optics, rng: draw_neutrophils(5, optics, rng)])
@pytest.mark.parametrize("mpp", [0.25, 2.0])
def test_dirt_takes_light(draw, mpp):
    density = draw(OPTICS._replace(mpp=mpp), np.random.default_rng(3))
    assert density.shape[1] % 2 == 1
    assert density.min() >= 0
    assert density.max() > 0.02


def test_texture_has_mean_0_and_spread_1_and_is_smooth_at_its_grain():
    noise = texture(4.0, 0.5, (1024, 1024), np.random.default_rng(4))
    assert noise.mean() == pytest.approx(0, abs=1e-4)
    assert noise.std() == pytest.approx(1, abs=1e-4)
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.15


def test_texture_serves_windows_larger_than_its_bank():
    assert texture(1.0, 0.5, (1500, 30), np.random.default_rng(5)).shape == (1500, 30)
