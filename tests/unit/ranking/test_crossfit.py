import numpy as np
import pytest
from tests.planted_cells import planted

from milscope.ranking import _crossfit as module
from milscope.ranking import cross_fitted


def learned_by_heart(lesson):
    """A scorer that knows the cells of its lesson again: 1 for these, 0 for others."""
    known = {row.tobytes() for row in lesson.features}
    return lambda features: np.array([row.tobytes() in known for row in features], dtype=float)


@pytest.mark.parametrize("positives", [True, False])
def test_no_slide_is_scored_by_a_model_that_learned_from_it(positives):
    seen = planted(cells=8, width=3).seen
    assert cross_fitted(seen, learned_by_heart, positives=positives) == pytest.approx(-1e12)  # a cell of the lesson gets 0


def test_models_learn_from_the_right_cells_and_new_slides_are_scored_by_all():
    seen, lessons = planted(cells=8, width=3, slides=14).seen, []

    def learn(lesson):
        lessons.append(lesson)
        return lambda features: features[:, 0].astype(float)

    cross_fitted(seen, learn, positives=False)
    assert all(lesson.normal.all() and seen.normal[lesson.rows].all() for lesson in lessons)
    assert len({lesson.seed for lesson in lessons}) == len(lessons) == 5
    assert sorted(np.concatenate([lesson.rows for lesson in lessons])) == sorted(4 * np.flatnonzero(seen.normal).tolist())
    lessons.clear()
    found = cross_fitted(seen, learn, positives=True)
    assert all((seen.normal[lesson.rows] == lesson.normal).all() and seen.positive[lesson.rows[~lesson.normal]].all()
               for lesson in lessons)
    new = np.flatnonzero(np.isnan(seen.label)[seen.slide])
    steady = []
    for lesson in lessons:  # standardised twice is standardised once
        own = seen.features[lesson.rows[lesson.normal], 0].astype(float)
        steady.append((seen.features[new, 0] - own.mean()) / own.std())
    assert found[new] == pytest.approx(np.mean(steady, axis=0), abs=1e-5)


def test_at_most_so_many_cells_of_each_kind_are_learned_from(monkeypatch):
    monkeypatch.setattr(module, "MOST", 10)
    counts = []
    cross_fitted(planted(cells=30).seen, lambda lesson: counts.append((lesson.normal.sum(), len(lesson.rows)))
                 or (lambda features: features[:, 0].astype(float)), positives=True)
    assert set(counts) == {(10, 20)}
