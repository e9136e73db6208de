"""GeoJSON of cells, as QuPath 0.5 (File > Export objects) and LazySlide (geopandas) write it."""

import contextlib
import json
import math

import numpy as np
import pytest

from milscope.slides import DamagedError, list_geojson, read_geojson, read_places
from milscope.slides._geojson import _middle
from milscope.types import InputError


def square(x, y, side=10.0):
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def feature(geometry, **properties):
    own = {key: properties.pop(key) for key in ("id", "nucleusGeometry") if key in properties}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **own}


def polygon(x, y, **properties):
    return feature({"type": "Polygon", "coordinates": square(x, y)}, **properties)


def write(path, features, **more):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **more}), "utf-8")
    return path


def places(frame):
    return list(frame[["cell", "x", "y"]].itertuples(index=False, name=None))


def test_lazyslide_240_segmented_cells_become_cells(tmp_path):
    """Polygons of another tool, as geopandas writes them, with a property for the slide."""
    features = [polygon(100, 200, id="0", slide="s1", cell_type="tumour"), polygon(300.5, 400, id="1", slide="s2")]
    frame = read_places(write(tmp_path / "cells.geojson", features, crs={"type": "name"}))
    assert frame.columns.tolist() == ["slide", "cell", "x", "y"]
    assert frame.to_numpy().tolist() == [["s1", "0", 105.0, 205.0], ["s2", "1", 305.5, 405.0]]


def test_qupath_cells_are_placed_by_their_nucleus_and_regions_are_no_cells(tmp_path):
    nucleus = {"type": "Polygon", "coordinates": square(2, 4, 2)}
    features = [
        polygon(0, 0, id="a1-b2", objectType="cell", nucleusGeometry=nucleus, classification={"name": "Tumor"}),
        polygon(50, 50, id="c3-d4", objectType="detection"),
        feature({"type": "Polygon", "coordinates": square(0, 0, 1000)}, id="e5", objectType="annotation"),
    ]
    assert places(read_geojson(write(tmp_path / "a.geojson", features), "s")) == [("a1-b2", 3, 5), ("c3-d4", 55, 55)]


def test_annotations_are_cells_where_nobody_detected_any(tmp_path):
    points = {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4, 0]]}
    features = [feature(points, id="x", objectType="annotation"),
                feature({"type": "Point", "coordinates": [5.25, 6]}, name="odd one")]
    assert places(read_geojson(write(tmp_path / "a.geojson", features), "s")) == [
        ("s:1,2", 1, 2), ("s:3,4", 3, 4), ("odd one", 5.25, 6)]


def test_a_name_that_several_cells_share_gives_way_to_the_place(tmp_path):
    features = [polygon(0, 0, name="Tumor"), polygon(20, 0, name="Tumor"), polygon(40, 0, name="one")]
    assert places(read_geojson(write(tmp_path / "a.geojson", features), "s")) == [
        ("s:5,5", 5, 5), ("s:25,5", 25, 5), ("one", 45, 5)]


def test_several_polygons_are_one_cell_at_their_common_centre(tmp_path):
    both = {"type": "MultiPolygon", "coordinates": [square(0, 0, 10), square(100, 0, 20)]}
    ((_, x, y),) = places(read_geojson(write(tmp_path / "a.geojson", [feature(both)]), "s"))
    assert (x, y) == pytest.approx(((5 * 100 + 110 * 400) / 500, (5 * 100 + 10 * 400) / 500))


def test_the_centre_is_that_of_the_area_whatever_the_direction_and_place():
    angles = np.linspace(0, 2 * math.pi, 7)[:-1]
    for far in (0.0, 250_000.0):
        half_disc = [(far + 10 * math.cos(a), 5 * math.sin(a) - far) for a in angles]
        for ring in (half_disc, half_disc[::-1], [*half_disc, half_disc[0]]):
            assert _middle([[ring]]) == pytest.approx((far, -far), abs=1e-6)
    triangle = [(0, 0), (6, 0), (0, 3), (0, 0)]
    assert _middle([[triangle]]) == pytest.approx((2, 1))  # not the mean of its corners and not of its box
    assert _middle([[[(1, 1), (3, 1), (1, 1)]]]) == (2, 1)  # a line has no area


def test_a_folder_holds_one_file_a_slide(tmp_path):
    write(tmp_path / "s1.geojson", [polygon(0, 0, id="n1")])
    write(tmp_path / "s 2.GeoJSON", [polygon(10, 0), polygon(20, 0)])
    (tmp_path / ".s3.geojson").touch()
    (tmp_path / "notes.txt").touch()
    assert {slide: path.name for slide, path in list_geojson(tmp_path).items()} == {"s1": "s1.geojson", "s 2": "s 2.GeoJSON"}
    assert read_places(tmp_path).to_numpy().tolist() == [
        ["s 2", "s 2:15,5", 15, 5], ["s 2", "s 2:25,5", 25, 5], ["s1", "n1", 5, 5]]


def test_a_folder_of_crops_holds_none(tmp_path):
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1" / "a.png").touch()
    assert not list_geojson(tmp_path)
    with pytest.raises(InputError, match=r"a folder of files `<slide>\.geojson`"):
        read_places(tmp_path)


def test_a_list_and_a_single_feature_and_a_mark_at_the_start_are_read_too(tmp_path):
    (tmp_path / "list.geojson").write_text(json.dumps([polygon(0, 0), polygon(10, 0)]))
    (tmp_path / "one.geojson").write_text("\ufeff" + json.dumps(polygon(0, 0), indent=2), "utf-8")
    write(tmp_path / "none.geojson", [])
    assert len(read_geojson(tmp_path / "list.geojson", "s")) == 2
    assert len(read_geojson(tmp_path / "one.geojson", "s")) == 1
    none = read_geojson(tmp_path / "none.geojson", "s")
    assert none.columns.tolist() == ["slide", "cell", "x", "y"]
    assert none.empty


@pytest.mark.parametrize(("text", "says"), [
    ("", "begins with no bracket"),
    ("slide,x,y\n", "begins with no bracket"),
    ('{"type": "FeatureCollection"}', "no list of `features`"),
    ('{"type": "FeatureCollection", "features": [{"type": "Feature"}, ', "no GeoJSON that can be read"),
    ('{"features": [{}{}]}', "lacks a comma"),
    ('{"a": 1', "ends early"),
    ('{"a" 1}', "no colon"),
    ("[" * 100_000, "no GeoJSON that can be read"),
    ("[1]", "feature 1: not an object"),
    ('[{"geometry": null}]', "a geometry of type None"),
    ('[{"geometry": {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}}]', "type LineString"),
    ('[{"geometry": {"type": "Point", "coordinates": ["a", 2]}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "Point", "coordinates": "12"}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "Point", "coordinates": [1, NaN]}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "Point", "coordinates": [1]}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "Polygon", "coordinates": [[]]}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "MultiPolygon", "coordinates": []}}]', "coordinates that are not numbers"),
    ('[{"geometry": {"type": "Polygon", "coordinates": null}}]', "coordinates that are not numbers"),
])
def test_what_is_no_geojson_of_cells(tmp_path, text, says):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(DamagedError, match=says) as error:
        read_geojson(tmp_path / "a.geojson", "s")
    assert "\n" not in str(error.value)


def test_a_file_for_all_slides_must_name_them(tmp_path):
    features = [polygon(0, 0, slide="s1"), polygon(0, 0), polygon(0, 0, slide="")]
    with pytest.raises(InputError, match=r"2 odd features .*feature 2: no `properties.slide`; feature 3"):
        read_places(write(tmp_path / "a.geojson", features))


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path):
    (tmp_path / "a.geojson").write_bytes(b"\xff\xfe\0\0")
    for name in ("a.geojson", "none.geojson"):
        with pytest.raises(InputError, match=name):
            read_places(tmp_path / name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "..\\b", "a\nb", "x" * 501])
def test_names_that_lead_out_are_refused(tmp_path, name):
    for cell in (polygon(0, 0, id=name, slide="s"), polygon(0, 0, slide=name)):
        with pytest.raises(InputError, match="no paths that lead elsewhere"):
            read_places(write(tmp_path / "a.geojson", [cell]))


def test_300_mutated_files_are_read_or_refused_never_another_error(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "a.geojson", [polygon(10 * i, 0, id=str(i), slide="s", objectType="cell") for i in range(3)])
    whole = np.frombuffer((tmp_path / "a.geojson").read_bytes(), np.uint8)
    good = 0
    for _ in range(300):
        changed = whole.copy()
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            changed[place] = rng.choice([rng.integers(48, 58), rng.integers(32, 127), rng.integers(256)])
        (tmp_path / "a.geojson").write_bytes(changed[: rng.integers(1, 5 * len(whole))].tobytes())
        with contextlib.suppress(InputError):
            good += len(read_places(tmp_path / "a.geojson")) > 0
    assert 0 < good < 300


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/a", "a\\..\\b"])
def test_names_that_lead_elsewhere_are_refused_however_the_file_is_read(tmp_path, name):
    write(tmp_path / "s1.geojson", [polygon(0, 0, id="n1"), polygon(9, 9, id=name)])
    with pytest.raises(DamagedError, match="feature 2: the name"):
        read_geojson(tmp_path / "s1.geojson", "s1")
    with pytest.raises(InputError, match="no paths that lead elsewhere"):
        read_places(tmp_path)
