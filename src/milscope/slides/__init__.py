"""What comes in: the slide table, images of slides, crops, places of cells, and tiles."""

from typing import TYPE_CHECKING

from milscope.lazy import import_on_use
from milscope.slides._backends import find_images, open_slide
from milscope.slides._crops import folder_cells, list_crops
from milscope.slides._images import Cell, DamagedError, Skip, decode_pixels, encode_pixels
from milscope.slides._places import PLACE_NAMES, cut_cells, read_places
from milscope.slides._reader import SlideReader
from milscope.slides._table import (
    ALIASES,
    MISSING,
    labels,
    match_column,
    odd_label,
    other_columns,
    read_slides,
    read_text_table,
    tasks,
    where,
    write_slides,
)
from milscope.slides._tiling import grid_cells

if TYPE_CHECKING:
    from milscope.slides._pyramid import write_pyramid
    from milscope.slides._synthetic import SmearPlan, plan_smear, render_smear

import_on_use(__name__, {  # only the renderer needs these
    "write_pyramid": "milscope.slides._pyramid",
    **dict.fromkeys(("SmearPlan", "plan_smear", "render_smear"), "milscope.slides._synthetic"),
})

__all__ = [
    "ALIASES",
    "MISSING",
    "PLACE_NAMES",
    "Cell",
    "DamagedError",
    "Skip",
    "SlideReader",
    "SmearPlan",
    "cut_cells",
    "decode_pixels",
    "encode_pixels",
    "find_images",
    "folder_cells",
    "grid_cells",
    "labels",
    "list_crops",
    "match_column",
    "odd_label",
    "open_slide",
    "other_columns",
    "plan_smear",
    "read_places",
    "read_slides",
    "read_text_table",
    "render_smear",
    "tasks",
    "where",
    "write_pyramid",
    "write_slides",
]
