"""The settings of the benchmarks: methods compared on slides drawn for it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from milscope.configs._learning import PretrainConfig, TrainConfig
from milscope.configs._results import EvaluateConfig
from milscope.configs._setting import as_in, setting

METHODS = ("random", "simclr", "weakly-supervised", "weaksupcon", "pcgrad", "paper", "slam-ags", "simclr+svdd",
           "simclr+mahalanobis", "simclr+neighbours", "simclr+density", "simclr+pu", "simclr+selfpaced", "abmilx", "local",
           "seek", "supervised")
"""Every method of the witness benchmark, in the order of its tables."""
QUICK = {"rates": ("0.05", "0.01"), "seeds": 2, "images": 48_000,
         "methods": ("random", "simclr", "paper", "simclr+svdd", "simclr+mahalanobis", "local", "seek", "supervised")}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "paper": {"truth_normal": "LYT", "cells": 1000, "size": 224, "width": 64, "margin": 250 / 224, "images": 600_000,
              "largest": 256},
}
"""What a preset says in place of the defaults. Of the paper's slides only rates, normal class and Top 400 are told; 1,000 cells
a slide is the example in the authors' code, and 26,242 normal cells allow it for 16 slides to learn from and 10 to test on."""


@dataclass(frozen=True)
class WitnessConfig:
    """How slides of an exact witness rate are drawn, and which methods are compared on them."""

    rates: tuple[str, ...] = setting(("0.1", "0.05", "0.02", "0.01", "0.005"), "witnesses over cells of a positive slide")
    methods: tuple[str, ...] = setting(METHODS, "what is compared")
    seeds: int = setting(5, "repetitions, each with other slides and other random numbers, the same for all methods")
    cells: int = setting(400, "cells a slide")
    slides: int = setting(16, "slides to learn from, half of them positive")
    test_slides: int = setting(0, "slides to be tested on, half of them positive; 0: what the supply gives, at most `slides`")
    validation: float = setting(0.25, "share of the slides to learn from on which models are chosen")
    images: int = setting(192_000, "views of cells that every method trains an encoder on, to whole epochs")
    size: int = setting(48, "side of a view, pixels")
    margin: float = as_in(PretrainConfig, "margin")
    width: int = setting(32, "channels of the encoder's first stage, a ResNet-18; the published one has 64")
    batch: int = as_in(PretrainConfig, "batch")
    preset: str = setting("", "protocol whose settings replace the defaults, see the manual", choices=("", "paper"))
    quick: bool = setting(False, "a small grid instead of the defaults: fewer rates, seeds, methods and images")
    truth_column: str = as_in(EvaluateConfig, "truth_column")
    truth_normal: str = setting("0", "value of that column which means a normal cell; or the class, where folders are the "
                                "truth")
    classes: tuple[str, ...] = setting((), "classes that count as witnesses, where folders are the truth; empty: all but the "
                                       "normal one")
    largest: int = setting(128, "cells whose longer side has more pixels are stored shrunk to this; 0: as they are")
    name: str = setting("", "what the cells are called in tables; empty: the name of their directory", identity=False)
    device: str = as_in(TrainConfig, "device")
    workers: int = setting(0, "processes of one thread each; 0: one per core", identity=False)

    @property
    def settled(self) -> "WitnessConfig":
        """With what `preset` and `quick` say, where a setting has its default."""
        given = {**PRESETS[self.preset], **(QUICK if self.quick else {})}
        defaults = {field.name: field.default for field in fields(self)}
        return replace(self, **{name: value for name, value in given.items() if getattr(self, name) == defaults[name]})
