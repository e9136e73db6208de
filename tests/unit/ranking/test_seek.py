import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from milscope.ranking import LEARNED, RANKINGS, Seen
from milscope.ranking import _seek as module
from milscope.ranking._seek import NATS, shares
from milscope.types import InputError

SLIDES, KNOWN, CELLS, SIDE = 8, 6, 24, 32


def cohort(seed=0):
    """Six slides to learn from and two to be scored, every other one positive; three of its cells have a dark spot."""
    random = np.random.default_rng(seed)
    slide = np.repeat(np.arange(SLIDES), CELLS)
    pixels = random.normal(190, 6, (SLIDES * CELLS, SIDE, SIDE, 3)) + random.normal(0, 8, (SLIDES * CELLS, 1, 1, 3))
    witness = (slide % 2 == 1) & (np.arange(len(slide)) % CELLS < 3)
    pixels[witness, 10:15, 12:17] -= 80
    label = np.where(np.arange(SLIDES) < KNOWN, np.arange(SLIDES) % 2, np.nan).astype(float)
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
    new = given.slide >= KNOWN
    assert np.isfinite(scores[name]).all()
    assert roc_auc_score(witness[new], scores[name][new]) > 0.95


def test_what_normal_slides_have_as_well_is_not_sought(seen):
    """A spot of another colour on some cells of all slides is no reason for a label."""
    given, witness = seen
    decoy = np.arange(len(witness)) % CELLS >= CELLS - 3
    pixels = given.pixels.copy()
    pixels[decoy, 18:24, 18:24] = (40, 200, 40)
    found, new = LEARNED["seek"](given._replace(pixels=pixels)), given.slide >= KNOWN
    assert roc_auc_score(witness[new & (witness | decoy)], found[new & (witness | decoy)]) > 0.9


def test_only_pixels_and_labels_of_slides_are_read_and_the_same_seed_gives_the_same_scores(seen, scores):
    given, _ = seen
    assert Seen._fields == ("pixels", "features", "slide", "label", "seed")  # no truth about cells
    features = np.random.default_rng(0).normal(size=(len(given.slide), 2))
    for name, found in scores.items():
        assert name in RANKINGS
        np.testing.assert_array_equal(LEARNED[name](given._replace(features=features)), found)


def test_slides_to_be_scored_change_no_score_of_others(seen, scores):
    given, _ = seen
    kept = given.slide < KNOWN
    fewer = Seen(given.pixels[kept], given.features[kept], given.slide[kept], given.label[:KNOWN], given.seed)
    for name, found in scores.items():
        np.testing.assert_allclose(LEARNED[name](fewer), found[kept], rtol=1e-9)


@pytest.mark.parametrize("name", ["seek", "local"])
def test_cells_that_all_look_alike_are_no_reason_to_fail(name, seen):
    white = np.full_like(seen[0].pixels, 255)
    np.testing.assert_array_equal(LEARNED[name](seen[0]._replace(pixels=white)), 0)


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


def test_a_view_that_explains_the_labels_drowns_what_explains_nothing(seen, monkeypatch):
    given, witness = seen
    random = np.random.default_rng(0)
    views = [10.0 * witness + random.random(len(witness)), *random.random((30, len(witness)))]
    monkeypatch.setattr(module, "measure_cells", lambda pixels: {"none": np.zeros((len(pixels), 1))})
    monkeypatch.setattr(module, "_views", lambda *_: views)
    found = LEARNED["seek"](given)
    assert found[witness].min() > 1.2 * found[~witness].max()


def test_views_count_by_their_gain():
    found = shares(np.array([400.0, 400.0 - NATS, 0.0]))
    assert found.sum() == pytest.approx(1)
    assert found[0] / found[1] == pytest.approx(np.e)
    assert found[2] < 1e-12
