import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from milscope.slides import DamagedError, decode_pixels, encode_pixels


def noise(height=40, width=30):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_kinds(kind):
    assert (decode_pixels(saved(Image.fromarray(noise()), kind)) == noise()).all()


def test_png_at_quality_100_is_exact_and_jpeg_is_near():
    flat = np.full((32, 32, 3), (200, 120, 160), dtype=np.uint8)
    assert (decode_pixels(encode_pixels(noise(), 100)) == noise()).all()
    assert encode_pixels(noise(), 100)[:4] == b"\x89PNG"
    assert np.abs(decode_pixels(encode_pixels(flat, 95)).astype(int) - flat).max() <= 2


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        assert (decode_pixels(saved(Image.fromarray(deep), kind))[..., 0] == deep >> 8).all()


def test_transparent_is_white_and_grey_and_palette_are_colour():
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (decode_pixels(saved(clear, "PNG")) == 255).all()
    assert (decode_pixels(saved(Image.new("L", (4, 4), 7), "PNG")) == 7).all()
    palette = Image.new("RGB", (4, 4), (9, 8, 7)).quantize(4)
    assert (decode_pixels(saved(palette, "PNG")) == (9, 8, 7)).all()


def test_cmyk_jpeg_is_read():
    pixels = decode_pixels(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG"))
    assert pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_truncated(kind):
    whole = saved(Image.fromarray(noise(200, 200)), kind)
    for share in (0.01, 0.3, 0.9):
        with pytest.raises(DamagedError):
            decode_pixels(whole[: int(len(whole) * share)])


def test_empty_text_and_bombs():
    with pytest.raises(DamagedError, match="empty"):
        decode_pixels(b"")
    with pytest.raises(DamagedError, match="not an image"):
        decode_pixels(b"slide,x,y\n")
    for kind in ("PNG", "JPEG"):
        with pytest.raises(DamagedError, match="more than"):
            decode_pixels(saved(Image.new("L", (2000, 1001)), kind), limit=2_000_000)
    with pytest.raises(DamagedError):
        decode_pixels(saved(Image.new("1", (20000, 20000)), "PNG"))


@pytest.mark.filterwarnings("ignore")
def test_mutated_bytes_are_read_or_damaged_never_another_error():
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "TIFF", "BMP"):
        whole = np.frombuffer(saved(Image.fromarray(noise()), kind), dtype=np.uint8)
        for _ in range(40):
            bytes_ = whole.copy()
            bytes_[rng.integers(0, min(200, len(whole)), 3)] = rng.integers(0, 256, 3)
            with contextlib.suppress(DamagedError):
                decode_pixels(bytes_.tobytes(), limit=1_000_000)
