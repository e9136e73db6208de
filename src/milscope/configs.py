"""The settings of every stage, free of heavy imports: each field is a command-line flag and a TOML key."""

import copy
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from milscope.types import refuse


def setting(default: Any, meaning: str, *, identity: bool = True, choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """A field with its meaning (with the unit); `identity=False` marks what cannot change a result."""
    metadata = {"meaning": meaning, "identity": identity, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _as_in(config_class: type[Any], name: str) -> Any:  # noqa: ANN401
    """A field with the default and the meaning that it has in another class."""
    return copy.copy(config_class.__dataclass_fields__[name])


@dataclass(frozen=True)
class SynthConfig:
    """What rendered slides look like."""

    slides: int = setting(40, "number of slides, one per patient")
    cells: int = setting(200, "cells per slide")
    prevalence: float = setting(0.5, "share of slides that are abnormal")
    rate: float = setting(0.05, "witness rate: share of abnormal cells on an abnormal slide")
    mpp: float = setting(0.5, "scale of the rendered slides, microns per pixel")
    seed: int = setting(0, "same seed, same slides")
    crops: bool = setting(False, "write a folder of cell crops per slide instead of slide images")
    workers: int = setting(0, "processes; 0 means one per core", identity=False)


@dataclass(frozen=True)
class SplitConfig:
    """How patients are divided."""

    validation: float = setting(0.2, "share of patients on which models are chosen")
    test: float = setting(0.2, "share of patients on which nothing is chosen and everything is measured")
    seed: int = setting(0, "same seed, same division")


@dataclass(frozen=True)
class TileConfig:
    """How slides become cells."""

    size: int = setting(64, "side of a crop or tile, pixels at the working scale")
    mpp: float | None = setting(None, "working scale, microns per pixel; empty: the image's own pixels")
    slide_mpp: float | None = setting(None, "scale of slides that do not tell theirs, microns per pixel")
    find: str = setting("tiles", "what is cut from images without a cell table: tiles of a grid, or nuclei that are found",
                        choices=("tiles", "nuclei"))
    overlap: int = setting(0, "tiles only: pixels that neighbours share")
    foreground: float = setting(0.1, "tiles only: least share of a tile that must be stained")
    nucleus: float = setting(8.0, "nuclei only: typical diameter, microns")
    stain: str = setting("papanicolaou", "nuclei only: how the slides are stained",
                         choices=("papanicolaou", "haematoxylin-eosin"))
    contrast: float = setting(0.45, "nuclei only: least contrast, as a share of the upper quartile of all that stands out")
    quality: int = setting(95, "JPEG quality of crops cut from images; 100 stores PNG, without loss")
    retry_failed: bool = setting(False, "try slides again that failed before", identity=False)
    limit: float = setting(1800.0, "longest time for a slide, seconds; then it counts as failed. 0: any time", identity=False)
    workers: int = setting(0, "processes; 0 means one per core; 1 without a limit works in milscope's own", identity=False)
    executor: str = setting("processes", "who does the slides: processes of this machine, or a Ray cluster", identity=False,
                            choices=("processes", "ray"))
    address: str = setting("", "of the Ray cluster; empty: the one this machine belongs to, else a local one", identity=False)


@dataclass(frozen=True)
class CheckConfig:
    """What is looked for before training."""

    task: str = setting("", "columns of labels, with commas; empty: all columns of yes and no")
    about: tuple[str, ...] = setting((), "more columns that say how slides were made; names such as site or scanner are known")
    few: int = setting(10, "slides with fewer cells are named")
    alike: float = setting(0.95, "how alike two pictures must be to be near-duplicates; 1: the same")
    draws: int = setting(1000, "bootstrap draws of patients, and shuffles of the labels")
    seed: int = setting(0, "same seed, same intervals")
    workers: int = setting(0, "processes; 0 means one per core", identity=False)


@dataclass(frozen=True)
class PretrainConfig:
    """How the encoder learns from slide labels (SLAM-AGS, METHODS 1)."""

    task: str = setting("", "label column to learn from; empty: the only one")
    method: str = setting("slam-ags", "what the encoder learns from the labels", choices=(
        "slam-ags", "weaksupcon", "pcgrad", "one-way", "upgrad", "mgda", "simclr", "weakly-supervised", "similarity", "random"))
    encoder: str = setting("resnet18", "any timm model")
    encoder_options: dict[str, Any] = setting({}, "options of the timm model, as JSON")  # noqa: RUF009 - a copy each
    weights: str = setting("", "weights to start from: a file, or `hub` for timm's; empty: random")
    freeze: tuple[str, ...] = setting((), "parts of the encoder that stay as they are, by the start of their names")
    size: int = setting(64, "side of a view, pixels")
    margin: float = setting(1.125, "side of a stored cell over the side of a view: room for random crops")
    epochs: int = setting(20, "passes over all training cells; 0 leaves the encoder untrained")
    batch: int = setting(256, "cells a step, positive and negative slides together")
    budget: str = setting("", "time to train in instead of `epochs`, such as 90s, 10m or 2h")
    statistics: str = setting("joint", "which views share the statistics of batch normalisation",
                              choices=("joint", "per-task", "per-view"))
    surgery: str = setting("", "how the gradients of the tasks are joined; empty: as the method says", choices=(
        "", "ags", "ags-one-way", "sum", "pcgrad", "upgrad", "mgda"))
    rescale_bound: float | None = setting(None, "most that the surgery may lengthen a step; empty: no bound")
    contrast_weight: float = setting(1.0, "weight of the contrast among cells of positive slides")
    similarity_weight: float = setting(1.0, "weight of the similarity among cells of negative slides")
    contrast_temperature: float = setting(0.07, "temperature of the contrast")
    similarity_temperature: float = setting(0.07, "temperature of the similarity")
    projection: int = setting(512, "width of the projector's hidden and output layer")
    optimizer: str = setting("adamw", "which optimizer", choices=("sgd", "adamw"))
    learning_rate: float = setting(1e-3, "peak learning rate, after warm-up")
    weight_decay: float = setting(1e-4, "weight decay")
    warmup: float = setting(0.07, "share of the steps with a rising learning rate")
    colour: float = setting(0.1, "strength of the colour jitter, 0 for none")
    stain: float = setting(0.0, "strength of the stain jitter, 0 for none")
    orientations: bool = setting(True, "turn and flip cells")
    precision: str = setting("auto", "arithmetic of the encoder; float64 to check it",
                             choices=("auto", "float32", "bfloat16", "float64"))
    seed: int = setting(0, "same seed, same encoder")
    device: str = setting("auto", "cpu, cuda, cuda:1; auto takes CUDA if there is one", identity=False)
    cache: float = setting(4.0, "most space for decoded cells, GB on disk; above it cells are decoded at every use",
                           identity=False)
    stop_on_collapse: bool = setting(False, "end with an error when the projections collapse")
    groups_every: int = setting(50, "steps between two looks at the conflict within parts of the encoder; 0: none",
                                identity=False)
    tensorboard: bool = setting(False, "write the log for TensorBoard, too (needs milscope[tensorboard])", identity=False)


@dataclass(frozen=True)
class EncodeConfig:
    """How cells become features."""

    batch: int = setting(512, "cells a forward pass", identity=False)
    precision: str = setting("auto", "arithmetic of the encoder", choices=("auto", "float32", "bfloat16"))
    device: str = setting("auto", "cpu, cuda, cuda:1, mps; auto takes CUDA if there is one and `executor` is `here`",
                          identity=False)
    executor: str = setting("here", "who does the slides: this process with all its threads or the GPU, processes of a "
                            "thread each, or a Ray cluster", choices=("here", "processes", "ray"), identity=False)
    workers: int = setting(0, "not `here`: processes; 0 means one per core", identity=False)
    limit: float = setting(0.0, "not `here`: longest time for a slide, seconds; then it counts as failed. 0: any time",
                           identity=False)
    address: str = _as_in(TileConfig, "address")


@dataclass(frozen=True)
class TrainConfig:
    """How slide models learn from features."""

    task: str = setting("", "what to learn: label column, or `name:kind(…)`, several with commas; empty: the only column")
    aggregators: tuple[str, ...] = setting(("abmil-gated",), "models to try; the best on validation is kept")
    options: dict[str, Any] = setting({}, "options of models by their names, as JSON")  # noqa: RUF009 - a copy each
    select: str = setting("loss", "what chooses epoch and model on validation patients", choices=("loss", "auc"))
    ensemble: int = setting(1, "parts of the patients that take turns as validation; the models of all turns are averaged")
    seeds: int = setting(1, "models of each turn, averaged")
    epochs: int = setting(100, "most passes over the training slides")
    patience: int = setting(20, "passes without improvement before training ends")
    batch: int = setting(16, "slides a step")
    cells: int = setting(32_768, "most cells in memory at a time; a step is divided, its gradient is the same")
    learning_rate: float = setting(3e-4, "learning rate (AdamW)")
    weight_decay: float = setting(1e-3, "weight decay (AdamW)")
    dropout: float = setting(0.25, "share of features dropped in training")
    loss: str = setting("cross-entropy", "how wrong answers count", choices=("cross-entropy", "focal", "asymmetric"))
    balance: str = setting("weights", "how rare classes come to count alike", choices=("weights", "sampling", "none"))
    sensitivity: float | None = setting(None, "share of positive patients that must be called; sets the threshold")
    specificity: float | None = setting(None, "share of negative patients not to be called; what lies between is for review")
    confidence: float = setting(0.95, "how sure the two have to be, for `--guarantee exact`")
    guarantee: str = setting("exact", "with that confidence, or on average", choices=("exact", "expected"))
    calibration: float = setting(0.5, "share of validation patients set aside for the threshold, if one is asked for")
    temperature: bool = setting(False, "fit a temperature on validation slides, so that probabilities mean what they say")
    precision: str = setting("auto", "arithmetic of the training", choices=("auto", "float32", "bfloat16"))
    device: str = setting("auto", "cpu, cuda, cuda:1; auto takes CUDA if there is one", identity=False)
    seed: int = setting(0, "same seed, same model")


@dataclass(frozen=True)
class CrossvalidateConfig(TrainConfig):
    """How slide models are judged where there are too few slides for one test set; and all of `TrainConfig`."""

    folds: int = setting(5, "parts of the patients, each of them the test patients of one training")
    site: str = setting("", "column of the site (hospital, scanner): no site is then tested in two folds; empty: not looked at")
    validation: float = setting(0.2, "share of the other patients on which models are chosen")


@dataclass(frozen=True)
class CompareConfig:
    """How several slide models are judged on the same patients."""

    task: str = _as_in(TrainConfig, "task")
    models: tuple[str, ...] = setting(("abmil-gated", "clam-sb", "dsmil", "transmil", "max"),
                                      "models to compare, the first with each other one; `mean` always comes along")
    options: dict[str, Any] = _as_in(TrainConfig, "options")  # noqa: RUF009 - a copy each
    seeds: int = setting(5, "repetitions, each with other folds and other random numbers, the same for all models")
    folds: int = setting(5, "parts of the patients, each of them the test patients of one training; 0: the split of the table")
    site: str = _as_in(CrossvalidateConfig, "site")
    validation: float = _as_in(CrossvalidateConfig, "validation")
    select: str = _as_in(TrainConfig, "select")
    ensemble: int = _as_in(TrainConfig, "ensemble")
    epochs: int = _as_in(TrainConfig, "epochs")
    patience: int = _as_in(TrainConfig, "patience")
    batch: int = _as_in(TrainConfig, "batch")
    cells: int = _as_in(TrainConfig, "cells")
    learning_rate: float = _as_in(TrainConfig, "learning_rate")
    weight_decay: float = _as_in(TrainConfig, "weight_decay")
    dropout: float = _as_in(TrainConfig, "dropout")
    loss: str = _as_in(TrainConfig, "loss")
    balance: str = _as_in(TrainConfig, "balance")
    temperature: bool = _as_in(TrainConfig, "temperature")
    precision: str = _as_in(TrainConfig, "precision")
    device: str = _as_in(TrainConfig, "device")
    seed: int = setting(0, "of the first repetition; same seed, same comparison")
    draws: int = setting(10_000, "bootstrap draws over patients and repetitions; few make p values coarse")
    confidence: float = setting(0.95, "coverage of the intervals; differences are tested at 1 less this")
    transductive: bool = setting(False, "also judge patients that the encoder was trained on (said on the page)")


@dataclass(frozen=True)
class PredictConfig:
    """How slides are scored."""

    threshold: float | None = setting(None, "probability from which a slide is called positive; empty: the model's, else 0.5")
    precision: str = setting("float32", "arithmetic; auto is faster where the processor has bfloat16, and as exact as that",
                             choices=("auto", "float32", "bfloat16"))
    gradient: bool = setting(False, "a third score of cells: gradient times input, at three times the cost")
    executor: str = _as_in(EncodeConfig, "executor")
    workers: int = _as_in(EncodeConfig, "workers")
    limit: float = _as_in(EncodeConfig, "limit")
    address: str = _as_in(TileConfig, "address")


@dataclass(frozen=True)
class RetrieveConfig:
    """Which cells are put before a person."""

    k: int = setting(400, "cells per slide; a smaller slide gives all it has")
    rank: str = setting("evidence", "what orders the cells", choices=("evidence", "attention", "gradient"))


@dataclass(frozen=True)
class EvaluateConfig:
    """How results are measured."""

    transductive: bool = setting(False, "also judge patients that the encoder or model was trained on (said on the report)")
    truth_column: str = setting("", "column of the cell truth; empty: the task's name, else the only candidate")
    truth_normal: str = setting("0", "value of that column which means a normal cell; any other is a witness")
    draws: int = setting(1000, "bootstrap draws over patients")
    confidence: float = setting(0.95, "coverage of the intervals")
    at_specificity: float = setting(0.9, "specificity at which the sensitivity is also told")
    at_sensitivity: float = setting(0.95, "sensitivity at which the specificity is also told")
    seed: int = setting(0, "same seed, same intervals")


@dataclass(frozen=True)
class ReportConfig:
    """What the page shows."""

    title: str = setting("", "title of the page; empty: the name of the run")
    slides: int = setting(60, "most slides shown with their cells")
    cells: int = setting(24, "most cells shown per slide")


STAGES: Mapping[str, type[Any]] = {
    "split": SplitConfig,
    "tile": TileConfig,
    "check": CheckConfig,
    "pretrain": PretrainConfig,
    "encode": EncodeConfig,
    "train": TrainConfig,
    "predict": PredictConfig,
    "retrieve": RetrieveConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
}


def identity(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any config
    """The fields that can change a stage's result, as plain values."""
    return {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in dataclasses.fields(config)
        if field.metadata.get("identity", True)
    }


def configure(config_class: type[Any], values: Mapping[str, Any], *, source: str) -> Any:  # noqa: ANN401
    """A config from plain values, each checked for its name, type and choices.

    Raises:
        InputError: If a key is unknown or a value is of the wrong type; the line names `source`.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1) or sorted(fields)
            raise refuse(source, "of known keys", f"`{key}`", f"Did you mean `{near[0]}`? `--help` lists all.")
    return config_class(**{key: _checked(fields[key], value, source) for key, value in values.items()})


def _checked(field: dataclasses.Field, value: Any, source: str) -> Any:  # noqa: ANN401
    union: tuple[Any, ...] = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    kinds: tuple[type, ...] = tuple(typing.get_origin(kind) or kind for kind in union)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if tuple in kinds and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("empty" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise refuse(f"{source}: {field.name}", wanted, repr(value), "Correct it.")
    if field.metadata["choices"] and value not in field.metadata["choices"]:
        choices = ", ".join(choice or "empty" for choice in field.metadata["choices"])
        raise refuse(f"{source}: {field.name}", f"one of {choices}", value, "Choose one.")
    return value
