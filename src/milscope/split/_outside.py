"""Splits that CLAM or STAMP wrote, and ours as they write them."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from milscope.slides import read_slides
from milscope.split._split import hold_out
from milscope.split._strata import columns_of
from milscope.store import write_text
from milscope.types import refuse

CLAM = {"train": "train", "val": "validation", "test": "test"}
"""CLAM's columns, and the splits they stand for."""


def read_splits(path: Path | str, frame: pd.DataFrame, *, validation: float = 0.2, seed: int = 0,
                task: str = "", only: Collection[str] | None = None) -> list[pd.DataFrame]:
    """The slide table once per split that CLAM or STAMP wrote; slides that a split does not name get the split "".

    STAMP's file does not say who validates: a share of the training patients is held out, as `folds` does.

    Args:
        path: CLAM's `splits_0.csv` or `splits_0_bool.csv`, STAMP's `splits.json`, or the folder of either's.
        frame: The slide table; CLAM names its slides, STAMP its patients.
        validation: Share of the training patients for validation, where the file names none.
        seed: Same seed, same validation patients.
        task: As in `folds`.
        only: The slides that are wanted; None: all of the table. The splits may name its others, which are left out.

    Raises:
        InputError: If the file is neither's, names slides or patients that the table lacks, or has a patient in two
            splits.
    """
    frame = read_slides(frame).assign(split="")
    names = columns_of(frame, task)
    wanted = frame["slide"].isin(frame["slide"] if only is None else list(only))
    tables = []
    for file, places in _given(Path(path)):
        table = _assigned(frame, places, "patient" if file.suffix == ".json" else "slide", file)
        table = table[wanted].reset_index(drop=True)
        lacking = not (table["split"] == "validation").any()
        tables.append(hold_out(table, validation, [seed, len(tables)], names) if lacking else table)
    return tables


def write_splits(tables: Sequence[pd.DataFrame], directory: Path | str, layout: str = "clam") -> list[Path]:
    """Writes splits as CLAM does (`splits_0.csv`, `splits_0_bool.csv`, …) or STAMP (`splits.json`); gives the files.

    STAMP's file has no validation: those patients are written as training patients.

    Args:
        tables: Slide tables with splits, as `folds` gives them.
        directory: The folder to write to; it is made if it is not there.
        layout: `clam` or `stamp`.

    Raises:
        InputError: If the layout is unknown, or the folder holds other splits.
    """
    directory, texts = Path(directory), {}
    if layout not in ("clam", "stamp"):
        raise refuse("layout", "`clam` or `stamp`", f"`{layout}`", "Choose one.")
    for number, table in enumerate(map(read_slides, tables)):
        slides = {name: table["slide"][table["split"] == split].reset_index(drop=True) for name, split in CLAM.items()}
        texts[f"splits_{number}.csv"] = pd.DataFrame(slides).to_csv()
        texts[f"splits_{number}_bool.csv"] = pd.concat(
            pd.DataFrame({part: part == name for part in CLAM}, index=list(chosen)) for name, chosen in slides.items()).to_csv()
    if layout == "stamp":
        texts = {"splits.json": json.dumps({"splits": [_stamp(table) for table in tables]}, indent=4)}
    others = {path.name for path in (*directory.glob("splits_*.csv"), *directory.glob("splits.json"))} - texts.keys()
    if others:
        raise refuse("directory", "without other splits", f"{min(others)} in {directory}", "Give another directory.")
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(directory / name, text)
    return [directory / name for name in texts]


def _stamp(table: pd.DataFrame) -> dict[str, list[str]]:
    tests = table["split"] == "test"
    return {"train_patients": sorted(set(table["patient"][~tests & (table["split"] != "")])),
            "test_patients": sorted(set(table["patient"][tests]))}


def _given(path: Path) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """Each split's file, and who is in which part of it."""
    files = [path]
    if path.is_dir():
        numbered = {int(found[1]): file for suffix in ("_bool", "") for file in path.glob(f"splits_*{suffix}.csv")
                    if (found := re.fullmatch(rf"splits_(\d+){suffix}\.csv", file.name))}
        files = [numbered[number] for number in sorted(numbered)] or [path / "splits.json"]
    for file in files:
        try:
            if file.suffix == ".json":
                for split in json.loads(file.read_text())["splits"]:
                    yield file, [(str(name), part) for part in ("train", "test") for name in split[f"{part}_patients"]]
            else:
                yield file, _columns(pd.read_csv(file, dtype=str, keep_default_na=False))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]} ({file})"
            raise refuse("splits", "CLAM's splits_0.csv, … or STAMP's splits.json", reason, "Correct the path.") from error


def _columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Slide and split of each of CLAM's entries: names in columns of unequal length, or marks beside the names."""
    if table[list(CLAM)].isin(("True", "False")).all(axis=None):
        names = table.iloc[:, 0]
        return [(str(slide), split) for column, split in CLAM.items() for slide in names[table[column] == "True"]]
    return [(str(slide), split) for column, split in CLAM.items() for slide in table[column] if slide]


def _assigned(frame: pd.DataFrame, places: Sequence[tuple[str, str]], key: str, file: Path) -> pd.DataFrame:
    """The slide table with the splits of those slides or patients."""
    patients, home = dict(zip(frame[key], frame["patient"], strict=True)), {}
    named = [(name if name in patients else name.removesuffix(".0"), split)  # as pandas writes numbers in unequal columns
             for name, split in places]
    unknown = [name for name, _ in named if name not in patients]
    if unknown:
        raise refuse(str(file), f"splits of the {key}s of the table", f"{len(unknown)} others, like `{unknown[0]}`",
                     "Give the table that the splits were made for.")
    for name, split in named:
        if home.setdefault(patients[name], split) != split:
            raise refuse(str(file), "splits that keep patients together", f"`{patients[name]}` in {home[patients[name]]} "
                         f"and {split}", "Divide the slides by patient.")
    return frame.assign(split=frame[key].map(dict(named)).fillna("").astype(str))
