"""The settings of every stage, free of heavy imports: each field is a command-line flag and a TOML key."""

from collections.abc import Mapping
from typing import Any

from milscope.configs._benchmark import METHODS, QUICK, WitnessConfig
from milscope.configs._learning import (
    CELL_WEIGHT,
    CompareConfig,
    CrossvalidateConfig,
    DistillConfig,
    EncodeConfig,
    EndToEndConfig,
    ExtendConfig,
    PretrainConfig,
    TrainConfig,
)
from milscope.configs._results import (
    LEARNED,
    EvaluateConfig,
    PredictConfig,
    RetrieveConfig,
    SeekConfig,
)
from milscope.configs._setting import configure, identity, setting
from milscope.configs._shown import (
    ExportCellsConfig,
    HeatmapConfig,
    ReportConfig,
    ReviewConfig,
    VerdictsConfig,
)
from milscope.configs._slides import (
    CheckConfig,
    SplitConfig,
    SynthConfig,
    TileConfig,
)

STAGES: Mapping[str, type[Any]] = {
    "split": SplitConfig,
    "tile": TileConfig,
    "check": CheckConfig,
    "pretrain": PretrainConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "distill": DistillConfig,
    "endtoend": EndToEndConfig,
    "predict": PredictConfig,
    "seek": SeekConfig,
    "retrieve": RetrieveConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}

__all__ = [
    "CELL_WEIGHT",
    "LEARNED",
    "METHODS",
    "QUICK",
    "STAGES",
    "CheckConfig",
    "CompareConfig",
    "CrossvalidateConfig",
    "DistillConfig",
    "EncodeConfig",
    "EndToEndConfig",
    "EvaluateConfig",
    "ExportCellsConfig",
    "ExtendConfig",
    "HeatmapConfig",
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
    "WitnessConfig",
    "configure",
    "identity",
    "setting",
]
