"""milscope finds abnormal slides, and the few abnormal cells in them, from slide labels alone.

The flow, each verb a function, a command and a directory:

>>> import milscope as ms, pathlib, tempfile
>>> home = pathlib.Path(tempfile.mkdtemp())
>>> ms.synth(home / "slides", ms.SynthConfig(slides=12, cells=20, rate=0.2, workers=1)).cells
240
>>> table = ms.split(ms.read_slides(home / "slides/slides.csv"))
>>> ms.tile(table, home / "tile", cells=home / "slides/cells.csv", config=ms.TileConfig(size=96, workers=1)).slides
12
>>> narrow = {"channels": [8, 8, 16, 16]}
>>> quick = ms.PretrainConfig(size=32, encoder_options=narrow, epochs=1, device="cpu")
>>> ms.pretrain(home / "tile", table, home / "encoder", quick).epochs
1
>>> ms.encode(home / "tile", home / "encoder", home / "features").features
16
>>> ms.train(home / "features", table, home / "model", ms.TrainConfig(epochs=2)).aggregator
'abmil-gated'
>>> ms.predict(home / "features", home / "model", home / "scores", table).slides
12
>>> ms.retrieve(home / "scores", home / "tile", home / "ranked", ms.RetrieveConfig(k=5)).cells
60
>>> 0 <= ms.evaluate(home / "scores", home / "metrics", ranked=home / "ranked").auc <= 1
True
"""

from typing import TYPE_CHECKING

from milscope.configs import (
    CheckConfig,
    DistillConfig,
    EncodeConfig,
    EndToEndConfig,
    EvaluateConfig,
    ExportCellsConfig,
    ExtendConfig,
    HeatmapConfig,
    PredictConfig,
    PretrainConfig,
    ReportConfig,
    RetrieveConfig,
    ReviewConfig,
    SeekConfig,
    SplitConfig,
    SynthConfig,
    TileConfig,
    TrainConfig,
    VerdictsConfig,
)
from milscope.lazy import import_on_use
from milscope.types import InputError

if TYPE_CHECKING:
    from milscope.check import check
    from milscope.distill import distill
    from milscope.encode import encode
    from milscope.encoders import load_encoder
    from milscope.endtoend import endtoend
    from milscope.evaluate import evaluate
    from milscope.export_cells import export_cells
    from milscope.extend import extend
    from milscope.heatmap import heatmap
    from milscope.models import load_model
    from milscope.predict import predict
    from milscope.pretrain import pretrain
    from milscope.recipes import run
    from milscope.report import report
    from milscope.retrieve import retrieve
    from milscope.review import review, verdicts
    from milscope.seek import seek
    from milscope.slides import read_slides
    from milscope.split import split
    from milscope.store import CellStore
    from milscope.synth import synth
    from milscope.tile import tile
    from milscope.train import train

import_on_use(__name__, {
    **{verb: f"milscope.{verb}" for verb in (
        "check", "distill", "encode", "endtoend", "evaluate", "export_cells", "extend", "heatmap", "predict", "pretrain",
        "report", "retrieve", "review", "seek", "split", "synth", "tile", "train")},
    "CellStore": "milscope.store",
    "load_encoder": "milscope.encoders",
    "load_model": "milscope.models",
    "read_slides": "milscope.slides",
    "run": "milscope.recipes",
    "verdicts": "milscope.review",
})

__all__ = [
    "CellStore",
    "CheckConfig",
    "DistillConfig",
    "EncodeConfig",
    "EndToEndConfig",
    "EvaluateConfig",
    "ExportCellsConfig",
    "ExtendConfig",
    "HeatmapConfig",
    "InputError",
    "PredictConfig",
    "PretrainConfig",
    "ReportConfig",
    "RetrieveConfig",
    "ReviewConfig",
    "SeekConfig",
    "SplitConfig",
    "SynthConfig",
    "TileConfig",
    "TrainConfig",
    "VerdictsConfig",
    "check",
    "distill",
    "encode",
    "endtoend",
    "evaluate",
    "export_cells",
    "extend",
    "heatmap",
    "load_encoder",
    "load_model",
    "predict",
    "pretrain",
    "read_slides",
    "report",
    "retrieve",
    "review",
    "run",
    "seek",
    "split",
    "synth",
    "tile",
    "train",
    "verdicts",
]
