"""Export of ranked cells: files that QuPath, TissUUmaps and table programs open."""

from milscope.export_cells._export import FORMATS, CellsExported, export_cells

__all__ = ["FORMATS", "CellsExported", "export_cells"]
