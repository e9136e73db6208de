"""The methods of the witness benchmark: each is what a user would run, on the drawn slides, with the stages of milscope."""

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.benchmark._draw import TASK
from milscope.configs import EncodeConfig, EndToEndConfig, PretrainConfig, SeekConfig, TrainConfig, WitnessConfig
from milscope.encode import encode
from milscope.endtoend import endtoend
from milscope.predict import predict
from milscope.pretrain import pretrain
from milscope.ranking import Seen
from milscope.recipes import RECIPES
from milscope.seek import seek
from milscope.store import CellStore, write_text
from milscope.train import train

VIEWS = 2
"""Views of every training cell that go through the encoder in an epoch of pretraining, whatever the objective."""
PAPER = RECIPES["slam-ags-faithful"]
"""The published system; size, length and encoder are the benchmark's."""
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "random": {"method": "random", "epochs": 0},
    **{name: {"method": name} for name in ("simclr", "weakly-supervised", "weaksupcon", "pcgrad", "slam-ags")},
    "paper": {name: value for name, value in PAPER["pretrain"].items() if name not in ("size", "margin", "epochs")},
}
"""What the encoders are trained with, over the defaults of `pretrain`."""


class Place(NamedTuple):
    """The slides of one seed and rate, as a method finds them: cells and slide labels.

    Attributes:
        directory: Holds `cells/` and `slides.csv`; what methods share goes into `encoders/`.
        seed: Of everything random.
        config: Size, width and budget of the encoders.
    """

    directory: Path
    seed: int
    config: WitnessConfig

    @property
    def cells(self) -> Path:
        """The `cells` artifact."""
        return self.directory / "cells"

    @property
    def slides(self) -> Path:
        """The slide table."""
        return self.directory / "slides.csv"

    @property
    def options(self) -> dict[str, Any]:
        """Of the encoder: a ResNet-18 of the benchmark's width."""
        return {"channels": [self.config.width << stage for stage in range(4)]}

    def trained_cells(self) -> int:
        """How many cells the slides of the split `train` have."""
        table, store = pd.read_csv(self.slides), CellStore(self.cells)
        return sum(map(store.count, table.loc[table["split"] == "train", "slide"]))


class Cost(NamedTuple):
    """What something took.

    Attributes:
        seconds: By the clock; NaN if it was gone on with after an interruption.
        images: Views of cells with which an encoder was trained.
    """

    seconds: float
    images: float

    def and_for(self, other: "Cost") -> "Cost":
        """What both took together."""
        return Cost(self.seconds + other.seconds, self.images + other.images)


class Method(NamedTuple):
    """One line of the table.

    Attributes:
        group: Methods of a group are run one after the other by one process, as they share an encoder.
        run: Takes the place and a directory of its own, writes a `scores` artifact into `scores/`, gives the cost.
        rank: The ranking of its cells.
        marked: Whether it also reads which cells of the training slides are witnesses: a ceiling.
    """

    group: str
    run: Callable[[Place, Path], Cost]
    rank: str = "evidence"
    marked: bool = False


def timed(function: Callable[[], float], record: Path) -> Cost:
    """The cost of what is done once and then shared; kept in a file beside it.

    Args:
        function: Does it, unless it was done before; gives the images.
        record: The file. If it is not there and the directory is, seconds are unknown.
    """
    if not record.exists():
        fresh = not record.parent.exists()
        record.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        images = function()
        seconds = time.perf_counter() - start if fresh else None
        write_text(record, json.dumps({"seconds": seconds, "images": images}))
    found = json.loads(record.read_text())
    return Cost(math.nan if found["seconds"] is None else found["seconds"], found["images"])


def encoder_features(place: Place, name: str) -> tuple[Path, Cost]:
    """The features of an encoder that is trained, if it was not yet, and what that took altogether."""
    home = place.directory / "encoders" / name
    learned = timed(partial(_pretrain, place, name, home), home / "cost.json")
    start = time.perf_counter()
    encode(place.cells, home / "encoder", home / "features", EncodeConfig(device=place.config.device))
    return home / "features", learned.and_for(Cost(time.perf_counter() - start, 0))


def _pretrain(place: Place, name: str, home: Path) -> float:
    own, config = ENCODERS[name], place.config
    each = VIEWS * place.trained_cells()
    settings: dict[str, Any] = {"epochs": max(1, round(config.images / each)), "size": config.size, "margin": config.margin,
                "batch": config.batch, "encoder_options": place.options, "device": config.device, "seed": place.seed,
                "task": TASK, **own}
    done = pretrain(place.cells, place.slides, home / "encoder", PretrainConfig(**settings))
    return done.epochs * each


def pooled(name: str, settings: Mapping[str, Any], place: Place, out: Path) -> Cost:
    """A slide model on the features of an encoder."""
    features, cost = encoder_features(place, name)
    own: dict[str, Any] = {"seed": place.seed, "device": place.config.device, **settings}
    start = time.perf_counter()
    train(features, place.slides, out / "model", TrainConfig(**own))
    predict(features, out / "model", out / "scores", place.slides)
    return cost.and_for(Cost(time.perf_counter() - start, 0))


def sought(ranking: str, encoder: str, place: Place, out: Path) -> Cost:
    """A ranking that learns from slide labels, on pixels or on the features of an encoder."""
    features, cost = encoder_features(place, encoder) if encoder else (None, Cost(0, 0))
    start = time.perf_counter()
    seek(place.cells, place.slides, out / "scores", SeekConfig(rankings=(ranking,), seed=place.seed), features=features)
    return cost.and_for(Cost(time.perf_counter() - start, 0))


def together(place: Place, out: Path) -> Cost:
    """Encoder and slide model learn together, within the budget of images."""
    config, fixed = place.config, RECIPES["abmilx"]["endtoend"]
    budget = min(EndToEndConfig().budget, CellStore(place.cells).count(CellStore(place.cells).slides[0]))
    table = pd.read_csv(place.slides)
    each = budget * int((table["split"] == "train").sum())
    start = time.perf_counter()
    settings: dict[str, Any] = {
        "epochs": max(1, round(config.images / each)), "budget": budget, "size": config.size, "margin": config.margin,
        "encoder_options": place.options, "device": config.device, "seed": place.seed, **fixed}
    endtoend(place.cells, place.slides, out / "joint", EndToEndConfig(**settings))
    encode(place.cells, out / "joint" / "encoder", out / "features", EncodeConfig(device=config.device))
    predict(out / "features", out / "joint" / "model", out / "scores", place.slides)
    return Cost(time.perf_counter() - start, each * len(pd.read_csv(out / "joint" / "log.csv")))


def supervised(place: Place, out: Path) -> Cost:
    """A classifier of single cells, from the true witnesses of the training slides: the ceiling."""
    from milscope.ranking import fit_classifier

    truth = pd.read_csv(place.directory / "truth.csv").sort_values("slide", kind="stable")
    target = truth["witness"].where(truth["split"] != "test").to_numpy(dtype=float)

    def ranking(seen: Seen) -> Float[np.ndarray, " cell"]:
        """Slides to learn from are scored by classifiers of the other half of them, the rest by one of all."""
        number = np.where(np.isnan(seen.label), -1, 0)
        for value in (0, 1):
            own = np.flatnonzero(seen.label == value)
            number[own] = (np.arange(len(own)) + value) % 2
        half, scores = number[seen.slide], np.empty(len(seen.slide))
        for out_of, learn in ((0, half == 1), (1, half == 0), (-1, half >= 0)):
            classify = fit_classifier(seen.pixels[learn], target[learn], np.ones(learn.sum()), seen.seed)
            scores[half == out_of] = classify(seen.pixels[half == out_of])
        return scores

    start = time.perf_counter()
    seek(place.cells, place.slides, out / "scores", SeekConfig(rankings=("supervised",), seed=place.seed),
         learned={"supervised": ranking})
    return Cost(time.perf_counter() - start, math.nan)


METHODS: dict[str, Method] = {
    **{name: Method(name, partial(pooled, name, {}))
       for name in ("random", "simclr", "weakly-supervised", "weaksupcon", "pcgrad")},
    "paper": Method("paper", partial(pooled, "paper", PAPER["train"]), PAPER["retrieve"]["rank"]),
    "slam-ags": Method("slam-ags", partial(pooled, "slam-ags", {})),
    **{f"simclr+{name}": Method("simclr", partial(sought, name, "simclr"))
       for name in ("svdd", "mahalanobis", "neighbours", "density", "pu", "selfpaced")},
    "abmilx": Method("abmilx", together),
    **{name: Method(name, partial(sought, name, "")) for name in ("local", "seek")},
    "supervised": Method("supervised", supervised, marked=True),
}
"""Every method by the name the command line knows it by, in the order of the tables."""
