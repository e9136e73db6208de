from pathlib import Path

import numpy as np
import pytest

from milscope.store import CellStore, Pixels


@pytest.mark.parametrize("budget", [1.0, 0.0], ids=["kept on disk", "decoded at every use"])
def test_rows_count_through_the_slides(cells: Path, tmp_path: Path, budget: float) -> None:
    store = CellStore(cells)
    slides = store.slides[2:5]
    pixels = Pixels(store, slides, size=40, cache=tmp_path / "pixels.npy", budget=budget)
    rows = np.array([0, 31, 89, 29, 31])
    expected = np.concatenate([store.decode(slide, None, 40) for slide in slides])
    assert len(pixels) == 90
    assert (pixels[rows] == expected[rows]).all()
    assert (tmp_path / "pixels.npy").exists() == (budget > 0)


def test_a_finished_cache_is_used_again(cells: Path, tmp_path: Path) -> None:
    store, cache = CellStore(cells), tmp_path / "pixels.npy"
    first = Pixels(store, store.slides[:1], size=8, cache=cache, budget=1.0)[np.arange(5)].copy()
    written = cache.stat().st_mtime_ns
    again = Pixels(store, store.slides[:1], size=8, cache=cache, budget=1.0)[np.arange(5)]
    assert (first == again).all()
    assert cache.stat().st_mtime_ns == written
