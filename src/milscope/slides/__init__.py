"""What comes in: the slide table, images of slides, crops, places of cells, and tiles."""

from typing import TYPE_CHECKING

from milscope.lazy import import_on_use
from milscope.slides._backends import find_images, open_slide
from milscope.slides._crops import folder_cells, list_crops
from milscope.slides._geojson import list_geojson, read_geojson
from milscope.slides._images import Cell, DamagedError, Skip, decode_pixels, encode_pixels
from milscope.slides._marks import mark_cells
from milscope.slides._places import PLACE_NAMES, cut_cells, read_places
from milscope.slides._reader import GivenUpError, SlideReader
from milscope.slides._table import (
    ALIASES,
    MISSING,
    is_file_name,
    labels,
    match_column,
    odd_label,
    other_columns,
    read_scale,
    read_slides,
    read_text_table,
    tasks,
    where,
    write_slides,
)
from milscope.slides._tiling import Grid, choose_tiles, foreground, grid_cells, overview, shrink

if TYPE_CHECKING:
    from milscope.slides._nuclei import STAINS, find_nuclei
    from milscope.slides._pyramid import write_pyramid
    from milscope.slides._synthetic import SmearPlan, plan_smear, render_smear

import_on_use(__name__, {  # for few runs, and slow to import
    **dict.fromkeys(("STAINS", "find_nuclei"), "milscope.slides._nuclei"),
    "write_pyramid": "milscope.slides._pyramid",
    **dict.fromkeys(("SmearPlan", "plan_smear", "render_smear"), "milscope.slides._synthetic"),
})

__all__ = [
    "ALIASES",
    "MISSING",
    "PLACE_NAMES",
    "STAINS",
    "Cell",
    "DamagedError",
    "GivenUpError",
    "Grid",
    "Skip",
    "SlideReader",
    "SmearPlan",
    "choose_tiles",
    "cut_cells",
    "decode_pixels",
    "encode_pixels",
    "find_images",
    "find_nuclei",
    "folder_cells",
    "foreground",
    "grid_cells",
    "is_file_name",
    "labels",
    "list_crops",
    "list_geojson",
    "mark_cells",
    "match_column",
    "odd_label",
    "open_slide",
    "other_columns",
    "overview",
    "plan_smear",
    "read_geojson",
    "read_places",
    "read_scale",
    "read_slides",
    "read_text_table",
    "render_smear",
    "shrink",
    "tasks",
    "where",
    "write_pyramid",
    "write_slides",
]
