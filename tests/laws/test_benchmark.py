"""Laws of the drawn slides: the witness rate is exact, no cell comes twice, no patient is in both parts; seeds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from milscope.benchmark._draw import count_witnesses, divide, draw
from milscope.configs import WitnessConfig

RATES = (0.3, 0.1, 0.05)


def pool(seed, patients, known):
    """About 900 cells, an eighth of them witnesses, unevenly of patients, or of nobody known."""
    random = np.random.default_rng(seed)
    owner = np.sort(random.choice(patients, 900, p=random.dirichlet(np.full(patients, 20.0))))
    return pd.DataFrame({"witness": random.random(900) < 0.125, "patient": [f"p{each}" if known else "" for each in owner]})


@settings(max_examples=12, deadline=None)
@given(seed=some.integers(0, 10**6), patients=some.integers(20, 60), known=some.booleans(), slides=some.integers(4, 7))
def test_laws_of_drawn_slides(seed, patients, known, slides):
    table = pool(seed, patients, known)
    config = WitnessConfig(rates=tuple(map(str, RATES)), cells=40, slides=slides, test_slides=4)
    division = divide(table, config, seed)
    for rate in RATES:
        drawn = draw(division, rate, config, seed)
        assert drawn["source"].is_unique
        sources = table.iloc[drawn["source"]].reset_index(drop=True)
        assert (sources["witness"] == drawn["witness"]).all()
        counts = drawn.groupby("slide").agg(label=("label", "first"), cells=("cell", "size"), witnesses=("witness", "sum"))
        assert (counts["cells"] == 40).all()
        assert (counts["witnesses"] == counts["label"] * count_witnesses(rate, 40)).all()
        of_part = drawn["slide"].str.startswith("test")
        for part, number in ((~of_part, slides), (of_part, 4)):
            assert drawn[part].groupby("slide")["label"].first().sum() == number // 2
            assert drawn.loc[part, "slide"].nunique() == number
        if known:
            assert set(sources["patient"][of_part]).isdisjoint(sources["patient"][~of_part])
        assert set(drawn["split"][of_part]) == {"test"}
        assert set(drawn["split"][~of_part]) == {"train", "validation"}
        pd.testing.assert_frame_equal(drawn, draw(divide(table, config, seed), rate, config, seed))


@pytest.mark.parametrize("known", [True, False])
def test_rates_of_a_seed_share_what_they_can(known):
    table = pool(1, 30, known)
    config = WitnessConfig(rates=("0.3",), cells=40, slides=6, test_slides=4)
    high = draw(divide(table, config, 1), 0.3, config, 1)
    low = draw(divide(table, WitnessConfig(rates=("0.3", "0.05"), cells=40, slides=6, test_slides=4), 1), 0.05, config, 1)
    both = ~high["witness"]
    assert (high["source"][both] == low["source"][both]).all()
    for slide, own in low[low["witness"]].groupby("slide"):
        assert set(own["source"]) <= set(high["source"][high["witness"] & (high["slide"] == slide)])
    assert (high["label"] == low["label"]).all()
    assert (high["split"] == low["split"]).all()
    other = draw(divide(table, config, 2), 0.3, config, 2)
    assert set(other["source"]) != set(high["source"])
