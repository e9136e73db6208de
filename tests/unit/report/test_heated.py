import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from milscope.heat import paint
from milscope.report._heated import LONGER, encoded, heats, over_run


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Two slides of 1,000 cells, those of `b` all higher; a row group each. One cell of `a` is far above its others."""
    frames = []
    for slide, above in (("a", 0), ("b", 5000)):
        number = np.arange(1000)
        frames.append(pd.DataFrame({
            "slide": slide, "x": 20.0 * (number % 50) + 10, "y": 20.0 * (number // 50) + 10, "width": 20.0, "height": 20.0,
            "evidence": number + above, "attention": number / 1000, "evidence:clue": -number}))
    with pq.ParquetWriter(tmp_path / "cells.parquet", pa.Schema.from_pandas(frames[0], preserve_index=False)) as writer:
        for frame in frames:
            writer.write_table(pa.Table.from_pandas(frame, preserve_index=False))
    return tmp_path


def darkness(png: bytes) -> np.ndarray:
    """How opaque each pixel is."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[..., 3]


def test_a_slide_is_compared_with_all_slides_or_by_shares_with_itself(scores: Path):
    extent = (1000.0, 400.0)
    normal, abnormal = (darkness(heats(scores, "evidence")(slide, extent)) for slide in "ab")
    assert normal.shape == (round(LONGER * 0.4), LONGER)
    assert abnormal[abnormal > 0].min() >= normal.max(), "every cell of b is rarer than any of a"
    assert abnormal.max() > normal.max()
    alone = [darkness(heats(scores, "attention")(slide, extent)).max() for slide in "ab"]
    assert alone[0] == alone[1]
    assert over_run("evidence")
    assert not over_run("attention")


def test_a_task_has_its_own(scores: Path):
    main, clue = (darkness(heats(scores, "evidence", task)("a", (1000.0, 400.0))) for task in ("", "clue"))
    assert main[-5, -5] > main[5, 5]
    assert clue[-5, -5] < clue[5, 5]
    assert heats(scores, "evidence", "grade")("a", (1000.0, 400.0)) is None


def test_without_places_scores_or_cells_there_is_none(tmp_path: Path, scores: Path):
    assert heats(scores, "evidence")("c", (9.0, 9.0)) is None
    frame = pd.read_parquet(scores / "cells.parquet").assign(x=np.nan)
    frame.to_parquet(scores / "cells.parquet")
    assert heats(scores, "evidence")("a", (9.0, 9.0)) is None
    assert heats(tmp_path / "none", "evidence")("a", (9.0, 9.0)) is None


def test_the_file_shows_the_colours_of_the_heat_map():
    values = np.tile(np.linspace(0, 1, 96), (8, 1))
    values[:, :4] = np.nan
    shown = np.asarray(Image.open(io.BytesIO(encoded(values))).convert("RGBA")).astype(int)
    assert (shown[:, :4, 3] == 0).all()
    assert np.abs(shown - paint(values).astype(int))[:, 4:].max() < 12
