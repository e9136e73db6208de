"""Training end to end: attention plus, the loop beside the bare networks, the exact gradient, memory that holds, a GPU.

Parts, and their ratios (sides in turn; a ratio is the median of the rounds' ratios):

* attention: `materialised_over_ours_1000`, … (time of the formula with its matrices written out over ours, forward and
  backward), `attention_plus_100k_gb` (most memory of a slide model's forward pass on 100,000 cells, features included, 8 heads;
  `_training` with the backward pass), `attention_plus_over_plain_400` (time of a step of the slide model over one whose alpha
  is fixed at 0);
* epoch: `epoch_over_bare` (rows a second of milscope.endtoend over forward, backward and AdamW of both networks on as many rows
  in memory);
* exact: `exact_time_over_one_graph` (the gradient in chunks over one graph of all cells, where that fits);
* memory: `exact_memory_growth` (most memory of a training with 10,000 cells a slide over one with 100),
  `memory_held_over_asked` (the worst of several `--memory`);
* gpu: slides a second and memory at 512 and 3,000 cells of 224 px, ResNet-18 and 50; only where there is CUDA.

    python benchmarks/endtoend.py [--part attention,epoch] [--quick] [--rounds 5] [--json FILE] [--docs docs/performance.md]

`--docs` writes each part between marks of its own, so that parts can be measured at different times.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import _attention
import _endtoend
import _held
import torch
from _timing import in_turn, machine, ratio, seconds, table, versions, write_between_marks, write_json

CPU = torch.device("cpu")
GIGABYTE = 1e9
WARM = 4
"""Steps until a new network is as fast as it gets."""
SLOW, FEWER = 40_000, 1
"""From so many cells on, so many rounds at most."""


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


def attention(plan: Plan) -> Measured:
    """Attention plus beside the formula written out, the slide model on very large slides, and what it adds on small ones."""
    found = [beside_materialised(plan), largest(plan), beside_plain(plan)]
    figures = {name: value for each in found for name, value in each.figures.items()}
    return Measured("\n\n".join(each.text for each in found), figures,
                    {name: value for each in found for name, value in each.ratios.items()})


def beside_materialised(plan: Plan) -> Measured:
    """Time and memory of ours and of the matrices, each pass in a process of its own."""
    figures, ratios, rows = {}, {}, []
    for cells in (300, 1000) if plan.quick else (1000, 5000, 10_000, 40_000):
        for passes in ("forward", "training"):
            fit = [side for side in _attention.SIDES if _attention.needs(side, cells, passes) < 0.8 * free()]
            taken: dict[str, list[_attention.Took]] = {side: [] for side in fit}
            for turn in range(min(plan.rounds, FEWER) if cells >= SLOW else plan.rounds):
                for side in fit if turn % 2 == 0 else fit[::-1]:
                    taken[side].append(_attention.alone(side, cells, passes))
            figures[f"{cells} {passes}"] = {side: [each._asdict() for each in tooks] for side, tooks in taken.items()}
            rows.append((f"{cells:,}", passes, *(cell_of(side, taken.get(side), cells, passes) for side in _attention.SIDES)))
            others = {side: [each.seconds for each in taken[side]] for side in ("whole", "by head") if side in taken}
            own, ending = [each.seconds for each in taken["ours"]], "" if passes == "training" else "_forward"
            if others:
                ratios[f"materialised_over_ours_{cells}{ending}"] = min(ratio(other, own) for other in others.values())
    head = ("cells", "pass", "ours: s, GB", "all heads' matrices: s, GB", "one head's matrix at a time: s, GB")
    return Measured(table(head, rows), figures, ratios)


def cell_of(side: str, taken: Sequence[_attention.Took] | None, cells: int, passes: str) -> str:
    """Time and memory, or what would have been needed."""
    if not taken:
        return f"would take {_attention.needs(side, cells, passes) / GIGABYTE:.0f} GB"
    return f"{median(each.seconds for each in taken):.3f}, {median(each.bytes for each in taken) / GIGABYTE:.2f}"


def free() -> float:
    """Bytes that can be had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


def largest(plan: Plan) -> Measured:
    """The whole slide model on 100,000 cells, its features included."""
    cells = 2000 if plan.quick else 100_000
    took = {passes: _attention.alone("model", cells, passes) for passes in ("forward", "training")}
    rows = [(f"{cells:,}", name, f"{each.seconds:.1f}", f"{each.bytes / GIGABYTE:.2f}") for name, each in took.items()]
    return Measured(table(("cells", "pass of ABMILX, 512 features, 8 heads", "s", "most memory, features included, GB"), rows),
                    {"100k": {name: each._asdict() for name, each in took.items()}},
                    {"attention_plus_100k_gb": took["forward"].bytes / GIGABYTE,
                     "attention_plus_100k_training_gb": took["training"].bytes / GIGABYTE})


def beside_plain(plan: Plan) -> Measured:
    """What attention plus adds to a step of the slide model on one slide of 400 cells."""
    sides = {"attention plus": {}, "alpha fixed at 0": {"alpha": 0.0, "learn_alpha": False}}
    times, taken = 3 if plan.quick else 50, {}
    for passes in ("forward", "training"):
        works = {name: _attention.model(options, 400, passes) for name, options in sides.items()}
        taken[passes] = in_turn({name: lambda work=work: seconds(lambda: [work() for _ in range(times)], CPU) / times
                                 for name, work in works.items()}, plan.rounds)
    rows = [(name, *(f"{1e3 * median(taken[passes][name]):.2f}" for passes in taken)) for name in sides]
    ratios = {f"attention_plus_over_plain_400{ending}": ratio(*(taken[passes][name] for name in sides))
              for passes, ending in (("training", ""), ("forward", "_forward"))}
    head = ("one slide of 400 cells, 512 features, 8 heads", "forward, ms", "forward and backward, ms")
    return Measured(table(head, rows), {"400": taken}, ratios)


def epoch(plan: Plan) -> Measured:
    """Training as users start it, over the bare networks on views in memory."""
    from milscope.configs import EndToEndConfig

    settings = {"size": 32, "budget": 16} if plan.quick else {"size": 64, "budget": 128}
    config, steps = EndToEndConfig(epochs=1000, **settings), 2 if plan.quick else 6
    cells = _endtoend.slides_of(plan.home, cells=config.budget + 16, side=config.size * 9 // 8,
                                train=config.batch * (steps + 1))
    bare, out = _endtoend.Bare(config, config.budget), plan.home / "loop"
    for _ in range(WARM):
        bare.step()
    taken = in_turn({"loop": lambda: _endtoend.loop(cells, out, config, steps),
                     "bare": lambda: seconds(lambda: [bare.step() for _ in range(steps)], bare.device) / steps}, plan.rounds)
    found, rows = ratio(taken["bare"], taken["loop"]), config.batch * config.budget
    lines = [(f"milscope.endtoend: {said(out)}", f"{rows / median(taken['loop']):,.0f}", f"`epoch_over_bare` {found:.2f}"),
             ("forward, backward and AdamW on views in memory, one graph", f"{rows / median(taken['bare']):,.0f}", "")]
    head = (f"ResNet-18 and ABMILX, {config.size} px, {config.batch} slides of {config.budget} cells", "cells/s", "ratio")
    return Measured(table(head, lines), {"seconds": taken}, {"epoch_over_bare": found})


def said(out: Path) -> str:
    """What the plan of a training says of itself."""
    return json.loads((_endtoend.work_of(out) / "plan.json").read_text())["said"]


def exact(plan: Plan) -> Measured:
    """The exact gradient in parts, beside one graph of everything."""
    from milscope.configs import EndToEndConfig

    size, cells, chunk = (32, 64, 16) if plan.quick else (64, 2000, 256)
    bare = _endtoend.Bare(EndToEndConfig(size=size, batch=1), cells).fixed()
    parts, whole = torch.arange(cells).split(chunk), torch.arange(cells).split(cells)
    sides = {"one graph": lambda: bare.one_graph(whole), "one graph, encoded in the same parts": lambda: bare.one_graph(parts),
             f"exact, {chunk} cells at a time": lambda: bare.in_parts(parts)}
    taken = in_turn({name: lambda work=work: seconds(work, bare.device) for name, work in sides.items()}, plan.rounds)
    one, same, ours = taken.values()
    ratios = {"exact_time_over_one_graph": ratio(ours, one), "exact_time_over_same_parts": ratio(ours, same)}
    rows = [(name, f"{median(each):.2f}", f"{ratio(each, one):.2f}") for name, each in taken.items()]
    return Measured(table((f"a step on one slide of {cells:,} cells, ResNet-18, {size} px", "s", "over one graph"), rows),
                    {"seconds": taken}, ratios)


def memory_held(plan: Plan) -> Measured:
    """Most memory of whole trainings: exact ones as slides grow, sampled ones as they are given more."""
    rows, exact_peaks, held, figures = [], [], [], {}
    size = 32 if plan.quick else 64
    for cells in (50, 100) if plan.quick else (100, 1000, 10_000):
        settings = {"sampler": "all", "memory": "2GB", "batch": 1, "chunk": 16 if plan.quick else 64}
        found = training(plan, cells, size, settings)
        figures[f"exact {cells}"] = found
        exact_peaks.append(found["peak"])
        rows.append((f"all cells, chunks of {found['chunk']}", f"{cells:,}", "2GB", f"{found['peak'] / GIGABYTE:.2f}"))
    for asked in ("1.2GB", "2GB") if plan.quick else ("1.2GB", "2GB", "4GB", "8GB"):
        cells = 100 if plan.quick else 2000
        found = training(plan, cells, size, {"memory": asked, "budget": 0})
        figures[f"asked {asked}"] = found
        held.append(found["peak"] / (float(asked[:-2]) * GIGABYTE))
        rows.append((f"{found['budget']} cells a slide and step, chunks of {found['chunk']}", f"{cells:,}", asked,
                     f"{found['peak'] / GIGABYTE:.2f}"))
    head = (f"one epoch, ResNet-18 and ABMILX, {size} px; gradients of", "cells a slide", "`--memory`", "most memory taken, GB")
    return Measured(table(head, rows), figures, {"exact_memory_growth": exact_peaks[-1] / exact_peaks[0],
                                                 "memory_held_over_asked": max(held)})


def training(plan: Plan, cells: int, size: int, settings: dict) -> dict:
    """One epoch on a few slides in a process of its own."""
    with tempfile.TemporaryDirectory(dir=plan.home) as folder:
        home = Path(folder)
        made = _endtoend.slides_of(home, cells=cells, side=size * 9 // 8, train=max(2, settings.get("batch", 4)))
        listed = _endtoend.table_of(made, home / "slides.csv")
        return _held.alone(made.store, listed, home / "out", {"size": size, "epochs": 1, **settings})


def gpu(plan: Plan) -> Measured:
    """Slides a second and memory on a GPU, as the paper has them: one slide a step, 224 px."""
    if not torch.cuda.is_available():
        return Measured("No GPU was to be had.", {}, {})
    from milscope.configs import EndToEndConfig

    size, steps = (32, 2) if plan.quick else (224, 8)
    cells = _endtoend.slides_of(plan.home, cells=100 if plan.quick else 3000, side=size * 9 // 8, train=steps + 1)
    figures, rows = {}, []
    for encoder in ("resnet18", "resnet50"):
        for number in (32, 100) if plan.quick else (512, 3000):
            for sampler in ("random", "all"):
                if sampler == "all" and number < (100 if plan.quick else 3000):
                    continue
                config = EndToEndConfig(encoder=encoder, size=size, batch=1, budget=number, epochs=1000, sampler=sampler,
                                        memory="64GB", cache=64.0)
                out = plan.home / f"{encoder}-{number}-{sampler}"
                _endtoend.peak_on_device()
                taken = in_turn({"loop": lambda out=out, config=config: _endtoend.loop(cells, out, config, steps)}, plan.rounds)
                found = {"seconds": taken["loop"], "bytes": _endtoend.peak_on_device(), "said": said(out)}
                figures[f"{encoder} {number} {sampler}"] = found
                rows.append((encoder, f"{number:,}", found["said"], f"{1 / median(taken['loop']):.2f}",
                             f"{found['bytes'] / GIGABYTE:.1f}"))
    head = (f"{size} px on {torch.cuda.get_device_name()}", "cells a step", "how", "slides/s", "most memory, GB")
    return Measured(table(head, rows), figures, {})


PARTS = {"attention": attention, "epoch": epoch, "exact": exact, "memory": memory_held, "gpu": gpu}


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", "--part", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few and small cells: whether it runs, not how fast")
    parser.add_argument("--scratch", type=Path, help="where cells are put for a while, about 5 GB")
    parser.add_argument("--docs", type=Path, help="write the tables between the marks of this page")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = options.parts.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        raise SystemExit(f"`--parts` should be some of {', '.join(PARTS)}. Found {', '.join(unknown)}.")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    figures, ratios, taken = {}, {}, {}
    for part in chosen:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=options.scratch) as home:
            found = PARTS[part](Plan(Path(home), options.rounds, options.quick))
        taken[part] = time.perf_counter() - start
        figures[part] = found.figures
        ratios |= {name: round(value, 3) for name, value in found.ratios.items()}
        tell(options, part, found, device)
    if options.json:
        write_json(options.json, machine(device), figures | {"seconds": taken}, ratios)


def tell(options: argparse.Namespace, part: str, found: Measured, device: torch.device) -> None:
    """Prints a part, and writes it into the page."""
    where = f"{machine(device)}; " + ", ".join(f"{name} {number}" for name, number in versions().items())
    ratios = table(("ratio", "value"), [(f"`{name}`", f"{value:.3f}") for name, value in found.ratios.items()])
    text = "\n\n".join([f"{where}. Medians of {options.rounds} rounds, sides in turn.", found.text,
                        *([ratios] if found.ratios else [])])
    print(f"{part}\n\n{text}\n", flush=True)
    if options.docs:
        write_between_marks(options.docs, text, f"endtoend-{part}")


if __name__ == "__main__":
    main()
