import numpy as np
import pytest
import torch

from milscope.ranking import fit_classifier
from milscope.types import InputError

RANDOM = np.random.default_rng(0)
TARGET = (np.arange(40) % 4 == 0).astype(float)
CELLS = RANDOM.integers(150, 200, (40, 24, 24, 3)).astype(np.uint8)
CELLS[TARGET == 1, 9:15, 9:15] = 40
ONE = np.ones(40)


@pytest.fixture(scope="module")
def classify():
    return fit_classifier(CELLS, TARGET, ONE, 0, steps=25)


def test_it_tells_what_it_was_told(classify):
    scores = classify(CELLS)
    assert scores[TARGET == 1].min() > scores[TARGET == 0].max()


def test_same_seed_same_scores_and_no_trace_in_the_random_state(classify):
    torch.rand(1)
    state = torch.random.get_rng_state()
    again = fit_classifier(CELLS, TARGET, ONE, 0, steps=25)
    np.testing.assert_array_equal(again(CELLS), classify(CELLS))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_cell_without_weight_teaches_nothing(classify):
    wrong = np.concatenate([CELLS, CELLS[:4]])
    found = fit_classifier(wrong, np.concatenate([TARGET, 1 - TARGET[:4]]), np.concatenate([ONE, np.zeros(4)]), 0, steps=25)
    np.testing.assert_allclose(found(CELLS), classify(CELLS), atol=1e-4)


def test_how_sure_a_mark_is_counts_and_so_does_the_seed(classify):
    unsure = fit_classifier(CELLS, 0.1 + 0.8 * TARGET, ONE, 0, steps=25)(CELLS)
    assert unsure[TARGET == 1].min() > unsure[TARGET == 0].max()
    assert np.ptp(unsure) < np.ptp(classify(CELLS))
    one, other = (fit_classifier(CELLS, TARGET, ONE, seed, steps=1)(CELLS[:2]) for seed in (0, 1))
    assert (one != other).all()


def test_no_cells_no_scores(classify):
    assert classify(CELLS[:0]).shape == (0,)


@pytest.mark.parametrize(("cells", "target", "words"), [
    (CELLS, np.zeros(40), "0 abnormal and 40 normal"), (CELLS[:, :8, :8], TARGET, "at least 16 a side")])
def test_refuses(cells, target, words):
    with pytest.raises(InputError, match=words):
        fit_classifier(np.ascontiguousarray(cells), target, ONE, 0, steps=1)
