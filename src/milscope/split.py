"""The stage `split`: patients are divided into training, validation and test, once or in folds."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from milscope.configs import SplitConfig
from milscope.slides import read_slides, tasks
from milscope.store import write_text
from milscope.types import SPLITS, refuse

CLAM = {"train": "train", "val": "validation", "test": "test"}
"""CLAM's columns, and the splits they stand for."""

Strata = dict[tuple[str, str], Counter[str]]
"""Task and class → who has it, with how many patients: a patient with one, or a site. Class "" is unknown."""


def split(frame: pd.DataFrame, config: SplitConfig | None = None, *, task: str = "") -> pd.DataFrame:
    """The slide table with every patient in one split; a complete `split` column stays as it is.

    A patient is positive for a task if any of its slides is, has every class of a column of other values that its
    slides have, and counts as unlabelled if no slide has a label. Every split gets its share of the patients of every
    class of every task, at least one of each class. The result does not depend on the order of the rows.

    Args:
        frame: A slide table.
        config: The shares and the seed.
        task: The columns whose labels are shared out, with commas between; "" for all yes/no columns of the table.

    Raises:
        InputError: If only some slides have a split, the shares leave nothing for training, or there are too few
            patients of a class to have one in every split.

    Source:
        Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data, 2011, algorithm 1: the rarest class
        is shared out first, each patient to the split that lacks it most. Here a split's lack is a whole number.
    """
    config = config or SplitConfig()
    frame = read_slides(frame)
    if (frame["split"] != "").all():
        return frame
    if (frame["split"] != "").any():
        missing = frame["slide"][frame["split"] == ""]
        raise refuse("split", "given for every slide or for none", f"{len(missing)} slides without, like `{missing.iloc[0]}`",
                     "Complete or remove the column.")
    shares = _shares(config)
    strata = _strata(frame, _names(frame, task))
    chosen = _divide(strata, shares, config.seed)
    return frame.assign(split=frame["patient"].map(chosen).astype(str))


def folds(frame: pd.DataFrame, count: int, *, seed: int, task: str = "", site: str = "",
          validation: float = 0.2) -> list[pd.DataFrame]:
    """The slide table once per fold: the patients of that fold are its test, the others train or validate.

    Every patient is test in exactly one result. The classes are shared out as by `split`; a `split` column is not
    looked at. With `site` no site is test in two folds, and validation patients are of the training patients' sites.

    Args:
        frame: A slide table.
        count: Number of folds, 2 or more.
        seed: Same seed, same folds.
        task: The columns whose labels are shared out, with commas between; "" for all yes/no columns of the table.
        site: The column that says where a patient's slides come from; "" to let folds share sites.
        validation: Share of the patients that are not test, for validation.

    Raises:
        InputError: If there are too few patients or sites of a class for every fold, or a slide without a site.
    """
    frame = read_slides(frame)
    names = [name for name in _names(frame, task) if name != site]
    units = frame["patient"].map(_sites(frame, site)) if site else frame["patient"]
    parts = _parts(count)
    strata = _strata(frame, names, dict(zip(frame["patient"], units, strict=True)))
    chosen = _divide(strata, parts, seed, unit="sites" if site else "patients")
    fold = units.map(chosen)
    return [_hold_out(frame.assign(split=np.where(fold == part, "test", "train")), validation, [seed, number], names)
            for number, part in enumerate(parts)]


def rotations(frame: pd.DataFrame, count: int, *, seed: int, task: str = "") -> list[pd.DataFrame]:
    """The slide table once per member of an ensemble: each part of the patients that are not test validates once.

    Test patients stay test in every result, and slides without a split stay without.

    Args:
        frame: A slide table with a split.
        count: Number of parts, 2 or more.
        seed: Same seed, same parts.
        task: As in `folds`.

    Raises:
        InputError: If there is no split, or too few patients of a class for every part.
    """
    frame = read_slides(frame)
    learns = frame["split"].isin(("train", "validation"))
    if not learns.any():
        raise refuse("split", "train or validation for some slides", "none", "Run `milscope split`, or add the column.")
    pool, parts = frame[learns], _parts(count)
    chosen = _divide(_strata(pool, _names(frame, task)), parts, seed)
    part = frame["patient"].map(chosen)
    return [frame.assign(split=frame["split"].where(~learns, np.where(part == name, "validation", "train")))
            for name in parts]


def _hold_out(frame: pd.DataFrame, validation: float, seed: int | Sequence[int], names: Sequence[str]) -> pd.DataFrame:
    """The slide table with a share of its training patients moved to validation, stratified by the columns `names`."""
    if not 0 <= validation < 1:
        raise refuse("validation", "a share from 0 that leaves patients for training", f"{validation:g}", "Lower it.")
    if validation == 0:
        return frame
    trains = frame["split"] == "train"
    shares = {"train": 1 - validation, "validation": validation}
    chosen = _divide(_strata(frame[trains], names), shares, seed)
    return frame.assign(split=frame["split"].where(~trains, frame["patient"].map(chosen)).astype(str))


def read_splits(path: Path | str, frame: pd.DataFrame, *, validation: float = 0.2, seed: int = 0,
                task: str = "") -> list[pd.DataFrame]:
    """The slide table once per split that CLAM or STAMP wrote; slides that a split does not name get the split "".

    STAMP's file does not say who validates: a share of the training patients is held out, as `folds` does.

    Args:
        path: CLAM's `splits_0.csv` or `splits_0_bool.csv`, STAMP's `splits.json`, or the folder of either's.
        frame: The slide table; CLAM names its slides, STAMP its patients.
        validation: Share of the training patients for validation, where the file names none.
        seed: Same seed, same validation patients.
        task: As in `folds`.

    Raises:
        InputError: If the file is neither's, names slides or patients that the table lacks, or has a patient in two
            splits.
    """
    frame = read_slides(frame).assign(split="")
    names = _names(frame, task)
    tables = []
    for file, places in _given(Path(path)):
        table = _assigned(frame, places, "patient" if file.suffix == ".json" else "slide", file)
        lacking = not (table["split"] == "validation").any()
        tables.append(_hold_out(table, validation, [seed, len(tables)], names) if lacking else table)
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


def _shares(config: SplitConfig) -> dict[str, float]:
    train = 1 - config.validation - config.test
    if config.validation < 0 or config.test < 0 or train <= 1e-9:
        raise refuse("validation and test", "shares from 0 that leave patients for training",
                     f"{config.validation:g} and {config.test:g}", "Lower them.")
    shares = dict(zip(SPLITS, (train, config.validation, config.test), strict=True))
    return {name: share for name, share in shares.items() if share > 0}


def _parts(count: int) -> dict[str, float]:
    if count < 2:
        raise refuse("count", "at least 2 folds", count, "5 is common.")
    return {f"fold {number}": 1 / count for number in range(1, count + 1)}


def _names(frame: pd.DataFrame, task: str) -> list[str]:
    names = [task] if task in frame else [name.strip() for name in task.split(",") if name.strip()]
    for name in names:
        if name not in frame:
            raise refuse("task", "a column of the slide table", f"`{name}`", f"There is: {', '.join(tasks(frame))}.")
    return names or tasks(frame)


def _sites(frame: pd.DataFrame, site: str) -> dict[str, str]:
    """Patient → site."""
    if site not in frame:
        raise refuse("site", "a column of the slide table", f"`{site}`", f"There is: {', '.join(frame.columns)}.")
    values = frame[site].where(frame[site].notna(), "").astype(str)
    if (values == "").any():
        raise refuse(site, "given for every slide", f"none for `{frame['slide'][values == ''].iloc[0]}`", "Complete it.")
    sites: dict[str, str] = {}
    for patient, value in zip(frame["patient"], values, strict=True):
        if sites.setdefault(patient, value) != value:
            raise refuse(site, "the same for all slides of a patient", f"`{sites[patient]}` and `{value}` for `{patient}`",
                         "Correct the column.")
    return sites


def _strata(frame: pd.DataFrame, names: Sequence[str], units: Mapping[str, str] | None = None) -> Strata:
    """The patients of each class of each task, counted by patient, or by the unit each belongs to."""
    strata: Strata = {}
    for name in names or ["patients"]:
        for patient, labels in _classes(frame, name).items():
            for label in sorted(labels):
                strata.setdefault((name, label), Counter())[units[patient] if units else patient] += 1
    return strata


def _classes(frame: pd.DataFrame, name: str) -> dict[str, set[str]]:
    """The classes of each patient, in the order of their names; {""} if unlabelled."""
    slides = frame.groupby("patient")
    if name not in frame:
        return {str(patient): {""} for patient in slides.groups}
    if is_numeric_dtype(frame[name]):
        spoken = {0.0: "negative", 1.0: "positive"}
        return {str(patient): {spoken.get(label, "")} for patient, label in slides[name].max().items()}
    return {str(patient): set(labels) - {""} or {""} for patient, labels in slides[name]}


def _divide(strata: Strata, parts: Mapping[str, float], seed: int | Sequence[int], *,
            unit: str = "patients") -> dict[str, str]:
    """Patient or site → part, every part with every class.

    Raises:
        InputError: If there are too few patients or sites of a class, or the division left a part without one.
    """
    each = f"{len(parts)} {unit}, one for each of {', '.join(parts) if len(parts) < 4 else f'{len(parts)} folds'}"
    way_out = "or give a column `split`" if "train" in parts else "or ask for fewer folds"
    everyone = set().union(*strata.values())
    if len(everyone) < len(parts):
        raise refuse("slides", f"of at least {each}", len(everyone), f"Add {unit}, {way_out}.")
    known = [(name, label) for name, label in strata if label]
    compared = [key for key in known if any(name == key[0] and label != key[1] for name, label in known)]
    for name, label in compared:
        if len(strata[name, label]) < len(parts):
            raise refuse(name, f"{label} for at least {each}", len(strata[name, label]), f"Add {unit}, {way_out}.")
    chosen = _share_out(strata, parts, seed)
    for name, label in compared:
        without = [part for part in parts if part not in {chosen[one] for one in strata[name, label]}]
        if without:
            raise refuse(name, "shared out so that every part has every class", f"none {label} in {without[0]}",
                         f"Try another seed, {way_out}.")
    return chosen


def _share_out(strata: Strata, parts: Mapping[str, float], seed: int | Sequence[int]) -> dict[str, str]:
    lacks = {key: _counts(sum(units.values()), parts) for key, units in strata.items()}
    first, weights = next(iter(strata))[0], Counter[str]()
    for units in (units for (name, _), units in strata.items() if name == first):
        weights.update(units)
    everyone = sorted(weights)
    order = {everyone[index]: rank for rank, index in enumerate(np.random.default_rng(seed).permutation(len(everyone)))}
    room = _counts(sum(weights.values()), parts)
    chosen: dict[str, str] = {}
    while len(chosen) < len(everyone):
        left = {key: {one: patients for one, patients in units.items() if one not in chosen} for key, units in strata.items()}
        rarest = min((key for key in left if left[key]), key=lambda key: (sum(left[key].values()), key))
        for one in sorted(left[rarest], key=lambda one: (-left[rarest][one], order[one])):  # of sites the largest first
            mine = [key for key in strata if one in strata[key]]
            part = max(parts, key=lambda part: (lacks[rarest][part], sum(lacks[key][part] for key in mine), room[part]))
            chosen[one] = part
            room[part] -= weights[one]
            for key in mine:
                lacks[key][part] -= strata[key][one]
    return chosen


def _counts(patients: int, parts: Mapping[str, float]) -> dict[str, int]:
    """How many of so many patients each part gets: folds the same, splits rounded shares, one if there are enough."""
    if "train" not in parts:
        return dict.fromkeys(parts, patients // len(parts))
    least = 1 if patients >= len(parts) else 0
    counts = {name: max(least, int(patients * share + 0.5)) for name, share in parts.items() if name != "train"}
    while sum(counts.values()) > patients - least:
        counts[max(counts, key=lambda name: counts[name])] -= 1
    return {"train": patients - sum(counts.values())} | counts
