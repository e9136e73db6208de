"""Reading cells: the store's encoded cells at random, and decoded ones from the cache beside Pillow from files.

* `encoded_per_second`: encoded cells a second on one thread, read at random over all slides;
* `cache_over_pil`: decoded cells a second from the cache of decoded cells over Pillow opening the crops' files;
* `store_over_pil`: decoded cells a second from the store (decoding each time) over the same.

    python benchmarks/read.py [--quick] [--cells 20000] [--crops FOLDER] [--rounds 5] [--json FILE] [--docs docs/performance.md]
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from _cells import render
from _timing import in_turn, publish, ratio, seconds, table
from PIL import Image

import milscope as ms
from milscope.store import Pixels

BATCH = 256
READS = 40
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=72, help="side of the rendered crops, and of decoded cells, pixels")
    parser.add_argument("--crops", type=Path, help="a folder of folders of real crops, in place of rendered ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.cells, options.rounds = 2_000, 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        publish(options, "read", measure(Path(home), options), "one thread")


def measure(home: Path, options: argparse.Namespace) -> tuple[str, dict, dict]:
    folder, store = crops(home, options)
    pixels = Pixels(store, store.slides, size=options.side, cache=home / "cache.npy", budget=8.0)
    names = [(slide, cell) for slide in store.slides for cell in store.table(slide)["cell"].to_pylist()]
    generator = np.random.default_rng(0)

    def drawn() -> np.ndarray:
        return generator.integers(0, len(names), BATCH)

    def encoded() -> None:
        for row in drawn():
            slide = int(np.searchsorted(pixels.starts, row, side="right") - 1)
            store.images(store.slides[slide], [row - pixels.starts[slide]])

    def by_slide() -> None:
        slide = store.slides[generator.integers(len(store.slides))]
        store.images(slide, generator.integers(0, store.count(slide), BATCH))

    def decoded() -> None:
        for row in drawn():
            slide = int(np.searchsorted(pixels.starts, row, side="right") - 1)
            store.decode(store.slides[slide], [row - pixels.starts[slide]], options.side)

    def files() -> None:
        for row in drawn():
            with Image.open(folder / names[row][1]) as opened:
                np.asarray(opened.convert("RGB").resize((options.side,) * 2, Image.Resampling.BICUBIC))

    work = {"encoded, at random over all slides": encoded, "encoded, at random within a slide": by_slide,
            "decoded, from the cache": lambda: pixels[drawn()].sum(), "decoded, from the store": decoded,
            "decoded, by Pillow from files": files}
    sides = {name: lambda each=each: seconds(lambda: [each() for _ in range(READS)], CPU) for name, each in work.items()}
    taken = in_turn(sides, options.rounds)
    speeds = {name: BATCH * READS / median(each) for name, each in taken.items()}
    pil = taken["decoded, by Pillow from files"]
    ratios = {"encoded_per_second": speeds["encoded, at random over all slides"],
              "cache_over_pil": ratio(pil, taken["decoded, from the cache"]),
              "store_over_pil": ratio(pil, taken["decoded, from the store"])}
    text = f"{len(names):,} cells of {len(store.slides)} slides, {options.side} x {options.side} pixels.\n\n"
    text += table(("reading", "cells a second"), [(name, f"{speed:,.0f}") for name, speed in speeds.items()])
    return text + "\n\n" + table(("ratio", "value"), [(name, f"{value:,.1f}") for name, value in ratios.items()]), taken, ratios


def crops(home: Path, options: argparse.Namespace) -> tuple[Path, ms.CellStore]:
    """A folder of crops and its store."""
    if not options.crops:
        rendered = render(home, cells=options.cells, side=options.side, slides=20)
        return rendered.folder, ms.CellStore(rendered.store)
    slides = pd.DataFrame({"slide": sorted(path.name for path in options.crops.iterdir() if path.is_dir())})
    ms.tile(slides, home / "tile", cells=options.crops)
    return options.crops, ms.CellStore(home / "tile")


if __name__ == "__main__":
    main()
