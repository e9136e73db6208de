"""A run as reviewers see it: its slides in order of suspicion, and their ranked cells with pixels."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from milscope.ranking import SHARES, find_scores
from milscope.slides import is_file_name
from milscope.store import artifact_kind, read_manifest
from milscope.types import refuse

PLACES = ("x", "y", "width", "height")
NEAR = 1.0
"""Slide pixels: a cell of the same name at a distance of more is another one."""
_OPEN, _NAMED = 200, 16
"""Slides whose cells stay mapped, and whose names of cells stay in memory: about 8 MB for 50,000."""


class Asked(NamedTuple):
    """A task: its name, what is sought, the directory of its cells, and its classes (none for a task of time)."""

    name: str
    sought: str
    ranked: Path
    classes: tuple[str, ...]
    main: bool


class Image(NamedTuple):
    """Where the image of a slide is, its size in slide pixels and its scale in microns per pixel; None if unknown."""

    file: Path | None
    size: tuple[int, int] | None
    mpp: float | None
    thumbnail: Path | None


class Judged(NamedTuple):
    """The cell that a verdict is about: its slide, its name, and its place (slide pixels; None if it has none)."""

    slide: str
    cell: str
    x: float | None
    y: float | None


class Named(NamedTuple):
    """The ranked cells of a slide by name: name → row, and the places of the rows."""

    rows: dict[str, int]
    x: Float[np.ndarray, " cell"]
    y: Float[np.ndarray, " cell"]

    def rank(self, judged: Judged) -> int | None:
        """The rank of a judged cell; None if it is not ranked, or lies elsewhere."""
        row = self.rows.get(judged.cell)
        if row is None:
            return None
        x, y = float(self.x[row]), float(self.y[row])
        if judged.x is None or judged.y is None or math.isnan(x + y):
            return row + 1 if (judged.x is None) == math.isnan(x) else None
        return row + 1 if math.hypot(x - judged.x, y - judged.y) <= NEAR else None


class ReviewedRun:
    """The ranked cells of a run; a slide is known by its number in the main task's order of suspicion, a cell by its rank.

    Args:
        run: The run's directory.

    Raises:
        InputError: If it holds no ranked cells, or a damaged artifact.
    """

    def __init__(self, run: Path) -> None:
        self.directory = Path(run)
        self._ranked = self.directory / "retrieve"
        if artifact_kind(self._ranked) != "ranked":
            raise refuse("run", "the directory of a run with ranked cells", f"no finished `retrieve` in {run}",
                         "Run `milscope run` first, or `milscope retrieve … --out RUN/retrieve`.")
        self.manifest = read_manifest(self._ranked, "ranked")
        self._stamp = self._stamped()
        self.scores = find_scores(self.directory, self.manifest.inputs.get("scores", ""))
        self.tasks = _tasks(self.directory, self.scores)
        self._frames = lru_cache(32)(self._frame)
        self.slides = self.listed(self.tasks[0])["slide"].tolist()
        self._number = {slide: number for number, slide in enumerate(self.slides)}
        tiled = _text(self.directory / "tile" / "slides.csv", ["slide", "width", "height", "mpp", "file"])
        self._tiled = {row["slide"]: row for row in tiled.to_dict("records")}
        self._open, self._named = lru_cache(_OPEN)(_mapped), lru_cache(_NAMED)(_named)

    @property
    def title(self) -> str:
        """The name of the run's directory."""
        return self.directory.resolve().name

    @property
    def rank(self) -> str:
        """The ranking that ordered the cells, as `retrieve` knows it."""
        return str(self.manifest.config.get("rank", "evidence"))

    @property
    def comparable(self) -> bool:
        """Whether scores mean the same on every slide; shares of a slide do not."""
        return self.rank not in SHARES

    def task(self, name: str) -> Asked | None:
        """The task of that name; the main one for ""."""
        return next((task for task in self.tasks if task.name == name), None) if name else self.tasks[0]

    def changed(self) -> bool:
        """Whether the cells were ranked again since: then a rank may be another cell's."""
        return self._stamped() != self._stamp

    def number(self, slide: str) -> int | None:
        """The number of a slide; None if it is none of the run's."""
        return self._number.get(slide)

    def listed(self, task: Asked) -> pd.DataFrame:
        """The slides in a task's order of suspicion: slide, patient, split, label, probability, called, decision, cells."""
        return self._frames(task)

    def image(self, slide: str) -> Image:
        """Where the image of a slide is; a file that was moved away is none."""
        thumbnail = self.directory / "tile" / "thumbnails" / f"{slide}.jpg"
        shown = thumbnail if thumbnail.is_file() else None
        row = self._tiled.get(slide)
        if row is None:
            return Image(None, None, None, shown)
        width, height, mpp = (_number(row[name]) for name in ("width", "height", "mpp"))
        size = (round(width), round(height)) if width and height else None
        file = Path(row["file"]) if size and row["file"] else None
        return Image(file if file and file.exists() else None, size, mpp, shown)

    def cells(self, slide: str, task: Asked) -> pa.Table:
        """A slide's ranked cells, best first, memory-mapped; a table without rows if it has none."""
        path = task.ranked / f"{slide}.arrow"
        return self._open(path, path.stat().st_mtime_ns) if path.exists() else _EMPTY

    def ranks(self, judged: Sequence[Judged], task: Asked) -> list[int | None]:
        """The ranks that judged cells have now; None where a cell is no longer ranked, or another has its name."""
        found: list[int | None] = [None] * len(judged)
        for slide, group in _grouped(judged).items():
            path = task.ranked / f"{slide}.arrow"
            if slide in self._number and path.exists():
                named = self._named(path, path.stat().st_mtime_ns)
                for place in group:
                    found[place] = named.rank(judged[place])
        return found

    def _frame(self, task: Asked) -> pd.DataFrame:
        return _listed(self.scores, task)

    def _stamped(self) -> tuple[int, int]:
        try:
            status = (self._ranked / "manifest.json").stat()
        except OSError:
            return (0, 0)
        return status.st_ino, status.st_mtime_ns


_EMPTY = pa.table({"cell": pa.array([], pa.string()), "score": pa.array([], pa.float64()), "image": pa.array([], pa.binary()),
                   **{name: pa.array([], pa.float64()) for name in PLACES}})


def finite(value: float | None, digits: int) -> float | None:
    """A number for JSON, rounded; None if it is not finite."""
    return round(float(value), digits) if value is not None and math.isfinite(value) else None


def _mapped(path: Path, _: int) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _named(path: Path, stamp: int) -> Named:
    table = _mapped(path, stamp)
    rows = {name: row for row, name in enumerate(table["cell"].to_pylist())}
    return Named(rows, *(table[name].to_numpy().astype(float) for name in ("x", "y")))


def _grouped(judged: Iterable[Judged]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(judged):
        groups.setdefault(one.slide, []).append(place)
    return groups


def _tasks(run: Path, scores: Path) -> list[Asked]:
    """The main task, and the others whose cells were ranked."""
    summary = read_manifest(scores, "scores").summary if artifact_kind(scores) == "scores" else {}
    told = {str(task.get("name")): task for task in summary.get("tasks") or ()}
    main, ranked = str(summary.get("task") or next(iter(told), "")), run / "retrieve"
    others = [path.name for path in sorted((ranked / "tasks").glob("*")) if (path / "ranked.csv").exists()]

    def asked(name: str, place: Path, *, first: bool) -> Asked:
        classes = tuple(map(str, told.get(name, {}).get("classes") or ()))
        sought = name if classes[1:] == ("positive",) else " or ".join(classes[1:]) or name
        return Asked(name, sought, place, classes, first)

    in_order = sorted(others, key=lambda name: list(told).index(name) if name in told else len(told))
    return [asked(main, ranked, first=True), *(asked(name, ranked / "tasks" / name, first=False) for name in in_order)]


def _listed(scores: Path, task: Asked) -> pd.DataFrame:
    names = ["slide", "patient", "split", "label", "probability", "called", "decision"]
    own = _text(scores / "tasks" / f"{task.name}.csv", names) if is_file_name(task.name) else _text(Path(), names)
    if task.main and (scores / "slides.csv").exists():
        decisions = dict(zip(own["slide"], own["decision"], strict=True))
        own = _text(scores / "slides.csv", names)
        own["decision"] = [decisions.get(slide, "") for slide in own["slide"]]
    elif task.classes:
        numbers = {name: str(float(place > 0)) for place, name in enumerate(task.classes)}
        own["label"] = [numbers.get(label, "") for label in own["label"]]
    counted = _text(task.ranked / "ranked.csv", ["slide"])["slide"].value_counts()
    absent = [slide for slide in counted.index if slide not in set(own["slide"])]
    own = pd.concat([own, pd.DataFrame({"slide": absent}, dtype=str)], ignore_index=True).fillna("").drop_duplicates("slide")
    own = own[own["slide"].map(is_file_name).astype(bool)]
    for name in ("label", "probability", "called"):
        words = own[name].str.lower().replace({"true": "1", "false": "0"})
        own[name] = pd.to_numeric(words, errors="coerce").astype(float)
    own["cells"] = own["slide"].map(counted).fillna(0).astype(int)
    own["patient"] = own["patient"].where(own["patient"] != "", own["slide"])
    return own.sort_values(["probability", "slide"], ascending=[False, True], ignore_index=True)


def _text(path: Path, names: list[str]) -> pd.DataFrame:
    """Columns of a CSV as text (a slide called `NA` or `007` keeps its name), empty where the file has none."""
    if not path.is_file():
        return pd.DataFrame({name: np.empty(0, object) for name in names})
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=lambda name: name in names)
    return frame.reindex(columns=names, fill_value="")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
