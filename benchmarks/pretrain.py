"""Pretraining: what gradient surgery costs, how near the loop comes to the bare network, and how others do the same job.

Sides are measured in turn (A B A B …) in one run; a ratio is the median of the rounds' ratios. Parts and their ratios:

* surgery: `ags_time_over_sum` and `flat_over_sum` (whole steps over the plain sum of the same two backward passes),
  `over_torchjd` (speed of our PCGrad over torchjd's in the same float32 loop);
* memory: `ags_memory_over_sum` (peak memory of a step, each side in a process of its own);
* loop: `loop_over_bare` (milscope.pretrain over forward and two backward passes on views in memory);
* plain: `over_plain_64`, `over_plain_224` (views a second over those of the plain way, see `_plain.py`);
* lightly: `over_lightly` (SimCLR by milscope over SimCLR by lightly);
* growth: `read_growth`, `loop_growth`, … (views a second at the most cells over those at the least).

    python benchmarks/pretrain.py [--parts surgery,loop] [--quick] [--rounds 5] [--json FILE] [--docs docs/performance.md]
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from _cells import Cells, render, repeated, workers
from _growth import SIDE, SIZE, STEPS, Child
from _memory import peak
from _ours import Bare, loop, settings
from _timing import in_turn, machine, ratio, seconds, table, versions, write_between_marks, write_json

GIGABYTE = 1e9


class Measured(NamedTuple):
    """What a part of the benchmark found."""

    text: str
    figures: dict[str, object]
    ratios: dict[str, float]


class Plan(NamedTuple):
    """How much is measured, and where its files go."""

    home: Path
    rounds: int
    quick: bool

    def steps(self, number: int) -> int:
        """Steps of a round."""
        return 2 if self.quick else number

    def cells(self, side: int, number: int) -> Cells:
        """Cells of that side, made once."""
        home = self.home / f"cells-{side}"
        return render(home, cells=number, side=side)


def surgery(plan: Plan) -> Measured:
    """Whole steps that differ in how two losses become one gradient only."""
    figures, ratios, rows = {}, {}, []
    for precision, batch in (("auto", 128), ("float32", 64)):
        bare = other_surgery(batch // 4 if plan.quick else batch, precision)
        sides = {"plain sum": bare.added, "AGS": lambda bare=bare: bare.surgery("ags"), "AGS, flat copies": bare.flat}
        if precision == "float32":
            sides["PCGrad"] = lambda bare=bare: bare.surgery("pcgrad")
            if hasattr(bare, "jacobian"):
                sides["PCGrad by torchjd"] = bare.jacobian
                sides["PCGrad by torchjd, one task at a time"] = lambda bare=bare: bare.jacobian(1)
        taken = in_turn({name: lambda work=work, bare=bare: seconds(work, bare.device) for name, work in sides.items()},
                        plan.rounds)
        name = str(bare.precision).removeprefix("torch.")
        figures[name] = taken
        rows += [(name, len(bare.views), side, f"{1e3 * median(each):,.0f}", f"{ratio(each, taken['plain sum']):.3f}")
                 for side, each in taken.items()]
        ending = "" if precision == "auto" else "_float32"
        ratios |= {f"ags_time_over_sum{ending}": ratio(taken["AGS"], taken["plain sum"]),
                   f"flat_over_sum{ending}": ratio(taken["AGS, flat copies"], taken["plain sum"])}
        if "PCGrad by torchjd" in taken:
            ratios["over_torchjd"] = ratio(taken["PCGrad by torchjd"], taken["PCGrad"])
            ratios["over_torchjd_one_by_one"] = ratio(taken["PCGrad by torchjd, one task at a time"], taken["PCGrad"])
    text = table(("arithmetic", "views", "step of ResNet-18, 64 px", "ms", "over the plain sum"), rows)
    return Measured(text, figures, ratios)


def other_surgery(batch: int, precision: str) -> Bare:
    """The loop with torchjd in it where torchjd is installed and can take part."""
    if precision == "float32":
        try:
            from _torchjd import TorchJD
        except ImportError:
            print("torchjd is not installed: left out")
        else:
            return TorchJD(64, batch, precision)
    return Bare(64, batch, precision)


def memory(plan: Plan) -> Measured:
    """Peak memory of a step, sides in turn, a process each time."""
    batch = 32 if plan.quick else 128
    taken = in_turn({side: lambda side=side: peak(side, 64, batch) for side in ("sum", "ags")}, min(plan.rounds, 5), warm=0)
    found = ratio(taken["ags"], taken["sum"])
    rows = [("plain sum", f"{median(taken['sum']) / 1e6:,.0f}", "1"),
            ("AGS", f"{median(taken['ags']) / 1e6:,.0f}", f"{found:.3f}")]
    text = table((f"step of ResNet-18, 64 px, {2 * batch} views", "peak memory, MB", "over the plain sum"), rows)
    return Measured(text, {"bytes": taken}, {"ags_memory_over_sum": found})


def whole_loop(plan: Plan) -> Measured:
    """Training as users start it, over the bare network on views in memory."""
    batch, steps = 32 if plan.quick else 128, plan.steps(4)
    cells = plan.cells(72, 1024)
    bare = Bare(64, batch)
    config = settings(64, batch)

    def forward_and_backward() -> float:
        return 2 * batch * steps / seconds(lambda: [bare.gradients() for _ in range(steps)], bare.device)

    taken = in_turn({"loop": lambda: loop(cells.store, cells.table, plan.home / "loop", config, steps),
                     "bare": forward_and_backward}, plan.rounds)
    return speeds(f"ResNet-18, 64 px, {2 * batch} views a step", taken, {"loop_over_bare": ("loop", "bare")},
                  {"loop": "milscope.pretrain: fetch, augment, forward, two backward, AGS, AdamW",
                   "bare": "forward and two backward passes on views in memory"})


def plain(plan: Plan) -> Measured:
    """The plain way at both sizes."""
    from _plain import Plain

    found = []
    for size, batch, steps, number in ((64, 128, 4, 1024), (224, 16, 2, 256)):
        batch = batch // 4 if plan.quick else batch
        cells = plan.cells(size * 9 // 8, number)
        other = Plain(cells.folder, size, batch, workers())
        config, out = settings(size, batch), plan.home / f"plain-{size}"
        alike = dataclasses.replace(config, statistics="per-view")
        taken = in_turn({"ours": lambda c=cells, o=out, s=config, n=steps: loop(c.store, c.table, o, s, plan.steps(n)),
                         "alike": lambda c=cells, o=out, s=alike, n=steps: loop(c.store, c.table, Path(f"{o}-alike"), s,
                                                                                 plan.steps(n)),
                         "plain": lambda p=other, n=steps: p.rate(plan.steps(n))}, plan.rounds)
        wanted = {f"over_plain_{size}": ("ours", "plain"), f"over_plain_{size}_per_view": ("alike", "plain")}
        found.append(speeds(f"ResNet-18, {size} px, {2 * batch} views a step", taken, wanted, {
            "ours": "milscope.pretrain", "alike": "milscope.pretrain, statistics per view as the plain way has them",
            "plain": "the plain way"}))
    return joined(found)


def lightly(plan: Plan) -> Measured:
    """SimCLR by either library; SLAM-AGS beside it, which does more."""
    from _lightly import Lightly

    batch, steps = 32 if plan.quick else 128, plan.steps(4)
    cells = plan.cells(72, 1024)
    other = Lightly(cells.folder, 64, batch, workers())

    def ours(method: str) -> Callable[[], float]:
        config = settings(64, batch, method=method)
        return lambda: loop(cells.store, cells.table, plan.home / f"lightly-{method}", config, steps)

    taken = in_turn({"simclr": ours("simclr"), "lightly": lambda: other.rate(steps), "slam-ags": ours("slam-ags")}, plan.rounds)
    return speeds(f"ResNet-18, 64 px, {2 * batch} views a step", taken,
                  {"over_lightly": ("simclr", "lightly"), "slam_ags_over_lightly": ("slam-ags", "lightly")},
                  {"simclr": "milscope.pretrain, SimCLR", "lightly": "lightly, SimCLR",
                   "slam-ags": "milscope.pretrain, SLAM-AGS"})


def growth(plan: Plan) -> Measured:
    """Reading and training at 10⁴, 10⁵ and 10⁶ cells, decoded cells kept or decoded at every use."""
    few = render(plan.home / "few", cells=1000, side=SIDE, slides=2)
    sizes = (10_000, 20_000) if plan.quick else (10_000, 100_000, 1_000_000)
    children = {}
    for size in sizes:
        store = repeated(few, plan.home / f"store-{size}", times=size // 1000).store
        children[size, "kept"] = Child(store, plan.home / f"kept-{size}", 64.0)
        children[size, "decoded"] = Child(store, plan.home / f"decoded-{size}", 0.0)
    rates = {what: in_turn({key: partial(child.rate, what) for key, child in children.items()}, plan.rounds) for what in STEPS}
    memory = {key: child.close() for key, child in children.items()}
    ratios = {f"{what}_growth{'' if mode == 'kept' else '_decoding'}": ratio(taken[sizes[-1], mode], taken[sizes[0], mode])
              for what, taken in rates.items() for mode in ("kept", "decoded")}
    rows = [(f"{size:,}", "kept decoded" if mode == "kept" else "decoded at every use",
             *(f"{median(taken[size, mode]):,.0f}" for taken in rates.values()),
             *(f"{memory[size, mode][each] / GIGABYTE:.2f}" for each in ("peak", "own")),
             f"{size * SIDE * SIDE * 3 / GIGABYTE:.2f}" if mode == "kept" else "0") for size, mode in children]
    head = ("cells", "pixels", "read and augment, views/s", f"loop with a narrow ResNet-18, {SIZE} px, views/s",
            "peak memory, mapped files included, GB", "of its own, GB", "decoded cells on disk, GB")
    figures = {what: {f"{size} {mode}": each for (size, mode), each in taken.items()} for what, taken in rates.items()}
    figures["memory"] = {f"{size} {mode}": each for (size, mode), each in memory.items()}
    return Measured(table(head, rows), figures, ratios)


def speeds(title: str, taken: dict[str, list[float]], wanted: dict[str, tuple[str, str]], words: dict[str, str]) -> Measured:
    """Views a second of every side, and the ratios between some."""
    ratios = {name: ratio(taken[above], taken[below]) for name, (above, below) in wanted.items()}
    rows = [(words[side], f"{median(each):,.0f}", ", ".join(f"`{name}` {ratios[name]:.2f}" for name in wanted
             if wanted[name][0] == side)) for side, each in taken.items()]
    return Measured(table((title, "views/s", "ratio"), rows), {title: taken}, ratios)


def joined(parts: list[Measured]) -> Measured:
    """Several findings as one."""
    figures, ratios = {}, {}
    for each in parts:
        figures |= each.figures
        ratios |= each.ratios
    return Measured("\n\n".join(each.text for each in parts), figures, ratios)


PARTS = {"surgery": surgery, "memory": memory, "loop": whole_loop, "plain": plain, "lightly": lightly, "growth": growth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small batches and short stretches: whether it runs, not how fast")
    parser.add_argument("--scratch", type=Path, help="where to put about 10 GB of cells for a while")
    parser.add_argument("--docs", type=Path, help="write the tables between the marks of this page")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = arguments.parts.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        raise SystemExit(f"`--parts` should be some of {', '.join(PARTS)}. Found {', '.join(unknown)}.")
    found, taken = {}, {}
    for part in chosen:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as home:
            found[part] = PARTS[part](Plan(Path(home), arguments.rounds, arguments.quick))
        taken[part] = time.perf_counter() - start
        print(f"{part}: {taken[part]:.0f} s\n\n{found[part].text}\n", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratios = {name: round(value, 3) for each in found.values() for name, value in each.ratios.items()}
    where = f"{machine(device)}; " + ", ".join(f"{name} {number}" for name, number in versions().items())
    text = "\n\n".join([f"{where}. Medians of {arguments.rounds} rounds, sides in turn.",
                        *(each.text for each in found.values()),
                        table(("ratio", "value"), [(f"`{name}`", f"{value:.3f}") for name, value in ratios.items()])])
    print(text[text.rindex("| ratio"):])
    if arguments.docs:
        write_between_marks(arguments.docs, text)
    if arguments.json:
        figures = {part: each.figures for part, each in found.items()}
        write_json(arguments.json, machine(device), figures | {"seconds": taken}, ratios)


if __name__ == "__main__":
    main()
