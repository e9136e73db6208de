import io

import pytest
from PIL import Image

from milscope.configs import ExportCellsConfig
from milscope.export_cells._crops import file_name, suffix, write_crops
from milscope.export_cells._gather import gather


def test_files_say_slide_rank_and_score_and_hold_the_pixels_of_the_cell(run, tmp_path):
    slide = gather(run, ExportCellsConfig(k=3), verdicts=None, cells=None).read("b b", images=True)
    write_crops(slide, tmp_path)
    files = sorted((tmp_path / "b b").iterdir())
    assert len(files) == 3
    for rank, (file, row) in enumerate(zip(files, slide.cells.to_dict("records"), strict=True), 1):
        told, score, cell = file.stem.split("_", 2)
        assert (int(told), cell) == (rank, row["cell"].removeprefix("b b:"))
        assert float(score) == pytest.approx(row["score"], rel=1e-3)
        assert file.suffix == ".png"
        assert file.read_bytes() == row["image"]


def test_names_that_no_file_system_dislikes():
    assert file_name("S1", "S1:102.5,88") == "102.5,88"
    assert file_name("S1", "S1/cell one*?.JPG") == "cell_one_"[:-1]
    assert file_name("S1", "S1/../../etc") == "etc"
    assert file_name("S1", "***") == "cell"
    assert len(file_name("S1", "x" * 500)) == 120


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", ".jpg"), ("PNG", ".png"), ("TIFF", ".tif"), ("BMP", ".bmp")])
def test_the_ending_is_that_of_the_bytes(kind, ending):
    encoded = io.BytesIO()
    Image.new("RGB", (4, 4)).save(encoded, kind)
    assert suffix(encoded.getvalue()) == ending
    assert suffix(b"??") == ".img"
