"""The stage `tile`: slides become cells, one Arrow file a slide, from crops, cell tables, found nuclei or whole slides."""

from milscope.tile._tile import Tiled, tile

__all__ = ["Tiled", "tile"]
