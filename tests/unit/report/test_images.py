import base64
import io

import numpy as np
import pytest
from PIL import Image

from milscope.report._images import crop, scale_bar, shrunk


def encoded(size, kind="PNG", noise=0):
    pixels = np.random.default_rng(0).integers(120 - noise, 121 + noise, (*size[::-1], 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def shown(picture):
    return base64.b64decode(picture.uri.partition(",")[2])


def test_a_small_crop_is_shown_as_it_is():
    image = encoded((64, 48))
    picture = crop(image)
    assert shown(picture) == image
    assert picture[1:] == (64, 48)


@pytest.mark.parametrize(("size", "kind", "noise"), [((64, 64), "TIFF", 0), ((600, 400), "BMP", 90), ((300, 200), "PNG", 90)])
def test_a_large_or_unusual_crop_is_made_small_and_keeps_its_shape(size, kind, noise):
    picture = crop(encoded(size, kind, noise))
    image = Image.open(io.BytesIO(shown(picture)))
    assert image.format == "JPEG"
    assert 64 <= max(image.size) <= max(size)
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)
    assert len(shown(picture)) < 8_000
    assert picture[1:] == size


def test_few_crops_may_take_more_room_than_many():
    image = encoded((150, 150), noise=20)
    assert shown(crop(image, 700_000)) == image
    assert len(shown(crop(image))) < len(image) / 5


def test_a_picture_is_as_large_as_its_room_allows(tmp_path):
    (tmp_path / "slide.png").write_bytes(encoded((800, 400), noise=60))
    steps = ((400, 80), (200, 60), (100, 50))
    large, small = (shrunk(tmp_path / "slide.png", steps, most) for most in (400_000, 12_000))
    assert large[1:] == (400, 200)
    assert small[1:] == (200, 100)
    assert len(small.data) <= 12_000


def test_what_cannot_be_read_is_left_out(tmp_path):
    assert crop(b"") is None
    assert crop(encoded((300, 300), noise=90)[:4000]) is None
    assert crop(encoded((300, 300), "JPEG", 90)[:4000]) is None
    assert shrunk(tmp_path / "none.jpg", ((9, 9),), 9) is None
    (tmp_path / "text.jpg").write_text("no image")
    assert shrunk(tmp_path / "text.jpg", ((9, 9),), 9) is None


@pytest.mark.parametrize("mpp", [0.11, 0.25, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("side", [32, 64, 300])
def test_the_scale_bar_is_as_long_as_it_says(side, mpp):
    bar = scale_bar(side, mpp)
    assert bar.percent / 100 * side * mpp == pytest.approx(bar.microns, rel=1e-3)
    assert 10 < bar.percent < 70


@pytest.mark.parametrize(("side", "mpp"), [(64, float("nan")), (64, 0.0), (64, -1.0), (64, float("inf")), (0, 0.5), (2, 0.1)])
def test_without_a_scale_there_is_no_bar(side, mpp):
    assert scale_bar(side, mpp) is None
