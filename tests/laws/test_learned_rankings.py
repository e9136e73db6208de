"""What every ranking obeys that learns from slide labels by what an encoder makes of cells."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tests.planted_cells import planted

from milscope.configs import LEARNED as NAMES
from milscope.ranking import LEARNED, ON_FEATURES, ON_PIXELS, RANKINGS
from milscope.types import InputError

pytestmark = pytest.mark.parametrize("name", list(ON_FEATURES))


@pytest.fixture(scope="module")
def given():
    return planted()


@pytest.fixture(scope="module")
def scores(given):
    """Name → scores, each ranking asked once."""
    return {name: rank(given.seen) for name, rank in ON_FEATURES.items()}


def test_one_finite_number_a_cell_and_the_same_again(name, given, scores):
    assert scores[name].shape == given.abnormal.shape
    assert scores[name].dtype == np.float64
    assert np.isfinite(scores[name]).all()
    assert (ON_FEATURES[name](given.seen) == scores[name]).all()


def test_outliers_of_positive_slides_are_found_on_slides_learned_from_and_on_new_ones(name, given, scores):
    new = np.isnan(given.seen.label)[given.seen.slide]
    for rows in (new, ~new):
        assert roc_auc_score(given.abnormal[rows], scores[name][rows]) > 0.97


def test_the_order_of_the_cells_of_a_slide_does_not_matter(name, given, scores):
    random, seen = np.random.default_rng(1), given.seen
    mixed = np.concatenate([random.permutation(np.flatnonzero(seen.slide == slide)) for slide in range(len(seen.label))])
    again = ON_FEATURES[name](seen._replace(features=seen.features[mixed]))
    assert again == pytest.approx(scores[name][mixed], rel=1e-4, abs=1e-4)


def test_a_new_slide_scores_the_same_alone_and_in_company(name, given, scores):
    seen = given.seen
    kept = seen.slide < 9  # of the new slides only the first
    alone = ON_FEATURES[name](seen._replace(pixels=seen.pixels[kept], features=seen.features[kept], slide=seen.slide[kept],
                                            label=seen.label[:9]))
    assert alone == pytest.approx(scores[name][kept], rel=1e-4, abs=1e-4)


def test_cells_that_all_look_alike_are_no_reason_to_fail(name, given):
    still = given.seen._replace(features=np.ones_like(given.seen.features))
    assert np.isfinite(ON_FEATURES[name](still)).all()


def test_too_little_to_learn_from_is_refused(name, given):
    seen = given.seen
    with pytest.raises(InputError, match="give `--features`"):
        ON_FEATURES[name](seen._replace(features=seen.features[:, :0]))
    with pytest.raises(InputError, match=r"at least two normal ones to learn from\. Found 1"):
        ON_FEATURES[name](seen._replace(label=np.where((seen.label == 0) & (np.arange(12) > 0), np.nan, seen.label)))


def test_its_name_is_known_to_the_command_line_and_to_retrieve(name):
    assert set(NAMES) == set(LEARNED) == {*ON_FEATURES, *ON_PIXELS}
    assert {name, *ON_PIXELS} <= set(RANKINGS)
