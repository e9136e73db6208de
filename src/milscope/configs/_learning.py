"""The settings of the stages that learn, and of those that judge what was learned by training anew."""

from dataclasses import dataclass
from typing import Any

from milscope.configs._setting import as_in, setting
from milscope.configs._slides import TileConfig


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
    address: str = as_in(TileConfig, "address")


CELL_WEIGHT = 10.0
"""What the judged cells of a step of `train` count together, beside its slides, unless it is said."""


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
class EndToEndConfig:
    """How encoder and slide model learn together (ABMILX, METHODS 2)."""

    task: str = as_in(TrainConfig, "task")
    aggregator: str = setting("abmilx", "the slide model")
    options: dict[str, Any] = setting({}, "options of the slide model, as JSON")  # noqa: RUF009 - a copy each
    sampler: str = setting("random", "which cells of a slide get gradients in a step",
                           choices=("random", "multi-scale", "attention", "all"))
    budget: int = setting(128, "cells of a slide that get gradients in a step, not for `all`; 0: what the memory takes at once")
    explore: float = setting(0.5, "attention only: share of the budget that is drawn by chance")
    scales: tuple[str, ...] = setting(("1",), "sides of what is looked at, as shares of a stored cell, each brought to `size`")
    windows: str = setting("middle", "where scales below 1 look: at the middle of a cell, or at all of a tile, piece by piece",
                           choices=("middle", "all"))
    scale_ratio: float = setting(4.0, "multi-scale only: cells drawn at the first scale for each one at another scale")
    memory: str = setting("4GB", "most memory, of the process or of the GPU")
    chunk: int = setting(0, "most cells encoded at a time; 0: what the memory takes")
    statistics: str = setting("auto", "of batch normalisation: fixed as the encoder came, or of each chunk; auto: fixed if the "
                              "encoder was trained before", choices=("auto", "fixed", "chunk"))
    encoder: str = setting("resnet18", "any timm model; not with `--init`")
    encoder_options: dict[str, Any] = as_in(PretrainConfig, "encoder_options")  # noqa: RUF009 - a copy each
    weights: str = as_in(PretrainConfig, "weights")
    freeze: tuple[str, ...] = as_in(PretrainConfig, "freeze")
    size: int = setting(0, "side of a view, pixels; 0: of the encoder it starts from, else 64")
    margin: float = as_in(PretrainConfig, "margin")
    resize: float = setting(0.2, "a crop shows from 1 less this of its side to all of it; 0: the size of a cell stays")
    colour: float = setting(0.0, "strength of the colour jitter, 0 for none")
    stain: float = as_in(PretrainConfig, "stain")
    orientations: bool = as_in(PretrainConfig, "orientations")
    select: str = as_in(TrainConfig, "select")
    epochs: int = setting(40, "most passes over the training slides")
    patience: int = setting(15, "passes without improvement before training ends")
    batch: int = setting(4, "slides a step")
    learning_rate: float = setting(1e-3, "peak learning rate (AdamW), after warm-up")
    weight_decay: float = setting(1e-2, "weight decay (AdamW)")
    warmup: float = setting(0.1, "share of the steps with a rising learning rate")
    average: float = setting(0.99, "decay of the moving average of the weights, which is what is kept; 0: no average")
    dropout: float = as_in(TrainConfig, "dropout")
    loss: str = as_in(TrainConfig, "loss")
    balance: str = as_in(TrainConfig, "balance")
    sensitivity: float | None = as_in(TrainConfig, "sensitivity")
    specificity: float | None = as_in(TrainConfig, "specificity")
    confidence: float = as_in(TrainConfig, "confidence")
    guarantee: str = as_in(TrainConfig, "guarantee")
    calibration: float = as_in(TrainConfig, "calibration")
    temperature: bool = as_in(TrainConfig, "temperature")
    precision: str = setting("auto", "arithmetic; float64 to check it", choices=("auto", "float32", "bfloat16", "float64"))
    seed: int = setting(0, "same seed, same model")
    device: str = setting("auto", "cpu, cuda, cuda:1; auto takes CUDA if there is one", identity=False)
    cache: float = as_in(PretrainConfig, "cache")


@dataclass(frozen=True)
class DistillConfig(TrainConfig):
    """How a student learns from all slides and from a teacher of balanced ones (MECDS, METHODS 3); and all of `TrainConfig`."""

    task: str = setting("", "what to learn, as in `train`; empty: what the teacher does")
    aggregators: tuple[str, ...] = setting(("mecds",), "models to try; the best on validation is kept")
    balance: str = setting("none", "how rare classes come to count alike", choices=("weights", "sampling", "none"))
    distillation: str = setting("asymmetric", "what the student takes over from the teacher",
                                choices=("asymmetric", "kl", "none"))
    distillation_weight: float = setting(1.0, "weight of the distillation beside the loss of the labels")
    softening: float = setting(2.0, "temperature by which the logits of both are divided")
    focus_positive: float = setting(1.0, "asymmetric only: how much less counts what the student is sure of already")
    focus_negative: float = setting(4.0, "asymmetric only: how much less counts what the teacher deems negative")
    margin: float = setting(0.2, "asymmetric only: probability of the teacher up to which its no counts nothing")


@dataclass(frozen=True)
class ExtendConfig(TrainConfig):
    """How a trained model of several tasks learns a further one (MECDS, METHODS 3); and all of `TrainConfig`."""

    mode: str = setting("strict", "what the old tasks see of the new one: nothing, so that they say what they said; or, "
                        "as in the paper, what its expert adds to the cells", choices=("strict", "shared"))


@dataclass(frozen=True)
class CrossvalidateConfig(TrainConfig):
    """How slide models are judged where there are too few slides for one test set; and all of `TrainConfig`."""

    folds: int = setting(5, "parts of the patients, each of them the test patients of one training")
    site: str = setting("", "column of the site (hospital, scanner): no site is then tested in two folds; empty: not looked at")
    validation: float = setting(0.2, "share of the other patients on which models are chosen")


@dataclass(frozen=True)
class CompareConfig:
    """How several slide models are judged on the same patients."""

    task: str = as_in(TrainConfig, "task")
    models: tuple[str, ...] = setting(("abmil-gated", "clam-sb", "dsmil", "transmil", "max"),
                                      "models to compare, the first with each other one; `mean` always comes along")
    options: dict[str, Any] = as_in(TrainConfig, "options")  # noqa: RUF009 - a copy each
    seeds: int = setting(5, "repetitions, each with other folds and other random numbers, the same for all models")
    folds: int = setting(5, "parts of the patients, each of them the test patients of one training; 0: the split of the table")
    site: str = as_in(CrossvalidateConfig, "site")
    validation: float = as_in(CrossvalidateConfig, "validation")
    select: str = as_in(TrainConfig, "select")
    ensemble: int = as_in(TrainConfig, "ensemble")
    epochs: int = as_in(TrainConfig, "epochs")
    patience: int = as_in(TrainConfig, "patience")
    batch: int = as_in(TrainConfig, "batch")
    cells: int = as_in(TrainConfig, "cells")
    learning_rate: float = as_in(TrainConfig, "learning_rate")
    weight_decay: float = as_in(TrainConfig, "weight_decay")
    dropout: float = as_in(TrainConfig, "dropout")
    loss: str = as_in(TrainConfig, "loss")
    balance: str = as_in(TrainConfig, "balance")
    temperature: bool = as_in(TrainConfig, "temperature")
    precision: str = as_in(TrainConfig, "precision")
    device: str = as_in(TrainConfig, "device")
    seed: int = setting(0, "of the first repetition; same seed, same comparison")
    draws: int = setting(10_000, "bootstrap draws over patients and repetitions; few make p values coarse")
    confidence: float = setting(0.95, "coverage of the intervals; differences are tested at 1 less this")
    transductive: bool = setting(False, "also judge patients that the encoder was trained on (said on the page)")
