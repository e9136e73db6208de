import functools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as regions
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from milscope.slides._synthetic import ABNORMAL, ALIKE, MARGIN, NORMAL, plan_smear, render_smear


def seed(*numbers):
    return np.random.SeedSequence(numbers)


def test_shares_sum_to_one():
    assert sum(NORMAL.values()) == pytest.approx(1)
    assert sum(ABNORMAL.values()) == pytest.approx(1)


def test_every_crop_of_80_microns_lies_on_the_slide():
    for mpp in (0.25, 0.5, 2.0):
        plan = plan_smear(50, 5, mpp, seed(0))
        assert plan.places.min() * mpp >= MARGIN - mpp
        assert (plan.side - plan.places.max()) * mpp >= MARGIN - mpp


def test_the_order_of_cells_tells_nothing():
    ranks = [np.flatnonzero(plan_smear(40, 10, 0.5, seed(i)).abnormal).mean() for i in range(40)]
    assert np.mean(ranks) == pytest.approx(19.5, abs=1.5)


def test_same_seed_same_slide_other_seed_other_slide():
    plan = plan_smear(10, 2, 1.0, seed(1))
    image = render_smear(plan, 1.0, seed(2))
    assert np.array_equal(image, render_smear(plan, 1.0, seed(2)))
    assert not np.array_equal(image, render_smear(plan, 1.0, seed(3)))


def test_a_seed_object_can_be_used_twice():
    plan, once = plan_smear(10, 0, 1.0, seed(1)), seed(2)
    assert np.array_equal(render_smear(plan, 1.0, once), render_smear(plan, 1.0, once))


def test_stain_does_not_know_the_label():
    normal, abnormal = (plan_smear(10, witnesses, 1.0, seed(1)) for witnesses in (0, 10))
    glass = [np.percentile(render_smear(plan, 1.0, seed(4)), 95, axis=(0, 1)) for plan in (normal, abnormal)]
    assert np.allclose(*glass, atol=1)


def test_a_third_of_the_glass_is_covered():
    image = render_smear(plan_smear(120, 0, 1.0, seed(5)), 1.0, seed(6)).min(-1)
    assert 0.2 < (image < np.percentile(image, 95) - 20).mean() < 0.5


class TestWhatTellsAbnormal:
    """Twelve slides a seed, half abnormal with a witness rate of 30 %; learned on six, tested on the others."""

    SLIDES, CELLS, WITNESSES, SEEDS = 12, 50, 15, 3

    def test_not_the_mean_colour_of_a_cell(self):
        for half in (16, 24):
            scores = [self.colour_auc(number, half, centre=centre) for number in range(self.SEEDS) for centre in (0, 1)]
            assert np.mean(scores) <= 0.6, f"crops of {half} microns half side"

    def test_but_the_nucleus(self):
        scores = []
        for number in range(self.SEEDS):
            crops, truth, _ = self.cells(number)
            scores.append(roc_auc_score(truth, [dark_area(crop) for crop in crops]))
        assert np.mean(scores) >= 0.8

    def colour_auc(self, number, half, *, centre):
        crops, truth, slide = self.cells(number)
        middle = crops.shape[1] // 2
        window = slice(middle - 2 * half, middle + 2 * half)
        colour = crops[:, window, window].mean((1, 2))
        if centre:
            colour = colour - np.stack([colour[slide == i].mean(0) for i in range(self.SLIDES)])[slide]
        return np.mean(halves_auc(colour, truth, slide // 2 % 2))

    @staticmethod
    @functools.cache
    def cells(number):
        crops, truth, slide = [], [], []
        for i in range(TestWhatTellsAbnormal.SLIDES):
            plan = plan_smear(TestWhatTellsAbnormal.CELLS, TestWhatTellsAbnormal.WITNESSES * (i % 2), 0.5, seed(number, i, 0))
            image = render_smear(plan, 0.5, seed(number, i, 1))
            crops += [image[y - 48 : y + 48, x - 48 : x + 48] for x, y in plan.places]
            truth += plan.abnormal
            slide += [i] * len(plan.places)
        return np.stack(crops), np.array(truth), np.array(slide)


def test_the_mean_colour_of_a_slide_does_not_tell_its_label():
    scores = []
    for number in range(3):
        truth = np.arange(60) % 2
        plans = [plan_smear(15, 5 * int(label), 2.0, seed(number, i, 0)) for i, label in enumerate(truth)]
        colour = np.stack([render_smear(plan, 2.0, seed(number, i, 1)).mean((0, 1)) for i, plan in enumerate(plans)])
        scores += halves_auc(colour, truth, np.arange(60) // 2 % 2)
    assert np.mean(scores) <= 0.6


class TestWhatTellsFindings:
    """Slides of three findings, each by chance on half of them, in one of twelve cells."""

    SLIDES, CELLS, SHOWN = 120, 12, 1

    def test_not_the_colours_of_a_slide(self):
        means, spreads, truth = self.colours()
        for column, finding in enumerate(("abnormal", "candida", "clue")):
            for name, values in (("mean", means), ("mean and spread over crops", spreads)):
                auc = np.mean(halves_auc(values, truth[:, column], np.arange(self.SLIDES) % 2))
                assert 0.35 <= auc <= 0.65, f"{name} for {finding}"

    @staticmethod
    @functools.cache
    def colours():
        own = TestWhatTellsFindings
        truth = np.random.default_rng(8).random((own.SLIDES, 3)) < 0.5
        means, spreads = [], []
        for i, (abnormal, candida, clue) in enumerate(own.SHOWN * truth.astype(int)):
            plan = plan_smear(own.CELLS, int(abnormal), 2.0, seed(i, 0), {"candida": int(candida), "clue": int(clue)})
            image = render_smear(plan, 2.0, seed(i, 1))
            crops = np.stack([image[y - 12 : y + 12, x - 12 : x + 12] for x, y in plan.places]).astype(float)
            means.append(image.mean((0, 1)))
            spreads.append(np.concatenate([crops.mean((0, 1, 2)), crops.mean((1, 2)).std(0), crops.std((1, 2)).mean(0)]))
        return np.stack(means), np.stack(spreads), truth


def test_on_the_mean_slide_look_alikes_have_their_shares_and_slides_differ():
    plans = [plan_smear(100, 0, 1.0, seed(i), {"candida": 0, "clue": 0}) for i in range(60)]
    counts = {kind: np.array([plan.kinds.count(kind) for plan in plans]) for kind in ALIKE}
    every = 1 + sum(ALIKE.values())
    for kind, share in ALIKE.items():
        assert counts[kind].mean() == pytest.approx(100 * share / every, rel=0.35)
        assert counts[kind].var() > 1.5 * counts[kind].mean()  # chance alone: less than the mean


def halves_auc(values, truth, half):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return [roc_auc_score(truth[half != learn], model.fit(values[half == learn], truth[half == learn])
                          .decision_function(values[half != learn])) for learn in (0, 1)]


def dark_area(crop):
    """Pixels of the largest dark connected region that touches the middle 10 microns."""
    red = gaussian_filter(crop[..., 0].astype(float), 1)
    dark, _ = regions(red < min(0.62 * np.median(red), 120))
    middle = slice(len(crop) // 2 - 10, len(crop) // 2 + 10)
    return np.bincount(dark.ravel())[np.setdiff1d(dark[middle, middle], [0])].max(initial=0)
