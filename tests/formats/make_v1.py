"""Makes the archive of format version 1 that lies in `tests/formats/v1`: `python tests/formats/make_v1.py OUT`.

It was run once, when the format was settled. Never run it again over `v1`: the archive stands for the files that
users have. A later format version gets a folder and a script of its own.
"""

import os
import shutil
import sys
from pathlib import Path

import pandas as pd

import milscope as ms
from milscope.aggregators import GatedABMIL

SLIDES = 4
TINY = {"channels": [4, 4, 4, 8], "layers": [1, 1, 1, 1], "stem_type": "deep", "stem_width": 2}
CELLS = 3


def make(out: Path) -> None:
    """Cells, features and scores of two slides, and the encoder and model they were made with."""
    out = out.resolve()
    out.mkdir(parents=True)
    work = out.parent / "making-v1"
    ms.synth(work, ms.SynthConfig(slides=SLIDES, cells=10, rate=0.3, mpp=2.0, workers=1))
    os.chdir(work)  # relative paths, so that none of the maker's is in the files
    places = pd.read_csv("cells.csv").groupby("slide").head(CELLS)
    places.to_csv("few.csv", index=False)
    table = pd.read_csv("slides.csv").drop(columns="file").sort_values("abnormal")
    table["split"] = ["train", "validation"] * 2
    tiles = ms.TileConfig(size=24, workers=1)
    ms.tile(table, "tile", cells="few.csv", images="slides", config=tiles)
    ms.pretrain(Path("tile"), ms.read_slides(table), out / "encoder", ms.PretrainConfig(
        size=32, epochs=1, learning_rate=0.002, projection=4, encoder_options=TINY, precision="float32", device="cpu"))
    exact = ms.EncodeConfig(precision="float32", device="cpu")
    ms.encode(Path("tile"), out / "encoder", Path("features"), exact)
    GatedABMIL.__init__.__kwdefaults__.update(hidden=4, attention=4)  # small on disk; the options are in model.json
    ms.train("features", ms.read_slides(table), out / "model", ms.TrainConfig(epochs=3))
    two = table.sort_values("slide").head(2)
    ms.tile(two, out / "cells", cells="few.csv", images="slides", config=tiles)
    ms.encode(out / "cells", out / "encoder", out / "features", exact)
    ms.predict(out / "features", out / "model", out / "scores", two)
    shutil.rmtree(out / "cells/thumbnails")  # large, and read by the page only


if __name__ == "__main__":
    make(Path(sys.argv[1]))
