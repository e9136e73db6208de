import math
import os

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.drawn_pictures import drawn_pictures

from milscope.check._files import read_headers, same_files


def header(path):
    return read_headers({"a": str(path)}, 1)["a"]


def test_what_a_photograph_says(tmp_path):
    about = Image.Exif()
    about.update({271: "Zeiss", 272: "Axiocam", 306: "2024:03:01 10:00:00"})
    Image.fromarray(drawn_pictures(1)[0]).save(tmp_path / "a.jpg", quality=80, exif=about)
    said = header(tmp_path / "a.jpg")
    assert (said.problem, said.format, said.scanner, said.width, said.height, said.quality) == (
        "", "jpeg", "Zeiss Axiocam", 48, 48, 80)
    assert said.day == header(tmp_path / "a.jpg").day > 700_000


def test_what_a_tiff_says_of_its_scale(tmp_path):
    Image.fromarray(drawn_pictures(1)[0]).save(tmp_path / "a.tif", resolution=20_000, resolution_unit=3)
    assert header(tmp_path / "a.tif").mpp == pytest.approx(0.5)
    Image.fromarray(drawn_pictures(1)[0]).save(tmp_path / "b.tif", dpi=(72, 72))
    assert math.isnan(header(tmp_path / "b.tif").mpp)


@pytest.mark.parametrize(("content", "says"), [(b"", "empty"), (b"no image at all", "not an image"), (None, "No such file")])
@pytest.mark.parametrize("suffix", ["png", "svs"])
def test_what_cannot_be_opened_is_named(tmp_path, content, says, suffix):
    path = tmp_path / f"a.{suffix}"
    if content is not None:
        path.write_bytes(content)
    assert says in header(path).problem


def test_a_folder_and_a_pipe_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in header(tmp_path / "pipe.png").problem
    assert "DICOM" in header(tmp_path).problem


def test_processes_say_the_same(tmp_path):
    for name, picture in zip("abc", drawn_pictures(3), strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"")
    files = {name: str(tmp_path / f"{name}.png") for name in "abc"}
    two = read_headers(files, 2)
    assert str(two) == str(read_headers(files, 1))
    assert list(two) == ["a", "b", "c"]


def test_only_files_with_the_same_content_are_the_same(tmp_path):
    random = np.random.default_rng(0)
    content = random.bytes(2_500_000)
    other = bytearray(content)
    other[1_200_000] ^= 1  # neither at the start nor at the end
    for name, data in {"a": content, "b": bytes(other), "c": content, "d": content[:-1], "e": b"x", "f": b"x"}.items():
        (tmp_path / name).write_bytes(data)
    files = {name: str(tmp_path / name) for name in "abcdef"} | {"gone": str(tmp_path / "gone")}
    assert sorted(map(sorted, same_files(files))) == [["a", "c"], ["e", "f"]]


def test_whole_slides(tmp_path):
    if "MILSCOPE_DATA" not in os.environ:
        pytest.skip("needs MILSCOPE_DATA")
    folder = os.environ["MILSCOPE_DATA"] + "/wsi/"
    said = header(folder + "CMU-1-Small-Region.svs")
    assert said[:4] == ("", "aperio", "CPAPERIOCS", "20")
    assert (said.mpp, said.width, said.height, said.quality) == (0.499, 2220, 2967, 30)
    assert header(folder + "boxes_dicom").format == "dicom"
    assert said.day == header(folder + "boxes_dicom").day


def test_a_tiff_that_pillow_does_not_know_is_read_as_tile_reads_it(tmp_path):
    """JPEG 2000 in an OME-TIFF: Pillow knows neither its pixels nor its scale."""
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", picture, photometric="rgb", rowsperstrip=96, compression="jpeg2000",
                     metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25})
    header = read_headers({"a": str(tmp_path / "a.ome.tif")}, workers=1)["a"]
    assert (header.problem, header.width, header.height, header.mpp) == ("", 128, 96, 0.25)
