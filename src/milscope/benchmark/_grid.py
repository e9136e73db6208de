"""The verb: every method on the same slides, seed by seed and rate by rate, gone on with wherever it was stopped."""

import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from milscope.benchmark._draw import count_witnesses, divide, draw, job, write_draw
from milscope.benchmark._gathered import PLAN, RESULT
from milscope.benchmark._imports import Pool, open_pool
from milscope.benchmark._measure import measure
from milscope.benchmark._methods import METHODS, Place
from milscope.benchmark._page import PAGE, write_page
from milscope.benchmark._summary import summarise
from milscope.benchmark._tables import write_tables
from milscope.configs import WitnessConfig, identity
from milscope.pool import Lost, over_slides
from milscope.progress import note, progress
from milscope.store import json_values, unwritable, write_text
from milscope.types import InputError, refuse

FREE = {"rates", "methods", "seeds", "preset", "quick", "device"}
"""Settings that may change from one run to the next in the same directory: they say how much of the grid is wanted."""
FAILURES = (ValueError, RuntimeError, ArithmeticError, LookupError, OSError, TypeError, AttributeError, ImportError,
            MemoryError)
"""What ends a method and not the grid."""


class Benchmarked(NamedTuple):
    """The grid's directory, how many results are there and how many failed, and the page (None without a result)."""

    directory: Path
    results: int
    failures: int
    page: Path | None
    warnings: list[str]


class Chain(NamedTuple):
    """Methods that share an encoder, at one seed and rate: what one process does at a time."""

    seed: int
    rate: str
    methods: tuple[str, ...]

    def folder(self, out: Path) -> Path:
        """Where its slides and results lie."""
        return out / str(self.seed) / self.rate


def witness(cells: Path | str, truth: Path | str | None, out: Path | str, config: WitnessConfig | None = None, *,
            patients: Path | str | None = None) -> Benchmarked:
    """Draws slides of exact witness rates, runs every method on them, and measures it on the test slides.

    What is finished is kept: the same command goes on where it was stopped, and further rates, seeds or methods are added. A
    method that fails is told, and tried again the next time; the others go on.

    Args:
        cells: Cells whose truth is known, see `open_pool`.
        truth: A table of the cells' truth; None where classes tell it. Only drawing, measuring and the ceiling read it.
        out: Directory of the grid: `<seed>/<rate>/<method>/result.json`, tables, page.
        config: Settings; the defaults of `WitnessConfig` if None.
        patients: A slide table that tells them; None: every slide is a patient's own.

    Raises:
        InputError: If a setting is out of range, there are too few cells, or `out` holds a grid of other slides.
    """
    out, config = Path(out), checked((config or WitnessConfig()).settled)
    pool = open_pool(Path(cells), Path(truth) if truth else None, out / "pool", config,
                     patients=Path(patients) if patients else None)
    wanted = [Chain(seed, f"{float(rate):g}", group) for seed in range(config.seeds) for rate in config.rates
              for group in _groups(config)]
    _write_plan(out, config, pool, Path(cells).resolve().name)
    missing = [chain for chain in (_missing(chain, out) for chain in wanted) if chain.methods]
    _draw(missing, pool, out, config)
    failures = _run(missing, out, config, sum(len(chain.methods) for chain in wanted))
    there = sum(_done(chain.folder(out) / name / RESULT) for chain in wanted for name in chain.methods)
    return Benchmarked(out, there, len(failures), _tell(out) if there else None, failures)


def _tell(out: Path) -> Path:
    """Writes tables and page."""
    write_tables(summarise(out), out)
    return write_page([out], out / PAGE)


def checked(config: WitnessConfig) -> WitnessConfig:
    """The settings, if they can be used.

    Raises:
        InputError: If one is out of range.
    """
    odd = [name for name in config.methods if name not in METHODS]
    if odd or not config.methods:
        raise refuse("methods", "of " + ", ".join(METHODS), f"`{odd[0]}`" if odd else "none", "Correct it.")
    for name, least in (("seeds", 1), ("cells", 2), ("slides", 4), ("images", 1), ("size", 8), ("width", 1), ("batch", 4),
                        ("margin", 1), ("largest", 0), ("workers", 0)):
        if getattr(config, name) < least:
            raise refuse(name, f"at least {least}", getattr(config, name), "Give a larger one.")
    if config.test_slides == 1 or config.test_slides < 0:
        raise refuse("test_slides", "2 or more, or 0", config.test_slides, "Half of them are positive.")
    if not 0 < config.validation < 1:
        raise refuse("validation", "a share above 0 and below 1", config.validation, "Correct it.")
    for rate in config.rates:
        count_witnesses(_number(rate), config.cells)
    if not config.rates or len({_number(rate) for rate in config.rates}) < len(config.rates):
        raise refuse("rates", "at least one, each once", ",".join(config.rates) or "none", "Correct it.")
    return config


def _number(rate: str) -> float:
    try:
        return float(rate)
    except ValueError as error:
        raise refuse("rates", "shares such as 0.02, with commas", f"`{rate}`", "Correct it.") from error


def _groups(config: WitnessConfig) -> list[tuple[str, ...]]:
    """The methods, those together that share an encoder."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(config.methods):
        groups.setdefault(METHODS[name].group, []).append(name)
    return [tuple(names) for names in groups.values()]


def _write_plan(out: Path, config: WitnessConfig, pool: Pool, name: str) -> None:
    """Writes grid.json; what an earlier run asked for stays in it.

    Raises:
        InputError: If the earlier run drew other slides.
    """
    path, settings = out / PLAN, {key: value for key, value in identity(config).items() if key not in FREE}
    settings["pool"] = pool.fingerprint
    before = json.loads(path.read_text()) if path.exists() else {}
    odd = [key for key, value in settings.items() if before.get("settings", settings).get(key) != value]
    if odd:
        raise refuse("out", "of a new grid, or one of the same settings", f"{out} with another `{odd[0]}`: "
                     f"{before['settings'].get(odd[0])}", "Give another directory.")
    seeds = max(config.seeds, len(before.get("seeds", [])))
    rates = {*map(float, config.rates), *before.get("rates", [])}
    asked = {*before.get("methods", []), *config.methods}
    plan = {"name": config.name or before.get("name") or name, "seeds": list(range(seeds)),
            "rates": sorted(rates, reverse=True), "methods": [method for method in METHODS if method in asked],
            "settings": settings}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(plan, indent=1))
    except OSError as error:
        raise unwritable(out, error) from error


def _missing(chain: Chain, out: Path) -> Chain:
    """What of a chain has no result, or a failure for one."""
    return chain._replace(methods=tuple(name for name in chain.methods if not _done(chain.folder(out) / name / RESULT)))


def _done(path: Path) -> bool:
    return path.exists() and not json.loads(path.read_text()).get("error")


def _draw(chains: list[Chain], pool: Pool, out: Path, config: WitnessConfig) -> None:
    """Writes the slides of all places where a result is missing."""
    places = {(chain.seed, chain.rate): chain.folder(out) for chain in chains}
    divisions = {seed: divide(pool.table, config, seed) for seed in dict.fromkeys(seed for seed, _ in places)}
    work = partial(write_draw, store=pool.store.directory.resolve(), largest=config.largest)
    jobs = [job(folder, draw(divisions[seed], float(rate), config, seed), pool.table)
            for (seed, rate), folder in places.items()]
    with progress("draw", len(jobs), "places") as advance:
        for given, outcome in over_slides(work, jobs, config.workers):
            if isinstance(outcome, Lost):
                raise refuse(str(given.out), "a place where slides can be written", outcome.reason, "Run the command again.")
            advance(1)


def _run(chains: list[Chain], out: Path, config: WitnessConfig, total: int) -> list[str]:
    """Does the chains, tells of each; gives the failures."""
    failures: list[str] = []
    started, before = time.monotonic(), sum(len(chain.methods) for chain in chains)
    left = before
    with progress("benchmark", total, "results", total - before) as advance:
        for chain, outcome in over_slides(partial(run_chain, out=out.resolve(), config=config), chains, config.workers):
            told = dict.fromkeys(chain.methods, outcome.reason) if isinstance(outcome, Lost) else outcome
            for name, reason in told.items():
                if reason:
                    failures.append(f"seed {chain.seed}, rate {chain.rate}, {name}: {reason}")
                    if isinstance(outcome, Lost):
                        _fail(chain, name, out, reason)
                    note("failed", failures[-1])
            left -= len(chain.methods)
            advance(len(chain.methods))
            note("benchmark", f"seed {chain.seed}, rate {chain.rate}, {', '.join(chain.methods)}; "
                 f"{total - left} of {total} results, {_remaining(started, before - left, left)}")
    return failures


def _remaining(started: float, done: int, left: int) -> str:
    """How long the rest will take, if it goes on as before."""
    seconds = (time.monotonic() - started) / done * left
    return f"about {seconds / 3600:.1f} h left" if seconds > 5400 else f"about {seconds / 60:.0f} min left"


def run_chain(chain: Chain, *, out: Path, config: WitnessConfig) -> dict[str, str]:
    """Runs the methods of a chain one after the other and measures each; gives why they failed, or "".

    Args:
        chain: Seed, rate and methods.
        out: Directory of the grid.
        config: The settings.
    """
    place = Place(chain.folder(out), chain.seed, config)
    reasons = {}
    for name in chain.methods:
        try:
            reasons[name] = _one(place, name, chain)
        except FAILURES as error:
            told = " ".join(str(error).split())
            reasons[name] = told if isinstance(error, InputError) else f"{type(error).__name__}: {told}"
            _fail(chain, name, out, reasons[name])
    for shared in (place.directory / "encoders").glob("*/features"):
        if shared.parent.name == METHODS[chain.methods[0]].group:
            shutil.rmtree(shared)  # made again in seconds, from the encoder, which stays
    return reasons


def _one(place: Place, name: str, chain: Chain) -> str:
    """Runs one method, measures it, writes its result."""
    method, own = METHODS[name], place.directory / name
    own.mkdir(parents=True, exist_ok=True)
    cost = method.run(place, own)
    truth = pd.read_csv(place.directory / "truth.csv", dtype={"slide": str, "cell": str})
    told = truth[truth["split"] == "test"].assign(witness=lambda table: table["witness"] == 1)
    found: dict[str, Any] = measure(own / "scores", told, method.rank)
    head = {"seed": chain.seed, "rate": float(chain.rate), "method": name, "seconds": cost.seconds, "images": cost.images,
            "marked": method.marked}
    write_text(own / RESULT, json.dumps(json_values({**head, **found})))
    return ""


def _fail(chain: Chain, name: str, out: Path, reason: str) -> None:
    own = chain.folder(out) / name
    own.mkdir(parents=True, exist_ok=True)
    head = {"seed": chain.seed, "rate": float(chain.rate), "method": name, "error": reason}
    write_text(own / RESULT, json.dumps(head))
