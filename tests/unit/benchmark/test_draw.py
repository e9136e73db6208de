import json

import numpy as np
import pandas as pd
import pytest
from tests.spotted_cells import write_store

from milscope.benchmark._draw import count_witnesses, divide, draw, job, write_draw
from milscope.benchmark._imports import open_pool
from milscope.configs import WitnessConfig
from milscope.store import CellStore
from milscope.types import InputError

CONFIG = WitnessConfig(rates=("0.1",), cells=20, slides=6, test_slides=2, truth_column="odd")


def table(normal, witnesses, patients=0):
    """Cells, of so many patients in turn, or of nobody."""
    witness = np.arange(normal + witnesses) >= normal
    owner = [f"p{place % patients}" if patients else "" for place in range(len(witness))]
    return pd.DataFrame({"witness": witness, "patient": owner})


@pytest.mark.parametrize(("rate", "cells", "count"), [(0.02, 400, 8), (0.005, 400, 2), (0.004, 400, 2), (0.3, 10, 3)])
def test_the_number_of_witnesses_is_the_nearest_whole_one(rate, cells, count):
    assert count_witnesses(rate, cells) == count


@pytest.mark.parametrize(("rate", "cells", "line"), [
    (0.005, 90, "at least one witness among 90 cells. Found 0.005. Draw slides of 200 cells or more"),
    (0.0, 90, "Correct it"), (1.0, 90, "Correct it"), (0.99, 10, "Draw slides"),
])
def test_a_rate_that_no_slide_can_have_is_refused(rate, cells, line):
    with pytest.raises(InputError, match=line):
        count_witnesses(rate, cells)


def test_as_many_test_slides_as_there_are_cells_for():
    config = WitnessConfig(rates=("0.1",), cells=20, slides=6)
    assert divide(table(190, 40), config, 0).slides == {"train": 6, "test": 2}
    assert divide(table(205, 40), config, 0).slides == {"train": 6, "test": 4}
    assert divide(table(900, 40), config, 0).slides == {"train": 6, "test": 6}


@pytest.mark.parametrize(("cells", "line"), [
    (table(140, 40), "few enough for 140 normal cells.*About 7 slides of so many cells can be drawn"),
    (table(400, 9), r"at most 0.1 with 6 witnesses|at most 0.1 with 7 witnesses"),
    (table(400, 60, patients=1), "of 1 patients"),
])
def test_too_few_cells_are_told_with_what_would_fit(cells, line):
    config = WitnessConfig(rates=("0.1", "0.5"), cells=20, slides=6, test_slides=2)
    with pytest.raises(InputError, match=line):
        divide(cells, config, 0)


def test_what_is_written_is_what_was_drawn_and_names_tell_nothing(tmp_path):
    pool = open_pool(write_store(tmp_path), tmp_path / "truth.csv", tmp_path / "pool", CONFIG)
    drawn = draw(divide(pool.table, CONFIG, 0), 0.1, CONFIG, 0)
    given = job(tmp_path / "place", drawn, pool.table)
    assert write_draw(given, store=pool.store.directory, largest=0) == 160
    written, truth = CellStore(tmp_path / "place" / "cells"), pd.read_csv(tmp_path / "place" / "truth.csv")
    slides = pd.read_csv(tmp_path / "place" / "slides.csv")
    assert sorted(written.slides) == sorted(slides["slide"]) == sorted(drawn["slide"].unique())
    assert written.slides == [*(f"test-{number:02d}" for number in range(2)), *(f"train-{number:02d}" for number in range(6))]
    assert list(slides.columns) == ["slide", "split", "abnormal"]
    source = {name: number for number, name in enumerate(pool.table["cell"])}
    for slide, own in truth.groupby("slide"):
        assert written.table(slide)["cell"].to_pylist() == own["cell"].tolist()
        assert [name.split(":")[0] for name in own["cell"]] == [slide] * 20
        rows = pool.table.iloc[[source[name] for name in own["from_cell"]]]
        assert (rows["witness"].to_numpy() == own["witness"].to_numpy()).all()
        images = [pool.store.images(where, [row])[0] for where, row in zip(rows["slide"], rows["row"], strict=True)]
        assert written.images(slide) == images
    before = (tmp_path / "place" / "cells" / "manifest.json").stat().st_mtime_ns
    write_draw(given, store=pool.store.directory, largest=0)
    assert (tmp_path / "place" / "cells" / "manifest.json").stat().st_mtime_ns == before
    write_draw(given, store=pool.store.directory, largest=8)
    assert CellStore(tmp_path / "place" / "cells").decode(slides["slide"][0], None, 8).shape == (20, 8, 8, 3)
    assert json.loads((tmp_path / "place" / "cells" / "manifest.json").read_text())["summary"]["cells"] == 160


def test_witnesses_are_spread_over_a_slide(tmp_path):
    config = WitnessConfig(rates=("0.5",), cells=20, slides=6, test_slides=2)
    drawn = draw(divide(table(400, 200), config, 0), 0.5, config, 0)
    places = drawn[drawn["witness"]].groupby("slide")["cell"].apply(lambda names: tuple(name[-4:] for name in names))
    assert places.nunique() == len(places)
    assert any(int(own[-1]) - int(own[0]) > 10 for own in places)
