"""Tiling whole slides into a store: ours beside OpenSlide decoding the same tiles, and beside the plain loop.

Slides are mosaics of a real or rendered field, written as JPEG pyramids and as single-level files. All sides use the same
number of processes, one slide at a time each, and do the same tiles; a ratio is the median of the rounds' ratios.

* `tile_over_openslide`: tiles a second of `tile` (choosing, decoding, encoding, storing, drawing) over `read_region` alone;
* `tile_over_plain`: over `read_region` and Pillow saving a JPEG for each tile;
* `…_one_level`: the same for slides without a pyramid;
* `…_resampled`: the same at another scale than the slide's own, which the plain loop resamples with Pillow;
* `memory_10_over_1`, `memory_100_over_1`, `memory_medium_over_small`, `memory_large_over_medium`: most memory of all processes
  together, for so many slides, and for slides of that many times the area (a large one is 4 medium ones).

    python benchmarks/tile.py [--quick] [--rounds 5] [--processes 2] [--field SLIDE] [--json FILE] [--docs docs/performance.md]
"""

import argparse
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import openslide
import pandas as pd
import psutil
from _timing import in_turn, publish, ratio, table
from PIL import Image

import milscope as ms
from milscope.slides import open_slide, plan_smear, render_smear, write_pyramid

SIDE = 256
SCALE = 0.5
OTHER = 0.6
"""Microns per pixel when tiles have to be resampled."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small slides, two rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=4, help="how often the field is repeated along each side")
    parser.add_argument("--field", type=Path, help="a slide whose picture is repeated; otherwise a field is rendered")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.slides, options.repeat = 2, 2, 2
    with tempfile.TemporaryDirectory() as home:
        publish(options, "tile", measure(Path(home), options), f"{options.processes} processes each")


def measure(home: Path, options: argparse.Namespace) -> tuple[str, dict, dict]:
    field = picture(options.field)
    mosaic = np.tile(field, (options.repeat, options.repeat, 1))
    pyramids, flat = home / "pyramids", home / "flat"
    for folder in (pyramids, flat):
        folder.mkdir()
    write_pyramid(pyramids / "s0.tif", mosaic, SCALE)
    one_level(flat / "s0.tif", mosaic)
    for folder in (pyramids, flat):
        for copy in range(1, options.slides):
            shutil.copyfile(folder / "s0.tif", folder / f"s{copy}.tif")
    rows, figures, ratios = [], {}, {}
    for ending, folder, mpp in (("", pyramids, SCALE), ("_one_level", flat, SCALE), ("_resampled", pyramids, OTHER)):
        sides = Sides(folder, home, mpp, options)
        taken = in_turn({"openslide": sides.openslide, "plain": sides.plain, "milscope": sides.milscope}, options.rounds)
        speeds = {name: sides.tiles / median(each) for name, each in taken.items()}
        rows.append((ending.strip("_").replace("_", " ") or "pyramid", f"{sides.tiles:,}",
                     *(f"{speeds[name]:,.0f}" for name in ("openslide", "plain", "milscope"))))
        ratios |= {f"tile_over_openslide{ending}": ratio(taken["openslide"], taken["milscope"]),
                   f"tile_over_plain{ending}": ratio(taken["plain"], taken["milscope"])}
        figures[f"seconds{ending}"] = taken
    grown, memory = growth(home, field, options)
    text = table(("slides", "tiles", "OpenSlide alone, tiles/s", "plain loop, tiles/s", "milscope, tiles/s"), rows)
    ratios |= memory
    text += "\n\n" + grown + "\n\n" + table(("ratio", "value"), [(name, f"{value:.2f}") for name, value in ratios.items()])
    return text, figures, ratios


def picture(field: Path | None) -> np.ndarray:
    """The field that is repeated, about 2,000 x 3,000 pixels."""
    if field:
        with open_slide(field) as reader:
            return reader.region((0, 0), reader.size, reader.size)
    return render_smear(plan_smear(np.random.default_rng(0), cells=400, abnormal=20, mpp=SCALE))[0]


def one_level(path: Path, image: np.ndarray) -> None:
    """A tiled JPEG TIFF without smaller levels."""
    import tifffile

    tifffile.imwrite(path, image, photometric="rgb", compression="jpeg", compressionargs={"level": 90}, tile=(240, 240),
                     resolution=(1e4 / SCALE, 1e4 / SCALE), resolutionunit="centimeter", metadata=None)


class Sides:
    """The same tiles of the same slides, in as many processes, by each side; seconds."""

    def __init__(self, folder: Path, home: Path, mpp: float, options: argparse.Namespace) -> None:
        self.folder, self.home, self.processes, self.mpp = folder, home, options.processes, mpp
        self.slides = sorted(folder.glob("*.tif"))
        self.count = 0
        self.milscope()
        store = ms.CellStore(home / "out")
        rows = store.table("s0").to_pandas()
        extent = rows["width"].iloc[0]
        self.places = [(round(x - extent / 2), round(y - extent / 2)) for x, y in zip(rows["x"], rows["y"], strict=True)]
        self.extent = round(extent)
        self.tiles = len(self.places) * len(self.slides)

    def openslide(self) -> float:
        return self._pool(decode)

    def plain(self) -> float:
        return self._pool(decode_and_save)

    def milscope(self) -> float:
        frame = pd.DataFrame({"slide": [path.stem for path in self.slides]})
        shutil.rmtree(self.home / "out", ignore_errors=True)
        config = ms.TileConfig(size=SIDE, mpp=self.mpp, workers=self.processes)
        start = time.perf_counter()
        ms.tile(frame, self.home / "out", images=self.folder, config=config)
        return time.perf_counter() - start

    def _pool(self, work) -> float:
        jobs = [(path, self.places, self.extent, self.home / "plain" / path.stem) for path in self.slides]
        for *_, folder in jobs:
            folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(self.processes) as pool:
            pool.map(work, jobs, chunksize=1)
        taken = time.perf_counter() - start
        shutil.rmtree(self.home / "plain")
        return taken


def decode(job: tuple) -> None:
    path, places, extent, _ = job
    slide = openslide.OpenSlide(path)
    for place in places:
        slide.read_region(place, 0, (extent, extent))


def decode_and_save(job: tuple) -> None:
    path, places, extent, folder = job
    slide = openslide.OpenSlide(path)
    for x, y in places:
        tile = slide.read_region((x, y), 0, (extent, extent)).convert("RGB")
        if extent != SIDE:
            tile = tile.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        tile.save(folder / f"{x}_{y}.jpg", quality=95)


def growth(home: Path, field: np.ndarray, options: argparse.Namespace) -> tuple[str, dict[str, float]]:
    """Most memory of the command and its processes, for more slides and for larger ones."""
    sizes = {"small": 1, "medium": options.repeat, "large": 2 * options.repeat}
    folders = {}
    for name, repeat in sizes.items():
        folders[name] = home / f"of-{name}"
        folders[name].mkdir()
        write_pyramid(folders[name] / "s0.tif", np.tile(field, (repeat, repeat, 1)), SCALE)
    for copy in range(1, 100):
        (folders["small"] / f"s{copy}.tif").symlink_to(folders["small"] / "s0.tif")
    peaks = {count: peak(home, folders["small"], count, options.processes) for count in (1, 10, 100)}
    larger = {name: peak(home, folders[name], 1, options.processes) for name in sizes}
    high, wide = field.shape[:2]
    rows = [(f"{count} of {wide:,} x {high:,} pixels", f"{most / 1e6:,.0f}") for count, most in peaks.items()]
    rows += [(f"1 of {wide * sizes[name]:,} x {high * sizes[name]:,} pixels", f"{most / 1e6:,.0f}")
             for name, most in larger.items()]
    ratios = {"memory_10_over_1": peaks[10] / peaks[1], "memory_100_over_1": peaks[100] / peaks[1],
              "memory_medium_over_small": larger["medium"] / larger["small"],
              "memory_large_over_medium": larger["large"] / larger["medium"]}
    return table(("slides", "most memory of all processes, MB"), rows), ratios


def peak(home: Path, folder: Path, count: int, processes: int) -> float:
    """The most memory that belongs to the command's processes , seen every 20 ms; bytes."""
    frame = pd.DataFrame({"slide": [f"s{number}" for number in range(count)]})
    frame.to_csv(home / "slides.csv", index=False)
    shutil.rmtree(home / "out", ignore_errors=True)
    command = [sys.executable, "-m", "milscope", "tile", str(home / "slides.csv"), "--images", str(folder), "--size", str(SIDE),
               "--workers", str(processes), "--out", str(home / "out")]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        try:
            everyone = [process, *process.children(recursive=True)]
            most = max(most, sum(each.memory_info().rss for each in everyone))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return most


if __name__ == "__main__":
    main()
