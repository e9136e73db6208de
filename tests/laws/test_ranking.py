"""What every ranking of cells obeys."""

import numpy as np
import pandas as pd
import pytest
from tests.fake_scores import cell_table, slide_table

from milscope.configs import LEARNED
from milscope.ranking import RANKINGS

pytestmark = pytest.mark.parametrize("ranking", list(RANKINGS.values()), ids=list(RANKINGS))


@pytest.fixture
def cells():
    table = cell_table(slide_table(2))
    own = table[table["slide"] == "S01"].drop(columns="witness").reset_index(drop=True)
    return own.assign(gradient=own["evidence"] * own["attention"], routing=own["attention"] ** 2,
                      **{name: own["evidence"] * place for place, name in enumerate(LEARNED, 1)})


def test_one_finite_number_a_cell(ranking, cells):
    scores = ranking(cells)
    assert scores.shape == (30,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


def test_the_order_of_cells_does_not_matter(ranking, cells):
    mixed = np.random.default_rng(0).permutation(30)
    assert (ranking(cells.iloc[mixed]) == ranking(cells)[mixed]).all()


def test_names_places_and_truth_do_not_matter(ranking, cells):
    renamed = cells.assign(slide="other", cell=cells["cell"][::-1].to_numpy(), x=0.0, y=np.nan, witness=True, label=1.0)
    assert (ranking(renamed) == ranking(cells)).all()


def test_the_cells_are_left_as_they_were(ranking, cells):
    before = cells.copy()
    ranking(cells)[:] = -1
    pd.testing.assert_frame_equal(cells, before)


def test_a_slide_of_one_cell_and_of_none(ranking, cells):
    assert ranking(cells.iloc[:1]).shape == (1,)
    assert ranking(cells.iloc[:0]).shape == (0,)


def test_the_higher_the_more_suspicious(ranking):
    table = cell_table(slide_table(2))
    table = table[table["slide"] == "S01"].assign(gradient=lambda cells: cells["evidence"],
                                                        routing=lambda cells: cells["attention"],
                                                        **dict.fromkeys(LEARNED, table["evidence"]))
    scores = ranking(table)
    assert scores[table["witness"]].mean() > scores[~table["witness"]].mean()
