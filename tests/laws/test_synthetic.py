"""Benchmark: the witness rate is exact; no cell twice; same seed, same slides."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from milscope.slides._drawn_witnesses import ORDINARY, WITNESSES
from milscope.slides._synthetic import ABNORMAL, ALIKE, MARGIN, NORMAL, plan_smear


@settings(deadline=None, max_examples=40)
@given(cells=st.integers(10, 120), share=st.floats(0, 1), mpp=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
       number=st.integers(0, 2**32))
def test_a_plan_holds_exactly_the_witnesses_asked_for_and_no_cell_twice(cells, share, mpp, number):
    witnesses = int(share * cells)
    plan = plan_smear(cells, witnesses, mpp, np.random.SeedSequence(number))
    assert len(plan.places) == len(plan.kinds) == len(plan.abnormal) == cells
    assert sum(plan.abnormal) == witnesses
    assert [kind in ABNORMAL for kind in plan.kinds] == plan.abnormal
    assert len(np.unique(plan.places, axis=0)) == cells
    again = plan_smear(cells, witnesses, mpp, np.random.SeedSequence(number))
    assert np.array_equal(again.places, plan.places)
    assert again.kinds == plan.kinds


@settings(deadline=None, max_examples=20)
@given(cells=st.integers(10, 60), counts=st.lists(st.integers(0, 3), min_size=3, max_size=3), number=st.integers(0, 2**32))
def test_a_plan_holds_exactly_the_cells_of_each_finding(cells, counts, number):
    witnesses, candida, clue = counts
    plan = plan_smear(cells, witnesses, 1.0, np.random.SeedSequence(number), {"candida": candida, "clue": clue})
    assert [sum(plan.abnormal), plan.kinds.count("candida"), plan.kinds.count("clue")] == counts
    assert set(plan.kinds) <= {*ABNORMAL, *NORMAL, *ALIKE, "candida", "clue"}
    assert len(plan.kinds) == len(plan.places) == cells


@settings(deadline=None, max_examples=30)
@given(cells=st.integers(10, 120), share=st.floats(0, 1), mpp=st.sampled_from([0.25, 0.5, 0.75, 2.0]),
       witness=st.sampled_from(["squamous", *WITNESSES, "mixed"]), number=st.integers(0, 2**32))
def test_alone_every_cell_has_a_square_of_its_own_and_witnesses_are_exact(cells, share, mpp, witness, number):
    witnesses = int(share * cells)
    plan = plan_smear(cells, witnesses, mpp, np.random.SeedSequence(number), witness=witness, alone=48.0)
    assert plan.half == round(24 / mpp)
    assert plan.places.min() - plan.half >= MARGIN / mpp
    assert plan.places.max() + plan.half <= plan.side - MARGIN / mpp + 1
    apart = np.abs(plan.places[:, None] - plan.places).max(-1) + 2 * plan.half * np.eye(cells)
    assert apart.min() >= 2 * plan.half
    kinds = {"squamous": ABNORMAL, "mixed": WITNESSES}.get(witness, [witness])
    assert [kind in kinds for kind in plan.kinds] == plan.abnormal
    assert sum(plan.abnormal) == witnesses
    normal = {kind for kind, odd in zip(plan.kinds, plan.abnormal, strict=True) if not odd}
    assert normal <= {*(NORMAL if witness == "squamous" else ORDINARY)}
