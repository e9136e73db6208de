"""Cells from GeoJSON, as QuPath and LazySlide write it: outlines and points become centres."""

import json
import math
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from milscope.slides._images import DamagedError, one_line
from milscope.slides._table import ALIASES, NAME_RULE, leads_out

SUFFIX = ".geojson"
CELLS = ("cell", "detection")
"""QuPath's `objectType` of cells; where a slide has some, its other objects (regions, tiles) are no cells."""
NAMES = ("cell", "cell_id", "id", "name")

Found = tuple[str, str, str, float, float]
"""Slide, kind of object, name, x, y."""


def list_geojson(folder: Path) -> dict[str, Path]:
    """Slide → its file `<slide>.geojson` in a folder.

    Raises:
        OSError: If there is no such folder, or it cannot be listed.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries
                       if entry.name.lower().endswith(SUFFIX) and not entry.name.startswith("."))
    return {name[: -len(SUFFIX)]: Path(folder) / name for name in names}


def read_geojson(path: Path, slide: str = "") -> pd.DataFrame:
    """The cells of a GeoJSON file as columns `slide`, `cell`, `x`, `y`: centres in slide pixels (level 0).

    A polygon's centre is that of its area, of several polygons together; of a cell with a nucleus that of the nucleus. A
    point is a cell, and so is each of several points. A cell is called by its `cell`, `cell_id`, `id` or `name`; without
    one, or where several cells share one, `<slide>:<x>,<y>`.

    Args:
        path: A FeatureCollection, a list of features or one feature.
        slide: The slide that they lie on; "": each tells it in `properties.slide`.

    Raises:
        DamagedError: If it is no GeoJSON, or a feature has no slide, or no place that is a number.
    """
    found: list[Found] = []
    bad: list[str] = []
    try:
        text = Path(path).read_text("utf-8-sig")
        for number, feature in enumerate(_features(text), 1):
            try:
                found += _cells(feature, slide)
            except _BadFeatureError as error:
                bad.append(f"feature {number}: {error}")
    except OSError as error:
        raise DamagedError(f"{error.strerror}: {path}") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, or brackets without end
        raise DamagedError(f"no GeoJSON that can be read: {one_line(error)}: {path}") from error
    if bad:
        raise DamagedError(f"{len(bad)} odd features in {path} ({'; '.join(bad[:3])}{'; …' if len(bad) > 3 else ''})")
    return _table(found)


class _BadFeatureError(Exception):
    """A feature that is no cell with a place."""


def _table(found: list[Found]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=["slide", "kind", "cell", "x", "y"]).astype({"x": float, "y": float})
    cells = frame["kind"].isin(CELLS)
    frame = frame[cells | ~cells.groupby(frame["slide"]).transform("any").astype(bool)]
    shared = frame.duplicated(["slide", "cell"], keep=False) | (frame["cell"] == "")
    places = [f"{slide}:{x:.10g},{y:.10g}" for slide, x, y in zip(frame["slide"], frame["x"], frame["y"], strict=True)]
    frame["cell"] = frame["cell"].where(~shared, places)
    return frame[["slide", "cell", "x", "y"]].reset_index(drop=True).astype({"slide": str, "cell": str})


def _cells(feature: Any, slide: str) -> Iterator[Found]:  # noqa: ANN401 - whatever JSON holds
    if not isinstance(feature, dict):
        raise _BadFeatureError("not an object")
    told = feature.get("properties")
    properties = {str(key).lower(): value for key, value in told.items()} if isinstance(told, dict) else {}
    slide = slide or next((str(properties[name]) for name in ALIASES["slide"] if properties.get(name) not in (None, "")), "")
    if not slide:
        raise _BadFeatureError("no `properties.slide`")
    centres = list(_centres(feature.get("nucleusGeometry") or feature.get("geometry")))
    own = [properties.get("cell"), properties.get("cell_id"), feature.get("id"), properties.get("id"), properties.get("name")]
    name = next((str(value) for value in own if isinstance(value, str | int) and str(value).strip()), "")
    for each in (slide, name):
        if each and leads_out(each):
            raise _BadFeatureError(f"the name {each[:60]!r}, where names should be {NAME_RULE}")
    for x, y in centres:
        yield slide, str(properties.get("objecttype", "")).lower(), name if len(centres) == 1 else "", x, y


def _centres(geometry: Any) -> Iterator[tuple[float, float]]:  # noqa: ANN401
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    places = geometry.get("coordinates") if isinstance(geometry, dict) else None
    try:
        if kind == "Point":
            yield _place(places)
        elif kind == "MultiPoint":
            yield from [_place(place) for place in places or ()]
        elif kind == "Polygon":
            yield _middle([places])
        elif kind == "MultiPolygon":
            yield _middle(places)
        else:
            raise _BadFeatureError(f"a geometry of type {str(kind)[:40]}, where a point or polygon is needed")
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise _BadFeatureError("coordinates that are not numbers") from error


def _place(place: Any) -> tuple[float, float]:  # noqa: ANN401
    x, y = float(place[0]), float(place[1])
    if isinstance(place, str) or not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError
    return x, y


def _middle(polygons: Any) -> tuple[float, float]:  # noqa: ANN401
    r"""Centre of area of some polygons, by their outer rings; of polygons without area the mean of their corners.

    $$ A = \frac12 \sum_i c_i, \quad \bar x = \frac{1}{6A} \sum_i (x_i + x_{i+1})\, c_i,
       \quad c_i = x_i y_{i+1} - x_{i+1} y_i $$
    """
    total = across = down = 0.0
    corners: list[tuple[float, float]] = []
    for polygon in polygons:
        ring = [_place(corner) for corner in polygon[0]]
        corners += ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring
        left, top = ring[0]  # from there, so that far from the origin no digits are lost
        moved = [(x - left, y - top) for x, y in ring]
        crosses = [(a, b, a[0] * b[1] - b[0] * a[1]) for a, b in zip(moved, moved[1:] + moved[:1], strict=True)]
        area = sum(cross for _, _, cross in crosses) / 2
        sign = math.copysign(1.0, area)  # rings may turn either way
        total += abs(area)
        across += sign * sum((a[0] + b[0]) * cross for a, b, cross in crosses) / 6 + left * abs(area)
        down += sign * sum((a[1] + b[1]) * cross for a, b, cross in crosses) / 6 + top * abs(area)
    if total <= 1e-9:
        return sum(x for x, _ in corners) / len(corners), sum(y for _, y in corners) / len(corners)
    return across / total, down / total


def _features(text: str) -> Iterator[Any]:
    """The features of a GeoJSON text one by one, so that a million outlines are never objects at once."""
    decoder = json.JSONDecoder()
    start = _skip(text, 0)
    if text[start : start + 1] == "[":
        yield from _elements(text, start, decoder)
        return
    if text[start : start + 1] != "{":
        raise ValueError("it begins with no bracket")
    kind = None
    at, listed = _skip(text, start + 1), False
    while text[at : at + 1] == '"':
        key, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"no colon after {key[:40]!r}")
        at = _skip(text, at + 1)
        if key == "features" and text[at : at + 1] == "[":
            at, listed = (yield from _elements(text, at, decoder)), True
        else:
            value, at = decoder.raw_decode(text, at)
            kind = value if key == "type" else kind
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    if text[at : at + 1] != "}":
        raise ValueError("it ends early")
    if kind == "Feature":
        yield decoder.raw_decode(text, start)[0]
    elif not listed:
        raise ValueError("no list of `features` in it")


def _elements(text: str, at: int, decoder: json.JSONDecoder) -> Generator[Any, None, int]:
    """The elements of the JSON list that begins at a place; returns the place after it."""
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        value, at = decoder.raw_decode(text, at)
        yield value
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise ValueError(f"it ends early, or lacks a comma at character {at}")
    return at + 1


def _skip(text: str, at: int) -> int:
    """The next place without a space."""
    while text[at : at + 1].isspace():
        at += 1
    return at
