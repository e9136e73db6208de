"""The table of slides: one row a slide, with its patient, its image, its split, and one yes/no column a task."""

import csv
import io
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from milscope.slides._backends import FIELD_SUFFIXES, SLIDE_SUFFIXES
from milscope.types import SPLITS, refuse

LONGEST_NAME = 500
NAME_RULE = f"no paths that lead elsewhere: no `..`, no / in front, no control character, at most {LONGEST_NAME} characters"
COLUMNS = ("slide", "file", "patient", "split", "mpp")
ALIASES = {
    "slide": ("slide", "slide_id", "filename", "wsi"),
    "file": ("file",),
    "patient": ("patient", "patient_id", "case_id", "case"),
    "split": ("split",),
    "mpp": ("mpp",),
}
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "val": "validation",
               "valid": "validation", "dev": "validation", "test": "test", "testing": "test"}
LABELS = {"0": 0.0, "false": 0.0, "no": 0.0, "negative": 0.0, "normal": 0.0,
          "1": 1.0, "true": 1.0, "yes": 1.0, "positive": 1.0, "abnormal": 1.0}
MISSING = ("", "nan", "na", "n/a", "null", "none", "<na>")


def read_slides(source: Path | str | pd.DataFrame) -> pd.DataFrame:
    """The slide table, checked and in one form; reading its own result again changes nothing.

    Columns: `slide` (text), `file` (absolute path, "" if none), `patient` (the slide itself if not given), `split`
    ("" if none), `mpp` (microns per pixel, NaN if unknown), then one column per yes/no task with 0, 1 or NaN for
    missing, then the columns of other values (grades, times, sites) as text with "" for missing.

    Args:
        source: A CSV (comma, semicolon or tab; UTF-8) or Parquet file, or a DataFrame. Relative paths in `file` are
            taken from the folder of the file, or from the current one for a DataFrame.

    Raises:
        InputError: If it is no table, is empty, lacks slides, names one twice, holds a name that cannot be a file's,
            a patient in two splits, an unknown split, or an impossible mpp.
    """
    text = read_text_table(source, "slides")
    folder = Path() if isinstance(source, pd.DataFrame) else Path(source).parent
    found = {name: column for name in COLUMNS if (column := match_column(text, ALIASES[name]))}
    if "slide" not in found:
        raise refuse("slides", "a table with a column `slide`", ", ".join(text.columns), "Rename the column of slides.")
    empty = pd.Series("", index=text.index, dtype=str)
    frame = pd.DataFrame({name: text[found[name]] if name in found else empty for name in COLUMNS})
    frame["file"] = _files(frame["file"], folder)
    if found["slide"].lower() in ("filename", "wsi"):
        frame["slide"] = [_without_suffix(name) for name in frame["slide"]]
    _check_names(frame["slide"])
    frame["patient"] = frame["patient"].where(frame["patient"] != "", frame["slide"])
    frame["split"] = _splits(frame)
    frame["mpp"] = _scales(frame["mpp"])
    spoken_for = {alias for names in ALIASES.values() for alias in names}
    given = {column: _labels(text[column]) for column in text.columns if column.lower() not in spoken_for}
    answers = {column: values for column, values in given.items() if values is not None}
    rest = {column: _without_missing(text[column]) for column in given if column not in answers}
    return pd.concat([frame, pd.DataFrame({**answers, **rest}, index=frame.index)], axis=1)


def tasks(frame: pd.DataFrame) -> list[str]:
    """The yes/no tasks of a slide table, in its order."""
    return [column for column in frame.columns if column not in COLUMNS and is_numeric_dtype(frame[column])]


def other_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of a slide table whose values are neither yes nor no, in its order."""
    return [column for column in frame.columns if column not in COLUMNS and column not in tasks(frame)]


def odd_label(frame: pd.DataFrame, column: str) -> str:
    """The first value of a text column that is neither yes nor no, and where it stands.

    >>> odd_label(read_slides(pd.DataFrame({"slide": ["a", "b", "c"], "y": ["yes", "no", "yess"]})), "y")
    '`yess` (line 4)'
    """
    row = next(row for row, value in enumerate(frame[column]) if value and value.lower() not in LABELS)
    return f"`{frame[column].iloc[row]}` ({where(row)})"


def labels(frame: pd.DataFrame, task: str = "") -> tuple[str, pd.DataFrame]:
    """The task's name, and the rows of the slides that have a label for it.

    Args:
        frame: A slide table as `read_slides` gives it.
        task: Its name; "" stands for the only one.

    Raises:
        InputError: If there is no such task, none or several to choose from, or if all its labels are alike.
    """
    known = tasks(frame)
    others = other_columns(frame)
    has = ", ".join(known) or "none"
    if task in others:
        raise refuse("task", "a column of yes and no (0 and 1)", f"{odd_label(frame, task)} in `{task}`",
                     f"Correct it; `train` also takes `{task}:multiclass` and `{task}:ordinal(…)`. There is: {has}.")
    if task and task not in known:
        raise refuse("task", "a column of the slide table", f"`{task}`", f"There is: {has}.")
    if not task and len(known) != 1:
        odd = [f"{name} with {odd_label(frame, name)}" for name in others[:3]]
        found = has + (f" (not yes/no: {', '.join(odd)})" if odd else "")
        raise refuse("task", "the name of a column of yes and no", f"{len(known)} such columns: {found}",
                     "Name one with `task`." if known else "Add one column with 0 or 1 per slide.")
    task = task or known[0]
    labelled = frame[frame[task].notna()].reset_index(drop=True)
    if labelled[task].nunique() < 2:
        only = f"only {labelled[task].iloc[0]:g}" if len(labelled) else "no label"
        raise refuse(task, "0 for some slides and 1 for others", only, "Add slides of the other class.")
    return task, labelled


def write_slides(frame: pd.DataFrame, path: Path) -> None:
    """Writes a slide table as CSV, whole or not at all; `read_slides` gives it back as it was."""
    text = frame.copy()
    for task in tasks(frame):
        text[task] = text[task].map(lambda value: "" if math.isnan(value) else str(int(value))).astype(str)
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    text.to_csv(temporary, index=False)
    temporary.replace(path)


def read_text_table(source: Path | str | pd.DataFrame, name: str) -> pd.DataFrame:
    """Any table with every value as stripped text, "" for missing.

    Raises:
        InputError: If there is no such file, or it is no table, or has no rows or no header.
    """
    if isinstance(source, pd.DataFrame):
        frame = source.map(_text).astype(str)
    else:
        path = Path(source)
        try:
            frame = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path, name)
        except OSError as error:
            raise refuse(name, "a table that can be read", f"{error.strerror or error}: {path}", "Correct the path.") from error
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    keep = [column != "" and not column.startswith("Unnamed:") for column in frame.columns]
    frame = frame.loc[:, keep].reset_index(drop=True)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise refuse(name, "a table with every column once", f"`{twice[0]}` twice", "Rename or remove one.")
    if frame.empty:
        raise refuse(name, "a table with at least one row", "an empty one", "Give a CSV with a header and rows.")
    return frame


def match_column(frame: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The column that bears the first of these names, whatever its case; None if there is none."""
    lower = {column.lower(): column for column in reversed(list(frame.columns))}
    return next((lower[name] for name in names if name in lower), None)


def leads_out(name: str) -> bool:
    r"""Whether a name, taken for a path, would lead out of the folder it is used in, or is no name at all.

    >>> [leads_out(name) for name in ("s1/cell 7.png", "a..b", "../a", "s/../../a", "/etc/passwd", "a\\..\\b")]
    [False, False, True, True, True, True]
    """
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or len(name) > LONGEST_NAME or not name.isprintable()


def is_file_name(name: str) -> bool:
    r"""Whether a slide's name can be a file's: no /, \ or control character, no leading dot, at most 200 bytes."""
    odd = not name or name.startswith(".") or any(mark in "/\\" or not mark.isprintable() for mark in name)
    return not odd and len(name.encode("utf-8", "surrogatepass")) <= 200


def read_scale(text: str) -> float:
    """Microns per pixel as people write them, with a point or a comma.

    Raises:
        ValueError: If it is no number, or none that a scale can be.
    """
    scale = float(text.replace(",", "."))
    if not 0 < scale < math.inf:
        raise ValueError(text)
    return scale


def where(row: int) -> str:
    """A row as people count it in a file: the header is line 1."""
    return f"line {row + 2}"


def _read_csv(path: Path, name: str) -> pd.DataFrame:
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:8192]:
        raise refuse(name, "a CSV or Parquet table", f"binary content in {path}", "Save it as CSV (UTF-8).")
    try:
        lines = content.decode("utf-8-sig").lstrip("\r\n")
    except UnicodeDecodeError as error:
        raise refuse(name, "a CSV in UTF-8", f"another encoding in {path}", "Save it as CSV (UTF-8).") from error
    first = lines.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    header = [column.strip() for column in next(csv.reader([first], delimiter=separator), [])]
    if not any(header):
        raise refuse(name, "a table with a header and rows", f"an empty file: {path}", "Give a CSV with both.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.StringIO(lines), sep=separator, dtype=str, keep_default_na=False, index_col=False,
                                header=None, skiprows=1, names=range(len(header)))
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, ValueError) as error:
        raise refuse(name, "a table with the same columns in every row", " ".join(str(error).split()),
                     f"Correct {path}.") from error
    frame = frame.fillna("").apply(lambda column: column.str.strip())
    frame.columns = pd.Index(header)
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path).map(_text).astype(str)
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise refuse(str(path), "a Parquet table", " ".join(str(error).split())[:120], "Write it again.") from error


def _text(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _files(files: pd.Series, folder: Path) -> pd.Series:
    return files.map(lambda file: os.path.abspath(folder / file) if file else "").astype(str)


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.lower() in SLIDE_SUFFIXES + FIELD_SUFFIXES else name


def _check_names(slides: pd.Series) -> None:
    for row, name in enumerate(slides):
        if name == "":
            raise refuse("slide", "a name", f"nothing ({where(row)})", "Name every slide.")
        if not is_file_name(name):
            raise refuse("slide", "fit to name a file: no /, \\ or control character, no leading dot, at most 200 bytes",
                         f"{name[:60]!r} ({where(row)})", "Rename the slide.")
    twice = slides[slides.duplicated()]
    if len(twice):
        raise refuse("slide", "named once each", f"`{twice.iloc[0]}` twice ({where(int(twice.index[0]))})",
                     "Keep one row per slide; several slides of a patient share a `patient`.")


def _splits(frame: pd.DataFrame) -> pd.Series:
    raw = frame["split"].map(lambda value: "" if value.lower() in MISSING else value).astype(str)
    for row, value in enumerate(raw):
        if value and value.lower() not in SPLIT_NAMES:
            raise refuse("split", "one of " + ", ".join(SPLITS), f"`{value}` ({where(row)})", "Correct it or leave it empty.")
    split = raw.map(lambda value: SPLIT_NAMES.get(value.lower(), "")).astype(str)
    given = frame.assign(split=split)[split != ""]
    for patient, names in given.groupby("patient")["split"].unique().items():
        if len(names) > 1:
            raise refuse("split", "the same for all slides of a patient", f"patient `{patient}` in {' and '.join(names)}",
                         "Move all slides of the patient to one split.")
    return split


def _scales(text: pd.Series) -> pd.Series:
    scales = []
    for row, value in enumerate(text):
        try:
            scales.append(math.nan if value.lower() in MISSING else read_scale(value))
        except ValueError:
            raise refuse("mpp", "microns per pixel, above 0", f"`{value}` ({where(row)})",
                         "Give a number, or leave it empty.") from None
    return pd.Series(scales, index=text.index, dtype=float)


def _without_missing(text: pd.Series) -> pd.Series:
    return text.where(~text.str.lower().isin(MISSING), "").astype(str)


def _labels(text: pd.Series) -> pd.Series | None:
    """0, 1 or NaN per slide; None if a value is neither yes nor no, so that the column is no yes/no task."""
    low = text.str.lower().replace({"0.0": "0", "1.0": "1"})
    low = low.where(~low.isin(MISSING), "")
    return low.map(LABELS).astype(float) if low.isin([*LABELS, ""]).all() else None
