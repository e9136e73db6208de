"""300 mutated files of each format go through `tile`: each becomes cells or a line in failures.csv, whatever happens."""

import numpy as np
import pandas as pd
import pytest
from tests.slide_files import FORMATS, smooth_picture, write_plain

from milscope.configs import TileConfig
from milscope.store import CellStore
from milscope.tile import tile

FILES = 300
CONFIG = TileConfig(size=16, workers=2, limit=60)
CRASHES = 6
"""Most slides of 300 that may kill their process; OpenSlide dies of some odd DICOM files."""


def mutated(content, rng):
    """A file cut off, or with up to eight bytes changed: anywhere, near its start, or near its end."""
    if rng.random() < 0.25:
        return content[: rng.integers(0, len(content))]
    start, end = [(0, len(content)), (0, 400), (-800, len(content))][rng.integers(3)]
    changed = np.frombuffer(content, np.uint8).copy()
    for _ in range(rng.integers(1, 9)):
        place = rng.integers(max(0, len(content) + start if start < 0 else start), min(end, len(content)))
        changed[place] = rng.integers(256)
    return changed.tobytes()


def outcome(table, tmp_path, **where):
    """Slides with cells, and slide → reasons of what was left out, after all of them went through `tile`."""
    result = tile(table, tmp_path / "tile", config=CONFIG, **where)
    good = pd.read_csv(result.directory / "slides.csv", dtype=str)["slide"].tolist()
    lost = pd.read_csv(result.directory / "failures.csv", dtype=str, keep_default_na=False)
    assert CellStore(result.directory).slides == sorted(good)
    assert set(lost.loc[lost["cell"] == "", "slide"]) == set(table["slide"]) - set(good)
    reasons = " ".join(lost["reason"])
    assert "Traceback" not in reasons
    assert "not done after" not in reasons  # nothing hangs
    assert lost["reason"].str.contains("process that read it died").sum() <= CRASHES
    assert (lost["reason"].str.len().between(5, 700) & ~lost["reason"].str.contains("\n")).all()
    return good, lost


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_slides(name, tmp_path, capfd):
    rng = np.random.default_rng(len(name))
    FORMATS[name](tmp_path / name, smooth_picture(96, 64))
    sources = {}
    for number in range(FILES):
        if (tmp_path / name).is_dir():
            folder = tmp_path / f"{number}-{name}"
            folder.mkdir()
            files = sorted((tmp_path / name).iterdir())
            hit = rng.integers(len(files))
            for index, file in enumerate(files):
                content = file.read_bytes()
                (folder / file.name).write_bytes(mutated(content, rng) if index == hit else content)
            sources[f"s{number}"] = folder
        else:
            sources[f"s{number}"] = tmp_path / f"{number}-{name}"
            sources[f"s{number}"].write_bytes(mutated((tmp_path / name).read_bytes(), rng))
    table = pd.DataFrame({"slide": list(sources), "file": [str(path) for path in sources.values()]})
    good, _ = outcome(table, tmp_path)
    assert 0 < len(good) < FILES  # some mutations are harmless, some are not: the mutations are of use
    assert "Traceback" not in "".join(capfd.readouterr())


def test_mutated_crops(tmp_path, capfd):
    rng = np.random.default_rng(0)
    kinds = {}
    for kind in (".png", ".jpg", ".tif", ".bmp"):
        write_plain(tmp_path / f"cell{kind}", smooth_picture(24, 20))
        kinds[kind] = (tmp_path / f"cell{kind}").read_bytes()
    for number in range(FILES):
        folder = tmp_path / "cells" / f"s{number}"
        folder.mkdir(parents=True)
        (folder / "whole.png").write_bytes(kinds[".png"])
        kind = list(kinds)[number % 4]
        (folder / f"mutated{kind}").write_bytes(mutated(kinds[kind], rng))
    good, lost = outcome(pd.DataFrame({"slide": [f"s{number}" for number in range(FILES)]}), tmp_path, cells=tmp_path / "cells")
    assert len(good) == FILES  # a damaged crop never costs its slide
    assert 0 < len(lost) < FILES
    assert "Traceback" not in "".join(capfd.readouterr())
