"""Training of slide models: ours beside torchmil's padded batches and beside one slide a step; prediction beside h5py alone.

Slides of 500 to 20,000 cells with 512 features lie on disk. All sides train gated ABMIL of the same sizes on the same slides at
the same rate; an epoch of each is measured in turn (A B A B …), a ratio is the median of the rounds' ratios. Each peer is
compared with milscope taking steps of as many slides: 16 beside torchmil, one beside the loop of one slide a step.

* `over_torchmil`, `over_one_slide_a_step`: cells a second of ours over theirs (features of theirs in memory, ours mapped);
* `float32_over_torchmil`: the same in float32;
* `auc_over_torchmil`, `auc_over_one_slide_a_step`: difference of the validation AUC after the same passes;
* `predict_over_h5py`: bytes a second of `predict` over h5py reading the same files, for each arithmetic.

    python benchmarks/train.py [--quick] [--rounds 5] [--slides 200] [--json FILE] [--docs docs/performance.md]
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from _bags import ATTENTION, FEATURES, HIDDEN, RATE_OF_LEARNING, OneSlideAStep, Torchmil, read_all, write_slides
from _timing import in_turn, machine, memory, ratio, seconds, table, versions, write_between_marks, write_json

import milscope as ms
from milscope.fitting import Computer, Fit, Lesson, Slides
from milscope.store import pack_features
from milscope.tasks import Binary, Questions

BATCH = 16
CPU = torch.device("cpu")
FLOPS = 6 * (FEATURES * HIDDEN + 2 * HIDDEN * ATTENTION)
"""Operations a cell: forward and backward of the three large layers (no gradient to the features is counted, nor needed)."""


class Ours:
    """milscope's fitting, an epoch at a time."""

    def __init__(self, home: Path, frame, config: ms.TrainConfig) -> None:
        questions = Questions((Binary("abnormal"),))
        computer = Computer.of(config)
        start = time.perf_counter()
        packed = pack_features(home, frame["slide"].tolist(), home / f"packed-{computer.precision}", computer.precision)
        self.packing = time.perf_counter() - start
        split = frame["split"].to_numpy()
        train, validation = (torch.from_numpy((split == name).nonzero()[0]) for name in ("train", "validation"))
        slides = Slides(packed.bags, questions.targets(frame))
        self.fit = Fit("abmil-gated", Lesson(slides, train, validation, questions, packed.scale), config)
        self.epochs = 0

    def epoch(self) -> None:
        """One pass over the training slides."""
        self.epochs += 1
        order = self.fit._order(torch.Generator().manual_seed(self.epochs))
        self.fit.model.train()
        for step, slides in enumerate(order.split(self.fit.config.batch)):
            self.fit._step(slides, RATE_OF_LEARNING, step)

    def auc(self) -> float:
        """On the validation slides."""
        return self.fit._validate()[1]


def main() -> None:
    """Measures and tells."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    slides, most, rounds = (24, 4000, 2) if options.quick else (options.slides, 20_000, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        frame = write_slides(home, slides, 500, most)
        found, figures, ratios = training(home, frame, rounds)
        more, more_figures, more_ratios = prediction(home, frame, rounds)
    text = f"{machine(CPU)}; {', '.join(f'{name} {each}' for name, each in versions().items())}\n\n{found}\n\n{more}"
    ratios |= more_ratios
    print(text, *(f"{name} {value:.3f}" for name, value in ratios.items()), sep="\n")
    if options.json:
        write_json(options.json, machine(CPU), figures | more_figures, ratios)
    if options.docs:
        write_between_marks(options.docs, text, "train")


def training(home: Path, frame, rounds: int) -> tuple[str, dict, dict]:
    """An epoch of every side in turn."""
    learns = frame["split"] == "train"
    bags, held = (read_all(home, frame.loc[own, "slide"]) for own in (learns, ~learns))
    labels, truth = (torch.tensor(frame.loc[own, "abnormal"].to_numpy()) for own in (learns, ~learns))
    cells = sum(map(len, bags))
    config = ms.TrainConfig(batch=BATCH, dropout=0.25)
    ours, alike = Ours(home, frame, config), Ours(home, frame, replace(config, batch=1))
    exact = Ours(home, frame, replace(config, precision="float32"))
    padded, single = Torchmil(bags, labels, BATCH), OneSlideAStep(bags, labels)
    sides = {"milscope": ours.epoch, "milscope, float32": exact.epoch, "torchmil, padded batches": padded.epoch,
             "milscope, one slide a step": alike.epoch, "one slide a step": single.epoch}
    taken = in_turn({name: lambda epoch=epoch: seconds(epoch, CPU) for name, epoch in sides.items()}, rounds)
    aucs = {"milscope": ours.auc(), "milscope, float32": exact.auc(), "torchmil, padded batches": padded.auc(held, truth),
            "milscope, one slide a step": alike.auc(), "one slide a step": single.auc(held, truth)}
    peak = matrix_rate()
    rows = [(name, f"{median(each):.2f}", f"{cells / median(each):,.0f}", f"{cells * FLOPS / median(each) / peak:.0%}",
             f"{aucs[name]:.3f}") for name, each in taken.items()]
    text = table(("side", "seconds an epoch", "cells a second", f"of the bfloat16 matrix rate ({peak / 1e12:.2f} TFLOP/s)",
                  f"validation AUC after {rounds + 1} passes"), rows)
    text += (f"\n\n{learns.sum()} training slides, {cells:,} cells; packing all slides once took {ours.packing:.1f} s; "
             f"anonymous memory of the process at the end {memory('RssAnon') / 1e9:.1f} GB, of which "
             f"{sum(each.numel() for each in bags + held) * 4 / 1e9:.1f} GB are the features of the other sides.")
    pairs = {"over_torchmil": ("milscope", "torchmil, padded batches"),
             "float32_over_torchmil": ("milscope, float32", "torchmil, padded batches"),
             "over_one_slide_a_step": ("milscope, one slide a step", "one slide a step")}
    ratios = {name: ratio(taken[theirs], taken[own]) for name, (own, theirs) in pairs.items()}
    ratios |= {f"auc_{name}": aucs[own] - aucs[theirs] for name, (own, theirs) in pairs.items()}
    return text, {"seconds": taken, "cells": cells, "auc": aucs, "matrix_rate": peak}, ratios


def prediction(home: Path, frame, rounds: int) -> tuple[str, dict, dict]:
    """`predict` on all slides beside h5py reading them."""
    quiet = ms.TrainConfig(epochs=1)
    ms.train(home, frame, home / "model", quiet)
    size = sum(path.stat().st_size for path in (home / "features_random").glob("*.h5"))
    count = [0]

    def predict(precision: str) -> None:
        count[0] += 1
        ms.predict(home, home / "model", home / f"scores-{count[0]}", frame, ms.PredictConfig(precision=precision))

    def read() -> None:
        for slide in frame["slide"]:
            read_all(home, [slide])

    sides = {"h5py alone": read, "predict": lambda: predict("auto"), "predict, float32": lambda: predict("float32")}
    taken = in_turn({name: lambda side=side: seconds(side, CPU) for name, side in sides.items()}, rounds)
    rows = [(name, f"{median(each):.2f}", f"{size / median(each) / 1e9:.2f}") for name, each in taken.items()]
    text = table(("side", "seconds", "GB of features a second"), rows)
    ratios = {"predict_over_h5py": ratio(taken["h5py alone"], taken["predict"]),
              "predict_float32_over_h5py": ratio(taken["h5py alone"], taken["predict, float32"])}
    return text, {"predict_seconds": taken, "bytes": size}, ratios


def matrix_rate() -> float:
    """Operations a second of large bfloat16 products, the most there is here."""
    one, two = torch.randn(4096, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    times = [seconds(lambda: one @ two, CPU) for _ in range(8)]
    return 2 * 4096 * 2048 * 2048 / min(times)


if __name__ == "__main__":
    main()
