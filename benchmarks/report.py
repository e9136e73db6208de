"""A report of many slides: seconds to write, megabytes, and how soon a browser shows it from the disk.

A finished run, best a rendered one (`milscope run`), is multiplied: its slides come again under other names, two of them
together where more cells are asked for than one has. Pictures and cells are hard links, so that only the report takes room.
First paint is what Chromium says itself (PerformanceObserver: first-contentful-paint), each time in a new browser with an
empty cache, after the folder was put out of the machine's memory: it is read from the disk. `--out` keeps the report.

    python benchmarks/report.py RUN [--slides 1000] [--cells 400] [--rounds 5] [--json FILE] [--docs docs/performance.md]
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _timing import machine, table, versions, write_between_marks, write_json
from playwright.sync_api import Browser, sync_playwright

import milscope as ms

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.browser import FLAGS, find

PAINT = """() => new Promise((told) => new PerformanceObserver((list) => {
  const entry = list.getEntriesByName("first-contentful-paint")[0];
  if (entry) told(entry.startTime);
}).observe({ type: "paint", buffered: true }))"""
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"
FILTERED = """() => new Promise((told) => {
  const part = document.querySelector("#split"), start = performance.now();
  part.value = part.value === "all" ? "test" : "all";
  part.dispatchEvent(new Event("input", { bubbles: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => told(performance.now() - start)));
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.run.parent if os.access(options.run.parent, os.W_OK) else None) as home:
        run = multiplied(options.run, Path(home) / "run", options.slides, options.cells)
        start, cpu = time.perf_counter(), time.process_time()
        made = ms.report(run, config=ms.ReportConfig(slides=options.slides, cells=options.cells)).directory
        figures = {"slides": options.slides, "cells": options.cells, "seconds to write": time.perf_counter() - start,
                   "processor seconds": time.process_time() - cpu, **sizes(made), **watched(made, options.rounds)}
        if options.out:
            shutil.copytree(made, options.out)
    tell(options, figures)


def multiplied(run: Path, out: Path, slides: int, cells: int) -> Path:
    """The run with so many slides, each with so many ranked cells (or as many as two of its slides have)."""
    shutil.copytree(run, out, ignore=shutil.ignore_patterns("*.arrow", "thumbnails", "kept", "cells.parquet", "report", ".*"))
    (out / "tile" / "thumbnails").mkdir()
    (out / "tile" / "kept").mkdir()
    names = pd.read_csv(run / "predict" / "slides.csv", dtype={"slide": str})["slide"].tolist()
    joined = {name: join(run, name, names[place - 1], cells, out) for place, name in enumerate(names)}
    turns = [divmod(number, len(names)) for number in range(slides)]
    copies = [(f"{names[place]}-{turn:03d}", names[place]) for turn, place in turns]
    for new, name in copies:
        os.link(joined[name], out / "retrieve" / f"{new}.arrow")
        for folder, end in (("tile", "arrow"), ("tile/thumbnails", "jpg"), ("tile/kept", "jpg")):
            if (run / folder / f"{name}.{end}").exists():
                link(run / folder / f"{name}.{end}", out / folder / f"{new}.{end}")
    for path in (out / "slides.csv", *(out / stage / "slides.csv" for stage in ("tile", "predict"))):
        many(path, copies).to_csv(path, index=False)
    scored = dict(iter(pd.read_parquet(run / "predict" / "cells.parquet").groupby("slide")))
    schema = pa.Table.from_pandas(scored[names[0]], preserve_index=False).schema
    with pq.ParquetWriter(out / "predict" / "cells.parquet", schema) as writer:
        for new, name in copies:
            writer.write_table(pa.Table.from_pandas(scored[name].assign(slide=new), preserve_index=False))
    return out


def many(path: Path, copies: list[tuple[str, str]]) -> pd.DataFrame:
    """The rows of a slide table for each copy."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("slide", drop=False)
    rows = frame.loc[[name for _, name in copies]].assign(slide=[new for new, _ in copies])
    return rows.assign(patient=rows["slide"]) if "patient" in rows else rows


def join(run: Path, name: str, other: str, cells: int, out: Path) -> Path:
    """A slide's ranked cells, and those of another after them if they are too few."""
    first, second = (pa.ipc.open_file((run / "retrieve" / f"{each}.arrow").read_bytes()).read_all() for each in (name, other))
    both = (first if len(first) >= cells else pa.concat_tables([first, second])).slice(0, cells)
    both = both.set_column(both.schema.get_field_index("rank"), "rank", pa.array(range(1, len(both) + 1)))
    path = out / f"{name}.joined"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, both.schema) as writer:
        writer.write_table(both)
    return path


def link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # another disk
        shutil.copyfile(old, new)


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of the folder and of its parts."""
    ends = {"sheets of cells": ("-first.jpg", "-more.jpg"), "pictures of slides": ("-slide.jpg",), "heat maps": ("-heat.png",),
            "pages of slides": (".html",)}
    files = [file for file in folder.rglob("*") if file.is_file()]
    parts = {name: sum(file.stat().st_size for file in files if file.parent.name == "slides" and file.name.endswith(end))
             for name, end in ends.items()}
    whole = sum(file.stat().st_size for file in files)
    return {"MB": whole / 1e6, **{f"MB of {name}": size / 1e6 for name, size in parts.items()},
            "MB of the first page": (folder / "index.html").stat().st_size / 1e6}


def watched(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds to the first paint and to the load's end, of the first page and of a slide's; and of a filter."""
    found: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        for _ in range(rounds):
            for name, page in (("first page", "index.html"), ("page of a slide", "slides/1.html")):
                for what, value in of_page(playwright.chromium.launch(executable_path=find(), args=list(FLAGS)), folder / page):
                    found.setdefault(f"{name}: {what}, ms", []).append(value)
    return {name: median(values) for name, values in found.items()}


def of_page(browser: Browser, page: Path) -> Iterator[tuple[str, float]]:
    forget(page)
    shown = browser.new_page(viewport={"width": 1280, "height": 900})
    shown.goto(page.as_uri(), wait_until="load")
    shown.wait_for_timeout(300)
    yield "first paint", shown.evaluate(PAINT)
    yield "all loaded", shown.evaluate(LOADED)
    if page.name == "index.html":
        yield "all slides in place of the test slides", shown.evaluate(FILTERED)
    browser.close()


def forget(page: Path) -> None:
    """Puts a page and all files beside and above it out of the machine's memory."""
    for file in {*page.parent.iterdir(), *page.parent.glob("../assets/*"), *page.parent.glob("assets/*")}:
        if file.is_file():
            opened = os.open(file, os.O_RDONLY)
            os.fsync(opened)
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(opened)


def tell(options: argparse.Namespace, figures: dict[str, float]) -> None:
    cpu = machine(torch.device("cpu"))
    rows = [(name, f"{value:,.0f}" if value >= 10 else f"{value:.2f}") for name, value in figures.items()]
    text = f"{cpu}; milscope {versions()['milscope']}, Chromium; medians of {options.rounds} new browsers, read from the disk."
    text += "\n\n" + table(("", ""), rows)
    print(text)
    if options.docs:
        write_between_marks(options.docs, text, "report")
    if options.json:
        write_json(options.json, cpu, figures, {})


if __name__ == "__main__":
    main()
