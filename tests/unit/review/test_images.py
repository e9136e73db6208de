import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from starlette.testclient import TestClient

from milscope.review import _images
from milscope.review._images import GLASS, NothingThereError, Pictures
from milscope.review._run import ReviewedRun
from milscope.review._scores import compared_with

WIDTH, HEIGHT = 1200, 900


@pytest.fixture
def slide(shared: Path) -> np.ndarray:
    return np.asarray(Image.open(shared.parent / "slide-000.png").convert("RGB")).astype(int)


@pytest.fixture
def pictures(shared: Path) -> Pictures:
    return Pictures(ReviewedRun(shared))


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).mean())


def test_the_tiles_of_the_last_level_are_the_slide(pictures: Pictures, slide: np.ndarray):
    top = math.ceil(math.log2(WIDTH))
    for column, row in ((0, 0), (2, 1), (4, 3)):
        found = pixels(pictures.tile("slide-000", top, column, row).content)
        assert apart(found, slide[row * 256:row * 256 + 256, column * 256:column * 256 + 256]) < 3


def test_every_level_is_half_of_the_next_and_together_its_tiles_are_the_slide(pictures: Pictures, slide: np.ndarray):
    top = math.ceil(math.log2(WIDTH))
    for level in range(top + 1):
        size = [math.ceil(side / 2 ** (top - level)) for side in (WIDTH, HEIGHT)]
        joined = np.concatenate([
            np.concatenate([pixels(pictures.tile("slide-000", level, column, row).content)
                            for column in range(math.ceil(size[0] / 256))], axis=1)
            for row in range(math.ceil(size[1] / 256))])
        assert joined.shape == (size[1], size[0], 3)
        small = np.asarray(Image.fromarray(slide.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)).astype(int)
        assert apart(joined[..., :2], small[..., :2]) < 8, f"level {level}"


@pytest.mark.parametrize("place", [(12, 0, 0), (-1, 0, 0), (11, 5, 0), (11, 0, 4), (0, 1, 0), (8, 0, 1)])
def test_there_is_no_tile_beyond_the_slide(pictures: Pictures, place: tuple[int, int, int]):
    with pytest.raises(NothingThereError, match="no such tile"):
        pictures.tile("slide-000", *place)


def test_a_file_without_small_levels_is_shown_from_afar_without_being_read_whole(
        pictures: Pictures, monkeypatch: pytest.MonkeyPatch, shared: Path):
    monkeypatch.setattr(_images, "MOST", 300 * 300)
    found = pixels(pictures.tile("slide-000", 8, 0, 0).content)
    small = np.asarray(Image.open(shared / "tile" / "thumbnails" / "slide-000.jpg").resize((150, 113))).astype(int)
    assert apart(found, small) < 6


def test_a_cell_is_in_the_middle_of_its_surroundings(pictures: Pictures, slide: np.ndarray, shared: Path):
    run = ReviewedRun(shared)
    table = run.cells("slide-000", run.tasks[0])
    for row in range(len(table)):
        x, y = table["x"][row].as_py(), table["y"][row].as_py()
        around = pixels(pictures.context("slide-000", row + 1, run.tasks[0], 4.0).content)
        assert around.shape == (256, 256, 3)
        left, top = round(x) - 16, round(y) - 16
        if 0 <= left < WIDTH - 32 and 0 <= top < HEIGHT - 32:
            assert apart(around[112:144, 112:144, :2], slide[top:top + 32, left:left + 32, :2]) < 4


def test_beyond_the_edge_of_the_slide_is_pale(pictures: Pictures, shared: Path):
    run = ReviewedRun(shared)
    table = run.cells("slide-000", run.tasks[0])
    x, y = table["x"][0].as_py(), table["y"][0].as_py()
    around = pixels(pictures.context("slide-000", 1, run.tasks[0], 32.0).content)
    assert around.shape == (512, 512, 3)
    left, right, top, bottom = 256 - x / 4, 256 + (WIDTH - x) / 4, 256 - y / 4, 256 + (HEIGHT - y) / 4
    columns, rows = np.meshgrid(np.arange(512), np.arange(512))
    outside = (columns < left - 10) | (columns > right + 10) | (rows < top - 10) | (rows > bottom + 10)
    assert outside.sum() > 10_000
    assert np.abs(around[outside] - GLASS).max() < 12


def test_crops_are_sent_as_they_are_stored_or_as_png_where_no_browser_shows_them(pictures: Pictures, run: Path):
    reviewed = ReviewedRun(run)
    path = run / "retrieve" / "slide-000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    cell = Image.open(io.BytesIO(table["image"][0].as_py()))
    stored = []
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        file = io.BytesIO()
        cell.save(file, kind)
        stored.append(file.getvalue())
    images = pa.array([*stored, b"<script>", b""], pa.binary())
    table = table.set_column(table.schema.get_field_index("image"), "image", images)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    pictures = Pictures(reviewed)
    sent = [pictures.crop("slide-000", rank, reviewed.tasks[0]) for rank in (1, 2, 3, 4)]
    assert [each.media_type for each in sent] == ["image/png", "image/jpeg", "image/png", "image/png"]
    assert [each.content for each in sent[:2]] == stored[:2]
    assert all(apart(pixels(each.content), np.asarray(cell.convert("RGB")).astype(int)) == 0 for each in sent[2:])
    for rank in (5, 6, 7, 0):
        with pytest.raises(NothingThereError):
            pictures.crop("slide-000", rank, reviewed.tasks[0])


def test_rare_cells_are_dark_on_the_heat_map_and_the_rest_of_the_slide_is_clear(pictures: Pictures, shared: Path):
    run = ReviewedRun(shared)
    image = Image.open(io.BytesIO(pictures.heat("slide-000", run.tasks[0]).content))
    painted, table = np.asarray(image), run.cells("slide-000", run.tasks[0])
    assert (image.mode, image.size) == ("RGBA", (WIDTH, HEIGHT))
    opacity = [int(painted[int(table["y"][row].as_py()), int(table["x"][row].as_py()), 3]) for row in range(6)]
    assert opacity[0] == max(opacity) > min(opacity) > 0
    assert (painted[..., 3] == 0).mean() > 0.9


def test_a_slide_is_compared_with_all_slides_so_that_a_normal_one_stays_pale(run: Path):
    path = run / "predict" / "cells.parquet"
    cells = pd.read_parquet(path)
    cells.assign(evidence=cells["evidence"] + 100 * (cells["slide"] == "slide-001")).to_parquet(path)
    reviewed = ReviewedRun(run)
    normal, abnormal = (np.asarray(Image.open(io.BytesIO(Pictures(reviewed).heat(slide, reviewed.tasks[0]).content)))[..., 3]
                        for slide in ("slide-000", "slide-001"))
    assert normal.max() <= abnormal[abnormal > 0].min()
    manifest = json.loads((run / "retrieve" / "manifest.json").read_text())
    manifest["config"]["rank"] = "attention"
    (run / "retrieve" / "manifest.json").write_text(json.dumps(manifest))
    assert compared_with(ReviewedRun(run), reviewed.tasks[0]) is None


@pytest.mark.parametrize("slide", ["slide-001", "slide-002"])
def test_without_an_image_there_are_crops_but_no_deep_zoom(page: TestClient, shared: Path, slide: str):
    index = ReviewedRun(shared).number(slide)
    assert page.get(f"/crops/{index}/1").status_code == 200
    for path in (f"/context/{index}/1", f"/slides/{index}/tiles/0/0_0"):
        answer = page.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"] == page.get(f"/api/slides/{index}").json()["missing"] != ""
    assert page.get(f"/slides/{index}/overview").status_code == (200 if slide == "slide-001" else 404)
    assert page.get(f"/slides/{index}/heat").status_code == (200 if slide == "slide-001" else 404)


def test_pictures_come_with_their_types(page: TestClient, shared: Path):
    index = ReviewedRun(shared).number("slide-000")
    kinds = {f"/crops/{index}/1": "image/png", f"/context/{index}/1?factor=2": "image/jpeg",
             f"/slides/{index}/overview": "image/jpeg", f"/slides/{index}/tiles/9/0_0": "image/jpeg",
             f"/slides/{index}/heat": "image/png"}
    assert {path: page.get(path).headers["content-type"] for path in kinds} == kinds
    for factor in ("0", "99", "nan", "x", "1e999"):
        assert page.get(f"/context/{index}/1?factor={factor}").status_code == 400


def test_another_image_in_the_place_of_the_slide_is_not_shown(run: Path, tmp_path: Path):
    other = tmp_path / "other.png"
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(other)
    table = run / "tile" / "slides.csv"
    table.write_text(table.read_text().replace("moved.png", "other.png").replace(str(run.parent), str(tmp_path)))
    lines = [line.rsplit(",", 1) for line in table.read_text().splitlines()]
    table.write_text("\n".join(f"{head},{other if head.startswith('slide-001') else file}" for head, file in lines))
    with pytest.raises(NothingThereError, match="another one than when its cells were cut"):
        Pictures(ReviewedRun(run)).tile("slide-001", 8, 0, 0)
    other.write_bytes(b"damaged")
    with pytest.raises(NothingThereError, match="cannot be read"):
        Pictures(ReviewedRun(run)).tile("slide-001", 8, 0, 0)


def test_few_files_are_open_at_once_and_each_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened, closed = [], []

    class Reader:
        def __init__(self, path: Path) -> None:
            self.path = path
            opened.append(path)

        def close(self) -> None:
            closed.append(self.path)

    monkeypatch.setattr(_images, "open_slide", Reader)
    readers = _images._Readers(2)
    paths = [tmp_path / str(number) for number in range(4)]
    for path in [*paths, paths[3], paths[2], paths[0]]:
        with readers.use(path) as reader:
            assert reader.path == path
    assert opened == [*paths, paths[0]]
    assert closed == [paths[0], paths[1], paths[3]]


def test_scores_of_all_cells_are_drawn_by_the_ranking_of_the_run(run: Path):
    from milscope.review._scores import scored_cells

    reviewed = ReviewedRun(run)
    assert scored_cells(reviewed, "slide-001", reviewed.tasks[0])["score"].std() > 0
    manifest = json.loads((run / "retrieve" / "manifest.json").read_text())
    manifest["config"]["rank"] = "attention"
    (run / "retrieve" / "manifest.json").write_text(json.dumps(manifest))
    reviewed = ReviewedRun(run)
    assert scored_cells(reviewed, "slide-001", reviewed.tasks[0])["score"].tolist() == [0.1] * 6
    (run / "predict" / "cells.parquet").unlink()
    assert len(scored_cells(reviewed, "slide-001", reviewed.tasks[0])) == 0
