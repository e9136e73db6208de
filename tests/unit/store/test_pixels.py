from pathlib import Path

import numpy as np
import pytest

from milscope.store import CellStore, Pixels, decode, windows


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


@pytest.mark.parametrize("budget", [1.0, 0.0], ids=["kept on disk", "decoded at every use"])
def test_rows_count_slide_by_slide_window_by_window_cell_by_cell(cells: Path, tmp_path: Path, budget: float,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milscope.store._pixels.PART", 7)
    store, looks = CellStore(cells), windows(("1", "0.5"), "all")
    pixels = Pixels(store, store.slides[2:4], size=20, cache=tmp_path / "pixels.npy", budget=budget, windows=looks)
    assert pixels.starts.tolist() == [0, 150, 300]
    expected = []
    for slide in store.slides[2:4]:
        large = store.decode(slide, None, 40)
        expected += [store.decode(slide, None, 20), large[:, :20, :20], large[:, :20, 20:], large[:, 20:, :20],
                     large[:, 20:, 20:]]
    rows = np.random.default_rng(0).integers(0, 300, 200)
    assert (pixels[rows] == np.concatenate(expected)[rows]).all()
    assert (tmp_path / "pixels.npy").exists() == (budget > 0)


def test_a_cell_is_decoded_once_for_all_its_windows_of_a_scale(cells: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("milscope.store._windows.decode", lambda image, size: calls.append(size) or decode(image, size))
    store = CellStore(cells)
    pixels = Pixels(store, store.slides[:1], size=8, cache=tmp_path / "pixels.npy", budget=1.0,
                    windows=windows(("1", "0.5"), "all"))
    assert len(pixels) == 150
    assert sorted(calls) == [8] * 30 + [16] * 30
