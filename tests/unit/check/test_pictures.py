import numpy as np
import pytest
from tests.drawn_pictures import brightened, drawn_pictures, encoded, shrunken

from milscope.check._pictures import KEPT, SIDE, alike, contrast, signatures, standard, waves
from milscope.store import decode


def small(pictures):
    return np.stack([decode(encoded(each), SIDE) for each in pictures])


def marked(pictures):
    coarse = waves(small(pictures))
    return signatures(coarse, standard(coarse))


def test_waves_are_the_cosine_transform_written_out():
    pixels = small(drawn_pictures(2))
    grey = pixels.astype(float) @ [0.299, 0.587, 0.114]
    place = np.arange(SIDE) + 0.5
    slow = {}
    for u in range(KEPT):
        for v in range(KEPT):
            wave = np.outer(np.cos(np.pi * u * place / SIDE), np.cos(np.pi * v * place / SIDE))
            slow[u, v] = (grey * wave / np.sqrt((wave**2).sum())).sum((1, 2))
    found = waves(pixels)
    order = sorted(slow, key=lambda uv: (uv[0] + uv[1], uv))[1:]
    assert np.allclose(found, np.stack([slow[uv] for uv in order], axis=1), rtol=1e-3, atol=0.05)


def test_a_plain_picture_has_no_contrast():
    pixels = np.concatenate([np.full((1, SIDE, SIDE, 3), 200, np.uint8), small(drawn_pictures(1))])
    plain, drawn = contrast(waves(pixels))
    assert plain < 0.01 < 10 < drawn


@pytest.mark.parametrize("change", [
    lambda pixels: decode(encoded(pixels, "JPEG", quality=40), 48), shrunken, brightened], ids=["jpeg", "smaller", "brighter"])
def test_a_changed_copy_is_found_among_hundreds(change):
    pictures = list(drawn_pictures(300))
    copies = [change(pictures[index]) for index in (3, 77, 150)]
    group = alike(marked([*pictures, *copies]), 0.95)
    assert [group[3], group[77], group[150]] == list(group[300:])
    assert len(set(group)) == 300


def test_mirrored_and_shifted_pictures_are_other_pictures():
    pictures = list(drawn_pictures(100))
    group = alike(marked([*pictures, pictures[0][:, ::-1], np.roll(pictures[1], 6, 0)]), 0.95)
    assert len(set(group)) == 102


def test_every_pair_that_brute_force_finds_is_found_but_one_in_a_hundred():
    random = np.random.default_rng(1)
    first = random.normal(size=(3000, 143))
    second = first[:1000] + random.normal(size=(1000, 143)) * random.uniform(0.05, 0.33, (1000, 1))
    marks = np.clip(np.rint(np.concatenate([first, second]) * 31), -127, 127).astype(np.int8)
    unit = marks / np.linalg.norm(marks.astype(float), axis=1, keepdims=True)
    pairs = np.argwhere(np.triu(unit @ unit.T >= 0.95, 1))
    group = alike(marks, 0.95)
    together = group[pairs[:, 0]] == group[pairs[:, 1]]
    assert len(pairs) > 500
    assert together.mean() > 0.99
    assert len(marks) - len(set(group)) == together.sum()


def test_many_pictures_all_alike_are_one_group():
    random = np.random.default_rng(0)
    marks = random.integers(-120, 120, (1, 143)) + random.integers(-2, 3, (20_000, 143))
    assert set(alike(marks.astype(np.int8), 0.95)) == {0}


@pytest.mark.parametrize("number", [0, 1])
def test_none_and_one(number):
    assert len(alike(marked(drawn_pictures(1))[:number], 0.95)) == number


def test_two_identical_pictures_are_alike_though_their_mean_is_themselves():
    picture = drawn_pictures(1)[0]
    assert len(set(alike(marked([picture, brightened(picture, 1.02)]), 0.95))) == 1
