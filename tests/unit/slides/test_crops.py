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


def cells(folder):
    return {item.cell: getattr(item, "reason", "") for item in folder_cells(folder, None)}


def test_links_inside_the_folder_of_crops_are_followed(tmp_path):
    for name in ("s1", "s2"):
        (tmp_path / "cells" / name).mkdir(parents=True)
    save(tmp_path / "cells" / "s1" / "a.png")
    (tmp_path / "cells" / "s2" / "b.png").symlink_to(tmp_path / "cells" / "s1" / "a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "cells")  # the folder of all slides may be a link itself
    for root in ("cells", "linked"):
        assert cells(tmp_path / root / "s2") == {"s2/b.png": ""}


def test_links_out_of_the_folder_of_crops_are_refused(tmp_path):
    (tmp_path / "cells" / "s1").mkdir(parents=True)
    save(tmp_path / "private.png")
    save(tmp_path / "cells" / "s1" / "good.png")
    (tmp_path / "cells" / "s1" / "out.png").symlink_to(tmp_path / "private.png")
    (tmp_path / "cells" / "s1" / "passwd.png").symlink_to("/etc/passwd")
    found = cells(tmp_path / "cells" / "s1")
    assert found["s1/good.png"] == ""
    for name in ("s1/out.png", "s1/passwd.png"):
        assert "a link that leads out of" in found[name]
        assert "\n" not in found[name]


def test_a_slides_folder_that_is_a_link_out_or_a_circle_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "s1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "cells" / "s2").symlink_to(tmp_path / "cells" / "s3")
    (tmp_path / "cells" / "s3").symlink_to(tmp_path / "cells" / "s2")
    for name, says in (("s1", "leads out of"), ("s2", "symbolic link|Symlink loop"), ("s3", "symbolic link|Symlink loop")):
        with pytest.raises(DamagedError, match=says):
            next(folder_cells(tmp_path / "cells" / name, None))


def test_a_crop_that_is_a_bomb_is_skipped(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")  # 400 million pixels in 50 kB
    (skip,) = folder_cells(tmp_path, None)
    assert isinstance(skip, Skip)
    assert "400000000 pixels" in skip.reason
