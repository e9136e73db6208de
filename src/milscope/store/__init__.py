"""What lies on disk: artifacts, cells, features, bags, and the order in which they are read."""

from typing import TYPE_CHECKING

from milscope.lazy import import_on_use
from milscope.store._cells import CellStore, CellWriter, Frame, decode
from milscope.store._manifest import (
    Manifest,
    Stage,
    artifact_kind,
    fingerprint,
    fingerprint_files,
    json_values,
    read_manifest,
    temporary_name,
    unwritable,
    write_text,
)
from milscope.store._pixels import GIGABYTE, Pixels
from milscope.store._sampling import HalvesSampler
from milscope.store._windows import WHOLE, Window, decode_windows, window_cells, windows

if TYPE_CHECKING:
    from milscope.store._bags import Bags, cells_alone, concatenate
    from milscope.store._features import feature_slides, read_cells, read_features, write_features
    from milscope.store._outside import Imported, import_features, open_features
    from milscope.store._packed import Packed, Scale, measure_scale, pack_features

import_on_use(__name__, {  # these need torch, which the workers that cut slides do not
    **dict.fromkeys(("Bags", "cells_alone", "concatenate"), "milscope.store._bags"),
    **dict.fromkeys(("feature_slides", "read_cells", "read_features", "write_features"), "milscope.store._features"),
    **dict.fromkeys(("Imported", "import_features", "open_features"), "milscope.store._outside"),
    **dict.fromkeys(("Packed", "Scale", "measure_scale", "pack_features"), "milscope.store._packed"),
})

__all__ = [
    "GIGABYTE",
    "WHOLE",
    "Bags",
    "CellStore",
    "CellWriter",
    "Frame",
    "HalvesSampler",
    "Imported",
    "Manifest",
    "Packed",
    "Pixels",
    "Scale",
    "Stage",
    "Window",
    "artifact_kind",
    "cells_alone",
    "concatenate",
    "decode",
    "decode_windows",
    "feature_slides",
    "fingerprint",
    "fingerprint_files",
    "import_features",
    "json_values",
    "measure_scale",
    "open_features",
    "pack_features",
    "read_cells",
    "read_features",
    "read_manifest",
    "temporary_name",
    "unwritable",
    "window_cells",
    "windows",
    "write_features",
    "write_text",
]
