import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from sklearn import metrics as reference

from milscope.metrics import DEPTHS, Bootstrap, cell_metrics, found, mean_over_slides


def test_found_is_the_mean_over_all_orders_of_equal_cells():
    scores = np.array([2.0, 1, 1, 1, 0, 0])
    witness = np.array([0, 1, 1, 0, 1, 0], dtype=bool)
    for depth in range(8):
        counts = [
            witness[list(order)][:depth].sum()
            for order in permutations(range(6))
            if all(scores[a] >= scores[b] for a, b in pairwise(order))
        ]
        assert found(scores, witness, np.array([depth]))[0] == pytest.approx(np.mean(counts))


def test_cell_figures_equal_a_slow_count():
    random = np.random.default_rng(5)
    scores, witness = random.permutation(60).astype(float), random.random(60) < 0.2
    best = sorted(range(60), key=lambda cell: -scores[cell])
    figures = cell_metrics(scores, witness)
    for depth in DEPTHS:
        hits = sum(witness[cell] for cell in best[:depth])
        assert figures[f"recall_at_{depth}"] == pytest.approx(hits / witness.sum())
        assert figures[f"precision_at_{depth}"] == pytest.approx(hits / min(depth, 60))
        assert figures[f"enrichment_at_{depth}"] == pytest.approx(hits / min(depth, 60) / witness.mean())
    top = best[: witness.sum()]
    assert figures["recall_at_witnesses"] == pytest.approx(np.mean([witness[cell] for cell in top]))
    assert figures["auc"] == pytest.approx(reference.roc_auc_score(witness, scores))


def test_random_scores_are_chance_and_constant_ones_exactly():
    random = np.random.default_rng(0)
    witness = np.arange(200) < 20
    drawn = [cell_metrics(random.random(200), witness) for _ in range(400)]
    constant = cell_metrics(np.zeros(200), witness)
    for name, chance in (("auc", 0.5), ("enrichment_at_10", 1), ("recall_at_50", 0.25), ("precision_at_20", 0.1)):
        assert constant[name] == pytest.approx(chance)
        assert np.mean([figures[name] for figures in drawn]) == pytest.approx(chance, rel=0.1)


def test_perfect_order():
    witness = np.arange(200) < 20
    figures = cell_metrics(-np.arange(200.0), witness)
    assert figures["auc"] == figures["average_precision"] == figures["recall_at_witnesses"] == 1
    assert figures["recall_at_10"] == 0.5
    assert figures["enrichment_at_10"] == 10


def test_a_slide_without_witness_has_a_precision_only():
    figures = cell_metrics(np.arange(5.0), np.zeros(5, dtype=bool))
    assert {name for name, value in figures.items() if not math.isnan(value)} == {f"precision_at_{k}" for k in DEPTHS}
    assert figures["precision_at_10"] == 0


def test_a_slide_of_witnesses_only_has_no_auc():
    figures = cell_metrics(np.arange(5.0), np.ones(5, dtype=bool))
    assert {name for name, value in figures.items() if math.isnan(value)} == {"auc"}
    assert figures["recall_at_10"] == figures["precision_at_10"] == figures["enrichment_at_400"] == 1


def test_a_slide_without_cells_has_nothing():
    figures = cell_metrics(np.empty(0), np.empty(0, dtype=bool))
    assert all(map(math.isnan, figures.values()))


def test_mean_over_slides_leaves_undefined_ones_out():
    values = {"a": np.array([1.0, np.nan, 3.0, 5.0]), "b": np.full(4, np.nan)}
    means = mean_over_slides(values, ["p", "q", "r", "r"], Bootstrap(200))
    assert means["a"].value == 3
    assert 1 <= means["a"].low < 3 < means["a"].high <= 5
    assert all(map(math.isnan, means["b"]))
