import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from sklearn import metrics as reference

from milscope.metrics import (
    DEPTHS,
    SLIDE_METRICS,
    Bootstrap,
    SlideScores,
    bounds,
    cell_metrics,
    found,
    mean_over_slides,
    resample,
    slide_metrics,
    weighted_slide_metrics,
)


def example(seed=0, slides=40, per_patient=2, digits=1):
    """Slides with many equal probabilities, two a patient."""
    random = np.random.default_rng(seed)
    labels = np.arange(slides) % 3 == 0
    probabilities = np.clip(0.3 * labels + 0.7 * random.random(slides), 0, 1).round(digits)
    return SlideScores(labels, probabilities, probabilities >= 0.5, [f"p{i // per_patient}" for i in range(slides)])


def by_scikit(scores, weights):
    labels, probabilities, called = scores[:3]
    sensitivity = reference.recall_score(labels, called, sample_weight=weights)
    specificity = reference.recall_score(~labels, ~called, sample_weight=weights)
    return {
        "auc": reference.roc_auc_score(labels, probabilities, sample_weight=weights),
        "average_precision": reference.average_precision_score(labels, probabilities, sample_weight=weights),
        "f1": reference.f1_score(labels, called, sample_weight=weights),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "brier": np.average((probabilities - labels) ** 2, weights=weights),
    }


def test_every_draw_is_what_scikit_learn_says_of_the_drawn_slides():
    scores = example()
    weights = np.random.default_rng(1).integers(0, 4, (20, 40)).astype(float)
    ours = weighted_slide_metrics(scores, weights)
    assert tuple(ours) == SLIDE_METRICS
    for draw, row in enumerate(weights):
        for name, value in by_scikit(scores, row).items():
            assert ours[name][draw] == pytest.approx(value, abs=1e-12), name


def test_values_are_those_of_the_undrawn_slides():
    scores = example()
    plain = weighted_slide_metrics(scores, np.ones((1, 40)))
    for name, interval in slide_metrics(scores, Bootstrap(50)).items():
        assert interval.value == pytest.approx(plain[name][0])
        assert interval.low <= interval.value <= interval.high


def test_auc_is_the_share_of_ordered_pairs_with_ties_as_half():
    scores = example()
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a in scores.probabilities[scores.labels]
        for b in scores.probabilities[~scores.labels]
    ]
    assert slide_metrics(scores, Bootstrap(1))["auc"].value == pytest.approx(np.mean(pairs))


def test_perfect_scores_are_perfect_and_reversed_ones_are_not():
    labels = np.arange(20) % 2 == 0
    perfect = slide_metrics(SlideScores(labels, labels * 1.0, labels, [str(i) for i in range(20)]), Bootstrap(20))
    assert all(perfect[name] == (1, 1, 1) for name in SLIDE_METRICS[:-1])
    assert perfect["brier"] == (0, 0, 0)
    wrong = slide_metrics(SlideScores(labels, 1.0 - labels, ~labels, [str(i) for i in range(20)]), Bootstrap(20))
    assert wrong["auc"].value == wrong["f1"].value == 0
    assert wrong["brier"].value == 1


@pytest.mark.parametrize(("label", "defined"), [(True, {"average_precision", "f1", "sensitivity", "brier"}),
                                                (False, {"specificity", "brier"})])
def test_figures_that_need_an_absent_class_are_nan(label, defined):
    scores = example()._replace(labels=np.full(40, label))
    figures = slide_metrics(scores, Bootstrap(5))
    assert {name for name, figure in figures.items() if not math.isnan(figure.value)} == defined
    assert {name for name, figure in figures.items() if not math.isnan(figure.low)} == defined


def test_f1_without_a_call_is_zero():
    assert slide_metrics(example()._replace(called=np.zeros(40, dtype=bool)), Bootstrap(5))["f1"] == (0, 0, 0)


def test_patients_are_drawn_whole_and_in_their_strata():
    patients, positive = list("aabbbcdde"), np.array([1, 0, 0, 0, 0, 0, 0, 1, 1], dtype=bool)
    draws = np.concatenate(list(resample(patients, positive, Bootstrap(200, seed=3))))
    assert draws.shape == (200, 9)
    for slides in ([0, 1], [2, 3, 4], [6, 7]):
        assert (draws[:, slides] == draws[:, slides[:1]]).all()
    one_each = draws[:, [0, 2, 5, 6, 8]]
    assert (one_each[:, [0, 3, 4]].sum(1) == 3).all()
    assert (one_each[:, [1, 2]].sum(1) == 2).all()
    assert one_each.mean(0) == pytest.approx(1, abs=0.2)


def test_draws_do_not_depend_on_the_size_of_blocks(monkeypatch):
    scores = example()
    whole = np.concatenate(list(resample(scores.patients, scores.labels, Bootstrap(50))))
    monkeypatch.setattr("milscope.metrics._BLOCK", 300)
    blocks = list(resample(scores.patients, scores.labels, Bootstrap(50)))
    assert len(blocks) > 1
    assert (np.concatenate(blocks) == whole).all()


def test_same_seed_same_interval_other_seed_another():
    first, again, other = (slide_metrics(example(), Bootstrap(100, seed=seed))["auc"] for seed in (1, 1, 2))
    assert first == again != other


def test_interval_covers_the_true_auc_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    true = 0.7602499389065233  # two unit normals one apart: Phi(1 / sqrt 2)
    covered = []
    for repeat in range(200):
        labels = np.arange(80) % 2 == 0
        logits = random.normal(size=80) + labels
        scores = SlideScores(labels, 1 / (1 + np.exp(-logits)), labels, [str(i) for i in range(80)])
        interval = slide_metrics(scores, Bootstrap(200, 0.9, repeat))["auc"]
        covered.append(interval.low <= true <= interval.high)
    assert 0.82 <= np.mean(covered) <= 0.96


def test_slides_of_one_patient_do_not_narrow_the_interval():
    once = example(slides=30, per_patient=1)
    thrice = SlideScores(*(np.repeat(part, 3) for part in once[:3]), np.repeat(once.patients, 3).tolist())
    assert slide_metrics(once, Bootstrap(200))["auc"] == pytest.approx(slide_metrics(thrice, Bootstrap(200))["auc"])


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


def test_bounds_are_percentiles_of_what_is_defined():
    assert bounds(np.array([np.nan, *np.arange(101.0)]), 0.9) == pytest.approx((5, 95))
    assert all(map(math.isnan, bounds(np.array([np.nan]), 0.9)))
