"""One pass for several tasks beside a model for each: time, memory and parameters by the number of cells and of tasks.

One slide of 384 features a cell, each task of two classes. Sides: one `mecds` of all tasks; a `mecds`, an `abmil-gated`, a
`transmil` for each task, one after the other. Every measurement is in a process of its own; sides follow each other in turn.

* `each_over_one_time_400`, … (time of a training step of a `mecds` for each of three tasks over one of all; `_memory_`,
  `_parameters` likewise; `abmil_…`, `transmil_…` with those for each task);
* `one_memory_growth` (memory of the step on the largest slide over that on one of a tenth of the cells, by ten: 1 is linear);
* `one_time_8_tasks` (time of the step for the most tasks over that for one), `each_time_8_tasks`.

    python benchmarks/multitask.py [--quick] [--rounds 3] [--json FILE] [--docs docs/performance.md]
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import _multitask
from _multitask import SIDES, Took
from _timing import publish, table

GIGABYTE = 1e9
TASKS = 3
SHORT = {"one mecds": "one", "a mecds each": "each", "an abmil-gated each": "abmil", "a transmil each": "transmil"}
PASSES = ("predicting", "training")
Taken = Mapping[str, Sequence[Took]]


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int
    cells: tuple[int, ...]
    tasks: tuple[int, ...]
    middle: int
    """Cells of the slide on which the number of tasks grows."""


FULL = ((400, 4000, 40_000), (1, 2, 3, 5, 8), 4000)
QUICK = ((50, 500), (1, 2), 200)


def compared(sides: Sequence[str], tasks: int, cells: int, passes: str, rounds: int) -> Taken:
    """What each side takes, in turn."""
    taken: dict[str, list[Took]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else sides[::-1]:
            taken[side].append(_multitask.alone(side, tasks, cells, passes))
    return taken


def of(taken: Taken, side: str, what: str) -> float:
    """The median over the rounds."""
    return median(getattr(took, what) for took in taken[side])


def over(taken: Taken, above: str, below: str, what: str) -> float:
    """The median over the rounds of the one over the other in the same round."""
    return median(getattr(a, what) / getattr(b, what) for a, b in zip(taken[above], taken[below], strict=True))


def by_cells(plan: Plan) -> tuple[str, dict[str, object], dict[str, float]]:
    """All sides on slides of different sizes."""
    rows, figures, ratios, first = [], {}, {}, "one mecds"
    for cells in plan.cells:
        both = {passes: compared(list(SIDES), TASKS, cells, passes, plan.rounds) for passes in PASSES}
        figures[f"{cells} cells"] = {passes: plain(taken) for passes, taken in both.items()}
        for side in SIDES:
            rows.append((f"{cells:,}", side, f"{of(both['training'], side, 'parameters') / 1e6:.2f}",
                         *(f"{of(both[passes], side, 'seconds'):.3f} s, {of(both[passes], side, 'bytes') / GIGABYTE:.2f} GB"
                           for passes in PASSES)))
            if side != first:
                for what, name in (("seconds", "time"), ("bytes", "memory")):
                    ratios[f"{SHORT[side]}_over_one_{name}_{cells}"] = over(both["training"], side, first, what)
                ratios[f"{SHORT[side]}_over_one_parameters"] = over(both["training"], side, first, "parameters")
    few, many = plan.cells[-2:]
    most = [of_record(figures, cells, first) for cells in (few, many)]
    ratios["one_memory_growth"] = most[1] / most[0] / (many / few)
    head = ("cells", f"{TASKS} tasks", "parameters, millions", *(f"{passes}: time, memory" for passes in PASSES))
    return table(head, rows), figures, ratios


def of_record(figures: Mapping[str, object], cells: int, side: str) -> float:
    """Bytes of a training step, from what was kept."""
    return median(took["bytes"] for took in figures[f"{cells} cells"]["training"][side])


def by_tasks(plan: Plan) -> tuple[str, dict[str, object], dict[str, float]]:
    """One model and a model for each as the tasks become more."""
    rows, figures, sides = [], {}, ["one mecds", "a mecds each"]
    for tasks in plan.tasks:
        taken = compared(sides, tasks, plan.middle, "training", plan.rounds)
        figures[f"{tasks} tasks"] = plain(taken)
        rows.append((tasks, *(f"{of(taken, side, 'seconds'):.3f} s, {of(taken, side, 'bytes') / GIGABYTE:.2f} GB, "
                              f"{of(taken, side, 'parameters') / 1e6:.2f} M" for side in sides)))
    fewest, most = (figures[f"{tasks} tasks"] for tasks in (plan.tasks[0], plan.tasks[-1]))
    ratios = {f"{SHORT[side]}_time_{plan.tasks[-1]}_tasks":
              median(a["seconds"] / b["seconds"] for a, b in zip(most[side], fewest[side], strict=True)) for side in sides}
    head = ("tasks", *(f"{side}: training step of {plan.middle:,} cells, parameters" for side in sides))
    return table(head, rows), figures, ratios


def plain(taken: Taken) -> dict[str, list[dict[str, float]]]:
    """For the file of all figures."""
    return {side: [took._asdict() for took in tooks] for side, tooks in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few cells and tasks: whether it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path, help="page with the marks <!-- multitask: begin --> and end")
    options = parser.parse_args()
    plan = Plan(options.rounds, *(QUICK if options.quick else FULL))
    parts = [by_cells(plan), by_tasks(plan)]
    found = ("\n\n".join(text for text, _, _ in parts), {name: value for _, own, _ in parts for name, value in own.items()},
             {name: value for _, _, own in parts for name, value in own.items()})
    ratios = table(("ratio", ""), [(f"`{name}`", f"{value:.2f}") for name, value in found[2].items()])
    publish(options, "multitask", (f"{found[0]}\n\n{ratios}", *found[1:]), "every measurement in a process of its own")


if __name__ == "__main__":
    main()
