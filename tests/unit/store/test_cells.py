import io

import numpy as np
import pytest
from PIL import Image

from milscope.configs import TileConfig
from milscope.slides import Cell, DamagedError, encode_pixels
from milscope.store import CellStore, CellWriter, Stage, decode
from milscope.types import InputError


def shade(grey, height=16, width=16):
    return np.full((height, width, 3), grey, dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    with Stage(tmp_path / "tile", "cells", TileConfig(), {}) as stage:
        for slide, count in (("001", 5), ("b", 2)):
            with CellWriter(stage.work / f"{slide}.arrow", slide) as writer:
                for i in range(count):
                    writer.add(Cell(f"{slide}:{i}", float(i), 0.0, 16.0, 16.0, None, encode_pixels(shade(10 * i), 100)))
        table = "slide,cells,skipped,width,height,mpp,file\n001,5,0,,,,\nb,2,0,9,9,0.5,\n"
        (stage.work / "slides.csv").write_text(table)
    return CellStore(tmp_path / "tile")


def test_slides_and_counts(store):
    assert store.slides == ["001", "b"]
    assert [store.count(slide) for slide in store.slides] == [5, 2]
    assert store.table("001")["cell"].to_pylist() == [f"001:{i}" for i in range(5)]
    assert store.table("001")["mpp"].to_pylist() == [None] * 5
    with pytest.raises(InputError, match="in the store"):
        store.table("c")


def test_rows_in_the_order_asked_for(store):
    everything = store.images("001")
    assert store.images("001", [3, 0, 3]) == [everything[3], everything[0], everything[3]]
    assert store.images("001", []) == []
    pixels = store.decode("001", np.array([4, 1]), 8)
    assert pixels.shape == (2, 8, 8, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[0] == 40).all()
    assert (pixels[1] == 10).all()
    assert store.decode("b", None, 4).shape == (2, 4, 4, 3)


def test_another_artifact_is_refused(tmp_path):
    with pytest.raises(InputError, match="finished `cells`"):
        CellStore(tmp_path)


def test_the_own_size_is_exact():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert (decode(encode_pixels(pixels, 100), 20) == pixels).all()


def test_other_sizes_are_anti_aliased():
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    assert np.abs(decode(encode_pixels(board, 100), 8).astype(int) - 127).max() <= 10
    assert decode(encode_pixels(board, 100), 100).shape == (100, 100, 3)


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (1, 40), (39, 40)])
def test_padding_has_the_border_colour_and_the_cell_in_the_middle(height, width):
    pixels = shade(200, height, width)
    if min(height, width) > 4:
        pixels[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = 0
    square = decode(encode_pixels(pixels, 100), 40)
    assert square.shape == (40, 40, 3)
    assert (square[0] == 200).all()
    assert (square[-1] == 200).all()
    if min(height, width) > 4:
        assert square[19, 19, 0] == 0


def test_a_large_jpeg_decoded_small_looks_the_same():
    y, x = np.mgrid[:800, :800]
    smooth = np.stack([127 + 100 * np.sin(x / 90), 127 + 100 * np.sin(y / 80), 0 * x + 90], 2).astype(np.uint8)
    image = encode_pixels(smooth, 95)
    whole = Image.open(io.BytesIO(image)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(decode(image, 64).astype(int) - np.asarray(whole)).max() <= 4


def test_damaged_bytes():
    with pytest.raises(DamagedError):
        decode(encode_pixels(shade(1, 64, 64), 90)[:200], 8)
