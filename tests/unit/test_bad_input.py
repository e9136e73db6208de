"""Every bad input of tables, tiling and split ends with one clear line and leaves nothing behind."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from milscope.configs import TileConfig
from milscope.tile import tile
from milscope.types import InputError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for slide in ("a", "b"):
        noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{slide}.png")
        (tmp_path / "cells" / slide).mkdir(parents=True)
        Image.fromarray(noise).save(tmp_path / "cells" / slide / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("no image")
    (tmp_path / "bad" / "b.png").touch()
    (tmp_path / "nan.csv").write_text("slide,x,y\na,1,2\na,,2\n")
    (tmp_path / "others.csv").write_text("slide,x,y\nC1,1,2\n")
    (tmp_path / "outside.csv").write_text("slide,x,y\na,100,2\nb,2,-3\n")
    return tmp_path


CASES = {
    "neither images nor cells": ({}, "Give `cells`"),
    "no such cells": ({"cells": "none"}, "no such path"),
    "no such images": ({"images": "none"}, "no such folder"),
    "images is a file": ({"images": "nan.csv"}, "no such folder"),
    "cells without any of the slides": ({"cells": "empty"}, "none for all 2; the first"),
    "images without any of the slides": ({"images": "empty"}, "none for all 2; the first: no image a.*"),
    "cell table without images": ({"cells": "others.csv"}, "Give `cells`"),
    "NaN coordinates": ({"cells": "nan.csv", "images": "images"}, "1 rows without (line 3)"),
    "cell table about others": ({"cells": "others.csv", "images": "images"}, "slides like `C1`"),
    "every cell outside": ({"cells": "outside.csv", "images": "images"}, "is outside the image"),
    "every slide damaged": ({"images": "bad"}, "not an image"),
    "scale for crops": ({"cells": "cells", "config": TileConfig(mpp=0.5)}, "empty for folders of crops"),
    "size": ({"images": "images", "config": TileConfig(size=0)}, "`size` should be from 1"),
    "too large a size": ({"images": "images", "config": TileConfig(size=41, workers=1)}, "smaller than one tile of 41"),
    "quality": ({"images": "images", "config": TileConfig(quality=101)}, "`quality` should be"),
    "foreground": ({"images": "images", "config": TileConfig(foreground=1.5)}, "`foreground` should be"),
    "mpp": ({"images": "images", "config": TileConfig(mpp=float("nan"))}, "`mpp` should be"),
    "workers": ({"images": "images", "config": TileConfig(workers=-1)}, "`workers` should be"),
}


@pytest.mark.parametrize(("arguments", "says"), CASES.values(), ids=CASES)
def test_tile_refuses_and_leaves_nothing(folder, arguments, says):
    paths = {name: value if name == "config" else folder / value for name, value in arguments.items()}
    paths.setdefault("config", TileConfig(size=16, workers=1))
    before = sorted(folder.iterdir())
    with pytest.raises(InputError) as error:
        tile(pd.DataFrame({"slide": ["a", "b"]}), folder / "tile", **paths)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(folder.iterdir()) == before


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        tile(tmp_path / "slides.csv", tmp_path / "tile", cells=tmp_path)


def test_the_place_for_the_result_is_taken_by_something_else(folder):
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").touch()
    with pytest.raises(InputError, match="something else"):
        tile(pd.DataFrame({"slide": ["a"]}), folder / "taken", cells=folder / "cells")
    assert (folder / "taken" / "thesis.tex").exists()
