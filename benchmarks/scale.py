"""What a slide costs as slides become many: tile, encode and predict with 10, 100 and 1,000 slides of small crops.

    python benchmarks/scale.py [--slides 10,100,1000] [--executors processes,ray] [--docs docs/cluster.md] [--json FILE]

Every measurement is a process of its own, and each round has all of them. Told are the seconds of each stage, what a further
slide costs from the second number to the third (the same for other numbers: cost is linear), and the main process's peak
memory at the fewest and at the most slides.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import NamedTuple

CROPS, SIDE = 50, 64
STAGES = ("tile", "encode", "predict")


class Taken(NamedTuple):
    """Seconds of the stage alone, and the peak memory of the process that leads it, bytes."""

    seconds: float
    peak: float


def make(place: Path, counts: Sequence[int]) -> None:
    """Crops, a slide table, an encoder, a model; for each number of slides its cells and features."""
    import milscope as ms

    names = make_crops(place, max(counts))
    table = make_table(names)
    for count in counts:
        ms.tile(table[:count], place / f"tile{count}", cells=place / "cells", config=ms.TileConfig())
    encoder = ms.PretrainConfig(epochs=0, size=32, encoder_options={"channels": [8, 8, 16, 16]})
    ms.pretrain(place / f"tile{counts[0]}", table[: counts[0]], place / "pretrain", encoder)
    for count in counts:
        ms.encode(place / f"tile{count}", place / "pretrain", place / f"encode{count}")
    ms.train(place / f"encode{counts[0]}", table[: counts[0]], place / "train", ms.TrainConfig(epochs=1))


def make_crops(place: Path, count: int) -> list[str]:
    """Noise, in as many folders as slides: hard links, as only reading is measured."""
    import numpy as np
    import simplejpeg

    random = np.random.default_rng(0)
    first = place / "cells" / "s00000"
    first.mkdir(parents=True)
    for number in range(CROPS):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        (first / f"c{number}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, 90))
    names = [f"s{number:05d}" for number in range(count)]
    for name in names[1:]:
        (place / "cells" / name).mkdir()
        for crop in first.iterdir():
            os.link(crop, place / "cells" / name / crop.name)
    return names


def make_table(names: Sequence[str]) -> object:
    """Slides of both classes for training and validation, among the first already."""
    import pandas as pd

    places = range(len(names))
    return pd.DataFrame({"slide": names, "patient": names, "abnormal": [place % 2 for place in places],
                         "split": ["train" if place // 2 % 2 else "validation" for place in places]})


def measure(place: Path, stage: str, executor: str, count: int) -> Taken:
    """One stage in a process of its own."""
    command = [sys.executable, __file__, "--one", str(place), stage, executor, str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Taken(*json.loads(done.stdout.splitlines()[-1]))


def one(place: Path, stage: str, executor: str, count: int) -> Taken:
    """Runs the stage here; starting Ray is not counted, nor are imports."""
    from _timing import memory

    import milscope as ms

    table = make_table([f"s{number:05d}" for number in range(count)])
    if executor == "ray":
        import ray

        ray.init(address="local", object_store_memory=100 * 2**20, log_to_driver=False)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        out = Path(folder) / "out"
        work = {
            "tile": lambda: ms.tile(table, out, cells=place / "cells", config=ms.TileConfig(executor=executor)),
            "encode": lambda: ms.encode(place / f"tile{count}", place / "pretrain", out, ms.EncodeConfig(executor=executor)),
            "predict": lambda: ms.predict(place / f"encode{count}", place / "train", out, table,
                                          ms.PredictConfig(executor=executor)),
        }[stage]
        start = time.perf_counter()
        work()
        taken = Taken(time.perf_counter() - start, memory("VmHWM"))
    if executor == "ray":
        ray.shutdown()
    return taken


def growth(taken: dict[int, Taken]) -> tuple[float, float]:
    """What a further slide costs from the second number to the third, seconds; and the growth of memory over all."""
    few, some, many = taken
    return (taken[many].seconds - taken[some].seconds) / (many - some), taken[many].peak / taken[few].peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", default="10,100,1000", help="three numbers of slides, rising")
    parser.add_argument("--executors", default="processes,ray")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, help="page with the marks `scale`")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        place, stage, executor, count = asked.one
        print(json.dumps(one(Path(place), stage, executor, int(count))))
        return
    counts = [int(count) for count in asked.slides.split(",")]
    sides = [(stage, executor) for stage in asked.stages.split(",") for executor in asked.executors.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), counts)
        taken: dict[tuple[str, str, int], list[Taken]] = {}
        for turn in range(asked.rounds):
            keys = [(*side, count) for count in counts for side in sides]
            for key in keys if turn % 2 == 0 else keys[::-1]:
                taken.setdefault(key, []).append(measure(Path(folder), *key))
    middle = {key: Taken(*(median(values) for values in zip(*rounds, strict=True))) for key, rounds in taken.items()}
    tell(sides, counts, middle, asked)


def tell(sides: Sequence[tuple[str, str]], counts: Sequence[int], middle: dict[tuple[str, str, int], Taken],
         asked: argparse.Namespace) -> None:
    """Prints, and writes where it was asked to."""
    from _timing import table, write_between_marks, write_json

    rows, ratios, figures = [], {}, {}
    for stage, executor in sides:
        own = {count: middle[stage, executor, count] for count in counts}
        cost, memory = growth(own)
        ratios |= {f"{stage}_{executor}_memory_growth": memory}
        figures |= {f"{stage}_{executor}_{count}": taken._asdict() for count, taken in own.items()}
        figures |= {f"{stage}_{executor}_further_slide": cost}
        rows.append([stage, executor, *(f"{taken.seconds:.2f} s" for taken in own.values()), f"{1000 * cost:.1f} ms",
                     *(f"{own[count].peak / 1e6:.0f} MB" for count in (counts[0], counts[-1]))])
    head = ["stage", "executor", *(f"{count:,} slides" for count in counts), f"a further slide, {counts[1]:,} to {counts[2]:,}",
            *(f"memory, {count:,} slides" for count in (counts[0], counts[-1]))]
    said = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    if any(executor == "ray" for _, executor in sides):
        said += f", ray {version('ray')}"
    text = f"{table(head, rows)}\n\n{CROPS} crops of {SIDE} px a slide; medians of {asked.rounds} rounds; {said}."
    print(text)
    if asked.docs:
        write_between_marks(asked.docs, text, "scale")
    if asked.json:
        write_json(asked.json, said, figures, ratios)


if __name__ == "__main__":
    main()
