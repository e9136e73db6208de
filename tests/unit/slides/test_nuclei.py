"""Nuclei whose places are known: drawn discs, rendered smears; windows, borders, glass, and what is refused."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from milscope.slides import DamagedError, SlideReader, find_nuclei, open_slide, plan_smear, render_smear
from milscope.slides import _nuclei as nuclei
from milscope.types import InputError

GLASS, CYAN, ORANGE, CHROMATIN = (240, 240, 240), (150, 205, 210), (235, 150, 70), (90, 50, 120)
MPP = 0.5


class Picture(SlideReader):
    """Pixels in memory, with levels if asked for; remembers what was read."""

    def __init__(self, pixels, tmp_path, levels=1):
        sizes = tuple((pixels.shape[1] >> level, pixels.shape[0] >> level) for level in range(0, 2 * levels, 2))
        super().__init__(tmp_path, sizes, MPP)
        self.stored = [pixels] + [pixels.reshape(height, 4**level, width, 4**level, 3).mean((1, 3)).astype(np.uint8)
                                  for level, (width, height) in enumerate(sizes) if level]
        self.reads = []

    def close(self):
        pass

    def _read(self, place, size, level):
        self.reads.append((level, *size))
        return self.stored[level][place[1] : place[1] + size[1], place[0] : place[0] + size[0]].copy()


def disc(picture, x, y, diameter, colour):
    """Draws a disc; the diameter is in microns."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    picture[np.hypot(columns + 0.5 - x, rows + 0.5 - y) < diameter / MPP / 2] = colour


def glass(width, height):
    return np.full((height, width, 3), GLASS, dtype=np.uint8)


@pytest.fixture
def search(tmp_path):
    def find(picture, **settings):
        reader = picture if isinstance(picture, SlideReader) else Picture(picture, tmp_path)
        return find_nuclei(reader, "s", **{"diameter": 8.0, "mpp": MPP} | settings)

    return find


@pytest.fixture
def field():
    """A field of 40 nuclei of 5 to 9 microns in cells, on a lattice with offsets; their places."""
    random = np.random.default_rng(0)
    picture, places = glass(640, 400), []
    for row in range(5):
        for column in range(8):
            x, y = 40 + 80 * column + random.uniform(-8, 8), 40 + 80 * row + random.uniform(-8, 8)
            disc(picture, x, y, 32, (CYAN, ORANGE)[(row + column) % 2])
            disc(picture, x + 3, y - 5, random.uniform(5, 9), CHROMATIN)
            places.append((x + 3, y - 5))
    return picture, np.array(places)


def test_every_nucleus_once_and_nothing_else(search, field):
    picture, places = field
    found = search(picture)
    away, which = KDTree(places).query(found[["x", "y"]])
    assert away.max() * MPP < 1.0
    assert sorted(which) == list(range(len(places)))


def test_a_cell_table_of_named_places(search):
    picture = glass(200, 160)
    disc(picture, 60, 90, 8, CHROMATIN)
    (cell,) = search(picture).itertuples(index=False)
    assert cell._fields == ("cell", "x", "y")
    assert cell.cell == f"s:{cell.x:.10g},{cell.y:.10g}"
    assert np.hypot(cell.x - 60, cell.y - 90) * MPP < 0.75  # half a pixel of the search on either axis


@pytest.mark.parametrize("lamp", [0.7, 1.0])
def test_brightness_of_the_lamp_does_not_matter(search, field, lamp):
    picture, places = field
    assert len(search((picture * lamp).astype(np.uint8))) == len(places)


@pytest.mark.parametrize("place", [(2, 90), (198, 90), (60, 1), (60, 159), (1, 1)])
def test_a_nucleus_that_touches_the_border(search, place):
    picture = glass(200, 160)
    disc(picture, *place, 9, CHROMATIN)
    (cell,) = search(picture).itertuples()
    assert 0 <= cell.x <= 200
    assert 0 <= cell.y <= 160
    assert np.hypot(cell.x - place[0], cell.y - place[1]) * MPP < 3


def test_nuclei_that_touch_are_two(search):
    picture = glass(200, 160)
    disc(picture, 80, 80, 8, CHROMATIN)
    disc(picture, 80 + 8 / MPP, 80, 8, CHROMATIN)
    assert len(search(picture)) == 2


@pytest.mark.parametrize("size", [4, 6, 8, 12, 16])
def test_small_and_large_nuclei_are_found(search, size):
    """Evenly dark ones above 9 microns more than once, which the documentation says."""
    picture = glass(300, 300)
    disc(picture, 150, 150, size, CHROMATIN)
    found = search(picture)
    assert np.hypot(found["x"] - 150, found["y"] - 150).max() * MPP < max(1, size / 2)
    assert len(found) == 1 or size > 9


def test_a_pale_stain_is_judged_like_a_dark_one(search, field):
    picture, places = field
    pale = (240 * (picture / 240.0) ** 0.4).astype(np.uint8)
    assert len(search(pale)) == len(places)


def test_cytoplasm_and_specks_are_no_nuclei(search):
    picture = glass(400, 300)
    disc(picture, 100, 100, 40, CYAN)
    disc(picture, 250, 100, 40, ORANGE)
    disc(picture, 250, 220, 1.5, CHROMATIN)
    disc(picture, 100, 220, 8, (100, 160, 170))  # as dark as a nucleus in red, but cyan
    with pytest.raises(DamagedError, match="no nucleus of about 8 microns"):
        search(picture)


def test_what_was_not_scanned_is_no_nucleus(search, field):
    picture, places = field
    whole = np.concatenate([picture, np.zeros_like(picture)])
    disc(whole, 300, 700, 8, GLASS)
    found = search(whole)
    assert len(found) == len(places)
    assert found["y"].max() < 400


@pytest.mark.parametrize("side", [20, 37, 64, 150])
def test_windows_change_nothing(search, field, monkeypatch, side):
    picture, _ = field
    picture[:, 320:] = picture[:, :320]  # nuclei also on the borders of windows
    whole = search(picture).sort_values(["y", "x"], ignore_index=True)
    monkeypatch.setattr(nuclei, "WINDOW", side)
    parts = search(picture).sort_values(["y", "x"], ignore_index=True)
    assert len(parts) == len(whole)
    np.testing.assert_allclose(parts[["x", "y"]], whole[["x", "y"]], atol=0.11)


def test_a_nucleus_on_the_corner_of_four_windows_is_found_once(search, monkeypatch):
    monkeypatch.setattr(nuclei, "WINDOW", 50)
    for offset in range(-4, 5):
        picture = glass(200, 200)
        disc(picture, 100 + offset / 2, 100 + offset / 2, 8, CHROMATIN)
        assert len(search(picture)) == 1


def test_bare_glass_is_not_read_and_windows_are_bounded(tmp_path, search, field, monkeypatch):
    monkeypatch.setattr(nuclei, "WINDOW", 100)
    picture, places = field
    slide = glass(3200, 3200)
    slide[1600:2000, 800:1440] = picture
    reader = Picture(slide, tmp_path, levels=3)
    found = search(reader)
    assert len(found) == len(places)
    fine = [size for level, *size in reader.reads if level == 0]
    assert 0 < len(fine) < 30  # of 256 windows
    assert max(map(max, fine)) < 2 * (100 + 2 * 30) + 20


def test_the_scale_is_in_microns(search, field):
    """The same picture at half the scale holds nuclei of half the diameter."""
    picture, places = field
    assert len(search(picture, diameter=4.0, mpp=MPP / 2)) == len(places)


def test_a_lower_least_finds_more(search, field):
    picture, places = field
    whole = np.concatenate([picture, glass(640, 100)])
    disc(whole, 300, 450, 8, (205, 190, 215))
    assert len(search(whole)) == len(places)
    assert len(search(whole, least=0.1)) == len(places) + 1


def test_haematoxylin_and_eosin(search):
    """Eosin shows in green, where nuclei of a Papanicolaou stain are looked for."""
    picture = glass(300, 160)
    disc(picture, 80, 80, 8, (90, 60, 140))
    disc(picture, 200, 80, 8, (225, 110, 160))
    assert len(search(picture)) == 2
    (cell,) = search(picture, stain="haematoxylin-eosin").itertuples()
    assert abs(cell.x - 80) < 2


def test_the_strongest_goes_first():
    """Three in a row: the middle one, the strongest, drives away both; were it weaker, both others would stay."""
    places = np.array([[0.0, 0], [3, 0], [6, 0], [50, 50]])
    assert list(nuclei._strongest(places, np.array([1.0, 3, 2, 1]), 4.0)) == [1, 3]
    assert list(nuclei._strongest(places, np.array([3.0, 1, 2, 1]), 4.0)) == [0, 2, 3]
    assert list(nuclei._strongest(places, np.array([3.0, 2, 1, 1]), 4.0)) == [0, 2, 3]  # the second is gone, so the third stays
    assert list(nuclei._strongest(np.empty((0, 2)), np.empty(0), 4.0)) == []


def test_as_one_after_the_other():
    random = np.random.default_rng(1)
    places, strength = random.uniform(0, 60, (400, 2)), random.integers(0, 20, 400) / 20
    kept = []
    for place in np.lexsort((places[:, 0], places[:, 1], -strength)):
        if all(np.hypot(*(places[place] - places[other])) >= 3.2 for other in kept):
            kept.append(place)
    assert list(nuclei._strongest(places, strength, 3.2)) == sorted(kept)


def test_on_rendered_smears(tmp_path):
    """Of the cells of a rendered smear that are squamous, nearly all are found, with few more candidates than cells."""
    plan = plan_smear(60, 10, MPP, np.random.SeedSequence(1))
    image = render_smear(plan, MPP, np.random.SeedSequence(2))
    found = find_nuclei(Picture(image, tmp_path), "s", diameter=8.0, mpp=MPP)
    cells = np.array([kind not in ("debris", "neutrophils", "degenerated") for kind in plan.kinds])
    away, _ = KDTree(found[["x", "y"]]).query(plan.places[cells])
    assert (away * MPP < 4).mean() >= 0.95
    assert len(found) < 4 * len(plan.kinds)


def test_an_unknown_stain(search):
    with pytest.raises(InputError, match=r"`stain` should be one of papanicolaou, .*Found pap\."):
        search(glass(50, 50), stain="pap")


def test_an_image_too_coarse_for_nuclei(search):
    with pytest.raises(DamagedError, match=r"a nucleus of 8 microns is 3\.2 pixels wide at 2\.5"):
        search(glass(500, 500), mpp=2.5)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (1, 400)])
def test_a_tiny_image(search, size):
    with pytest.raises(DamagedError, match="no nucleus"):
        search(glass(*size))


def test_a_plain_file(tmp_path, field):
    from PIL import Image

    picture, places = field
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as reader:
        assert len(find_nuclei(reader, "a", diameter=8.0, mpp=MPP)) == len(places)
