"""What comes in: the slide table, images of slides, crops, places of cells, and tiles."""

from milscope.slides._backends import find_images, open_slide
from milscope.slides._crops import folder_cells, list_crops
from milscope.slides._images import Cell, DamagedError, Skip, decode_pixels, encode_pixels
from milscope.slides._places import cut_cells, read_places
from milscope.slides._reader import SlideReader
from milscope.slides._table import labels, read_slides, tasks, write_slides
from milscope.slides._tiling import grid_cells

__all__ = [
    "Cell",
    "DamagedError",
    "Skip",
    "SlideReader",
    "cut_cells",
    "decode_pixels",
    "encode_pixels",
    "find_images",
    "folder_cells",
    "grid_cells",
    "labels",
    "list_crops",
    "open_slide",
    "read_places",
    "read_slides",
    "tasks",
    "write_slides",
]
