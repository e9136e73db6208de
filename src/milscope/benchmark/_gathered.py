"""The results of a benchmark's directory, and which of those that were planned are missing."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from milscope.types import refuse

RESULT = "result.json"
PLAN = "grid.json"
Place = tuple[int, float, str]
"""Seed, witness rate, method."""


class Grid(NamedTuple):
    """What a benchmark has found so far.

    Attributes:
        directory: Where it lies.
        name: Of the cells; the directory's, if it is not told.
        seeds: Rising.
        rates: Witness rates, the highest first.
        methods: As they were asked for.
        results: What `measure` gave, with `seconds` and `images`.
        failed: Why a method has no result.
        missing: What was asked for and neither is there nor failed.
        plan: All of `grid.json`.
    """

    directory: Path
    name: str
    seeds: list[int]
    rates: list[float]
    methods: list[str]
    results: dict[Place, dict[str, Any]]
    failed: dict[Place, str]
    missing: list[Place]
    plan: dict[str, Any]


def read_grid(directory: Path) -> Grid:
    """Reads every `<seed>/<rate>/<method>/result.json`.

    `grid.json` tells which were asked for (`seeds`, `rates`, `methods`), and `name`; without it those that are there are all.
    A result with `error` in it is a failure.

    Raises:
        InputError: If there is no result, or a file is not JSON.
    """
    plan = _read(directory / PLAN) if (directory / PLAN).exists() else {}
    results, failed = {}, {}
    for path in sorted(directory.glob(f"*/*/*/{RESULT}")):
        place = _place(path)
        if place is None:
            continue
        found = _read(path)
        if found.get("error"):
            failed[place] = str(found["error"])
        else:
            results[place] = found
    if not results:
        raise refuse("benchmark", "a directory with finished results", f"none in {directory}",
                     "Give the folder that `milscope benchmark witness` writes.")
    there = [*results, *failed]
    seeds = [int(seed) for seed in plan.get("seeds") or sorted({seed for seed, _, _ in there})]
    rates = sorted({float(rate) for rate in plan.get("rates") or [rate for _, rate, _ in there]}, reverse=True)
    methods = [str(name) for name in plan.get("methods") or dict.fromkeys(name for _, _, name in there)]
    wanted = [(seed, rate, method) for seed in seeds for rate in rates for method in methods]
    name = str(plan.get("name") or directory.resolve().name)
    known = set(wanted)
    return Grid(directory, name, seeds, rates, methods, {place: results[place] for place in wanted if place in results},
                {place: why for place, why in failed.items() if place in known},
                [place for place in wanted if place not in results and place not in failed], plan)


def _place(path: Path) -> Place | None:
    seed, rate, method = path.parts[-4:-1]
    try:
        return int(seed), float(rate), method
    except ValueError:
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise refuse(str(path), "a JSON object", repr(error), "Delete it and run the benchmark again.") from error
