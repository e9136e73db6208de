import os

import numpy as np
import pytest
from PIL import Image

from milscope.slides import Cell, DamagedError, Skip, folder_cells, list_crops


def save(path, height=20, width=30):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def test_good_crops_are_kept_byte_by_byte_in_order_of_name(tmp_path):
    folder = tmp_path / "s1"
    folder.mkdir()
    for name in ("b.jpg", "a.png", "C.TIF", "d.bmp"):
        save(folder / name)
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        (folder / name).write_text("x")
    cells = list(folder_cells(folder, 0.5))
    assert [cell.cell for cell in cells] == ["s1/C.TIF", "s1/a.png", "s1/b.jpg", "s1/d.bmp"]
    for cell in cells:
        assert cell == Cell(cell.cell, None, None, 30.0, 20.0, 0.5, (tmp_path / cell.cell).read_bytes())


def test_damaged_crops_are_skipped_with_their_reason(tmp_path):
    folder = tmp_path / "s1"
    folder.mkdir()
    save(folder / "good.png")
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:300])
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    (folder / "text.png").write_text("no image")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    os.mkfifo(folder / "pipe.png")
    reasons = {item.cell: item.reason for item in folder_cells(folder, None) if isinstance(item, Skip)}
    assert sorted(reasons) == [f"s1/{name}.png" for name in ("circle", "cut", "empty", "folder", "pipe", "text")]
    assert reasons["s1/empty.png"] == "the file is empty"
    assert reasons["s1/text.png"] == "not an image"
    assert reasons["s1/cut.png"].startswith("damaged image")


def test_a_name_that_is_not_utf8_is_skipped(tmp_path):
    save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    (skip,) = folder_cells(tmp_path, None)
    assert isinstance(skip, Skip)
    assert "UTF-8" in skip.reason


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DamagedError, match="No such file"):
        next(folder_cells(tmp_path / "none", None))
    with pytest.raises(DamagedError, match="no crops"):
        next(folder_cells(tmp_path, None))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(DamagedError):
        next(folder_cells(tmp_path / "circle", None))


def test_the_listing_notices_a_change(tmp_path):
    save(tmp_path / "a.png")
    before = list_crops(tmp_path)
    save(tmp_path / "a.png", width=31)
    assert list_crops(tmp_path) != before
