"""Every kind of witness differs from ordinary cells in its own measure and in no other."""

import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as regions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milscope.slides._drawn_cells import DYES, Optics, _nuclei, draw_squamous
from milscope.slides._drawn_shapes import ANGLES, warped
from milscope.slides._drawn_witnesses import ORDINARY, SMALL, WITNESSES, draw_witness
from milscope.slides._synthetic import plan_smear, render_smear

CELLS = 36
OPTICS = Optics(0.5, np.array(list(DYES.values()), np.float32), 0.2)
MEASURES = ["inclusion", "nucleus", "chromatin", "outline", "colour"]


def test_shares_sum_to_one():
    for shares in (ORDINARY, *(witness.among for witness in WITNESSES.values())):
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", WITNESSES)
def test_a_witness_differs_in_its_own_measure_only(kind):
    ordinary, odd = measured(kind, witness=False), measured(kind, witness=True)
    truth = np.repeat([0, 1], CELLS)
    for name, *values in zip(MEASURES, ordinary.T, odd.T, strict=True):
        auc = roc_auc_score(truth, np.concatenate(values))
        assert auc > 0.85 if name == kind else 0.25 < auc < 0.75, f"{name} of {kind}: {auc:.2f}"


def test_a_cell_with_a_larger_nucleus_takes_as_much_light():
    ordinary = SMALL["intermediate"]._replace(two=0.0, halo=0.0)
    odd = WITNESSES["nucleus"].changed(ordinary)._replace(orange=ordinary.orange)
    light = [sum(taken(draw_squamous(cell, OPTICS, np.random.default_rng(i))) for i in range(12)) for cell in (ordinary, odd)]
    assert light[1] == pytest.approx(light[0], rel=0.04)


def test_a_nucleus_with_odd_chromatin_takes_as_much_light():
    odd = WITNESSES["chromatin"].changed(SMALL["intermediate"])
    for number in range(6):
        smooth, coarse = (taken(_nuclei(cell, 0.5, np.random.default_rng(number))[None])
                          for cell in (odd._replace(chromatin=0.0), odd))
        assert coarse == pytest.approx(smooth, rel=3e-3)


def test_a_warped_outline_holds_the_same_area():
    circle = np.full(ANGLES, 20, np.float32)
    for number in range(20):
        line = warped(circle, np.random.default_rng(number))
        assert np.square(line).mean() == pytest.approx(400, rel=1e-3)
        assert line.max() / line.min() > 1.4


def test_mean_colour_tells_the_kind_colour_and_no_other():
    """Ten slides of witnesses of every kind; learned on six, tested on the others."""
    colour, kinds = colours()
    for kind in WITNESSES:
        chosen = [[i for i, each in enumerate(slide) if each == kind or each not in WITNESSES] for slide in kinds]
        values = [slide[rows] for slide, rows in zip(colour, chosen, strict=True)]
        truth = [np.array(slide)[rows] == kind for slide, rows in zip(kinds, chosen, strict=True)]
        auc = np.mean([halves_auc(values, truth, half) for half in (0, 1)])
        assert auc > 0.8 if kind == "colour" else 0.35 < auc < 0.65, f"{kind}: {auc:.2f}"


def test_alone_nothing_of_a_cell_lies_outside_its_square():
    plan = plan_smear(9, 0, 1.0, np.random.SeedSequence(1), alone=48.0)
    plans = [plan._replace(kinds=["intermediate"] * 8 + [last]) for last in ("superficial", "debris")]
    one, other = (render_smear(each, 1.0, np.random.SeedSequence(2)) for each in plans)
    x, y = plan.places[-1]
    square = np.s_[y - 24 : y + 24, x - 24 : x + 24]
    assert not np.array_equal(one[square], other[square])
    one[square] = other[square]
    assert np.array_equal(one, other)


def taken(density):
    return (1 - np.exp(-density)).sum((1, 2))


def measured(kind, *, witness):
    rng = np.random.default_rng(7)
    among = WITNESSES[kind].among
    drawn = []
    for _ in range(CELLS):
        if witness:
            drawn.append(measures(draw_witness(kind, OPTICS, rng)))
        else:
            drawn.append(measures(draw_squamous(SMALL[rng.choice(list(among), p=list(among.values()))], OPTICS, rng)))
    return np.array(drawn)


def measures(density):
    """Dark spots beside the nucleus, size and unevenness of the nucleus, how far from round the cell is, how purple."""
    middle = len(density[0]) // 2
    red = density[0]
    level = np.median(red[density.sum(0) > 0.1])
    places, _ = regions(gaussian_filter(red, 0.7) > level + 0.22)
    sizes = np.bincount(places.ravel(), minlength=2)[1:]
    own = places[middle - 8 : middle + 9, middle - 8 : middle + 9]
    main = np.bincount(own[own > 0], minlength=2).argmax() if own.any() else 0
    nucleus = places == main if main else np.zeros_like(places, bool)
    inner = nucleus & (gaussian_filter(nucleus.astype(float), 1.5) > 0.9)
    spots = sum(size >= 8 for i, size in enumerate(sizes) if i + 1 != main)
    body = density.sum(0) > 0.12
    y, x = np.nonzero(body)
    around = np.hypot(y - y.mean(), x - x.mean())
    far = np.sqrt(np.mean(np.square(around)) / (body.sum() / (2 * np.pi)))
    cytoplasm = body & ~nucleus
    tint = np.median(density[:, cytoplasm], 1)
    return [spots, nucleus.sum(), red[inner].std() / red[inner].mean() if inner.any() else 0, far,
            min(tint[0], tint[2]) / max(tint[0], tint[2]) * tint[1] / tint.sum()]


@functools.cache
def colours():
    means, kinds = [], []
    for i in range(10):
        plan = plan_smear(90, 50, 2.0, np.random.SeedSequence((i, 0)), witness="mixed", alone=48.0)
        image = render_smear(plan, 2.0, np.random.SeedSequence((i, 1)))
        means.append(np.array([image[y - 12 : y + 12, x - 12 : x + 12].mean((0, 1)) for x, y in plan.places]))
        kinds.append(plan.kinds)
    return means, kinds


def halves_auc(values, truth, learn):
    values = [slide - slide.mean(0) for slide in values]
    seen, new = ((np.concatenate(values[half::2]), np.concatenate(truth[half::2])) for half in (learn, 1 - learn))
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced")).fit(*seen)
    return roc_auc_score(new[1], model.decision_function(new[0]))
