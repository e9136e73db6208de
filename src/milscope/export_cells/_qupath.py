"""QuPath: one GeoJSON file a slide, its cells as detections with measurements and, if judged, a class."""

import json
import uuid
from pathlib import Path
from typing import Any

from milscope.export_cells._gather import Slide
from milscope.store import write_text

COLOURS = {"abnormal": "#d55e00", "normal": "#0072b2", "unsure": "#e69f00", "artefact": "#555555"}
"""Of verdicts; told apart by people who do not see red and green (Okabe and Ito, 2008)."""
_OTHER = "#cc79a7"


def write_geojson(slide: Slide, folder: Path) -> None:
    """Writes `<slide>.geojson`: the square of each cell in pixels of level 0; tiles of a grid as QuPath's tiles."""
    kind = "tile" if slide.on_grid else "detection"
    rows = slide.cells[slide.placed].to_dict("records")
    features = ",\n".join(json.dumps(_feature(row, kind), ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(folder / f"{slide.name}.geojson", f'{{"type": "FeatureCollection", "features": [\n{features}\n]}}\n')


def colour(verdict: str) -> str:
    """The colour of a verdict, `#rrggbb`."""
    return COLOURS.get(verdict, _OTHER)


def _feature(cell: dict[str, Any], kind: str) -> dict[str, Any]:
    left, top, right, bottom = cell["left"], cell["top"], cell["left"] + cell["width"], cell["top"] + cell["height"]
    properties = {"objectType": kind, "name": cell["cell"], "cell": cell["cell"],
                  "measurements": {"milscope: score": cell["score"], "milscope: rank": cell["rank"]}}
    if cell.get("verdict"):
        shown = colour(cell["verdict"])
        properties["classification"] = {"name": cell["verdict"], "color": [int(shown[at:at + 2], 16) for at in (1, 3, 5)]}
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Feature", "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"milscope:{cell['slide']}/{cell['cell']}")),
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}
