import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from milscope.ranking import LEARNED, Seen
from milscope.ranking._seek import NATS, shares
from milscope.types import InputError

SLIDES, CELLS, SIDE = 10, 30, 32


def cohort(seed=0):
    """Eight slides to learn from and two to be scored, every other one positive; three of its cells have a dark spot."""
    random = np.random.default_rng(seed)
    slide = np.repeat(np.arange(SLIDES), CELLS)
    pixels = random.normal(190, 6, (SLIDES * CELLS, SIDE, SIDE, 3)) + random.normal(0, 8, (SLIDES * CELLS, 1, 1, 3))
    witness = (slide % 2 == 1) & (np.arange(len(slide)) % CELLS < 3)
    pixels[witness, 10:15, 12:17] -= 80
    label = np.where(np.arange(SLIDES) < 8, np.arange(SLIDES) % 2, np.nan).astype(float)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Seen(pixels, np.zeros((len(slide), 0)), slide, label, seed), witness


@pytest.fixture(scope="module")
def seen():
    return cohort()


@pytest.fixture(scope="module")
def scores(seen):
    return {name: LEARNED[name](seen[0]) for name in ("seek", "local")}


@pytest.mark.parametrize("name", ["seek", "local"])
def test_what_only_positive_slides_have_is_found_on_new_ones(name, seen, scores):
    given, witness = seen
    new = given.slide >= 8
    assert np.isfinite(scores[name]).all()
    assert roc_auc_score(witness[new], scores[name][new]) > 0.95


def test_what_normal_slides_have_as_well_is_not_sought(seen):
    """A spot of another colour on some cells of all slides is no reason for a label."""
    given, witness = seen
    decoy = np.arange(len(witness)) % CELLS >= CELLS - 3
    pixels = given.pixels.copy()
    pixels[decoy, 18:24, 18:24] = (40, 200, 40)
    found, new = LEARNED["seek"](given._replace(pixels=pixels)), given.slide >= 8
    assert roc_auc_score(witness[new & (witness | decoy)], found[new & (witness | decoy)]) > 0.9


def test_the_order_of_the_cells_changes_nothing(seen, scores):
    given, _ = seen
    order = np.concatenate([np.random.default_rng(3).permutation(CELLS) + CELLS * number for number in range(SLIDES)])
    again = LEARNED["seek"](given._replace(pixels=given.pixels[order], features=given.features[order]))
    np.testing.assert_allclose(again, scores["seek"][order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["seek", "local"])
def test_one_class_alone_is_refused(name, seen):
    given, _ = seen
    with pytest.raises(InputError, match="normal one"):
        LEARNED[name](given._replace(label=np.ones(SLIDES)))


def test_views_count_by_their_gain():
    found = shares(np.array([400.0, 400.0 - NATS, 0.0]))
    assert found.sum() == pytest.approx(1)
    assert found[0] / found[1] == pytest.approx(np.e)
    assert found[2] < 1e-12
