"""What verdicts gain when slide models learn from them (`train --cell-labels`), beside `retrieve --labels` of the same ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa
from _judging import WRONG, Case, Cells, Remembered, Reviewer, measured, ranked_anew, read_cells
from real import interval
from sklearn.metrics import roc_auc_score

import milscope as ms
from milscope.store import Stage, write_features

Figures = dict[str, dict[int, dict[str, float]]]
TOLD = ("recall_at_10", "slide_auc", "precision_at_10", "beside_recall_at_10")


def measures_as_features(looks: Remembered, out: Path) -> Path:
    """The measures of pixels as an artifact of features, from which slide models can learn."""
    with Stage(out, "features", ms.EncodeConfig(), {"cells": looks.store.manifest.fingerprint}) as stage:
        if not stage.done:
            folder = stage.work / "features_measures"
            folder.mkdir(exist_ok=True)
            for slide in looks.store.slides:
                table = looks.store.table(slide).select(["cell", "x", "y", "width", "height", "mpp"])
                values = looks.of(slide, np.arange(looks.store.count(slide)))
                write_features(folder / f"{slide}.h5", values.astype(np.float32), pa.table(table), encoder="measures")
            stage.summary.update(encoder="measures", features=values.shape[1], slides=len(looks.store.slides))
    return out


def one_model(case: Case, run: Path, kinds: dict[str, tuple[int, ...]], weight: float, split: str = "test") -> Figures:
    """Figures of slide models that learned from verdicts on cells of training slides, chosen by the order before.

    Args:
        case: Cells with their order before, and the features to learn from.
        run: Of `benchmarks/real.py`: slide table and settings of the slide model.
        kinds: `right`, or with some verdicts `wrong`: how many verdicts there are, in turn.
        weight: `--cell-weight`.
        split: On whose slides it is measured.
    """
    first, looks = read_cells(case.scores, case.truth), Remembered(case.store, case.features, case.work, None)
    asked = case.slides[case.slides["split"] == "train"].sort_values("probability", ascending=False)["slide"].tolist()
    figures: Figures = {}
    for kind, numbers in kinds.items():
        reviewer, figures[kind] = Reviewer(asked, WRONG if kind == "wrong" else 0.0), {}
        for number in numbers:
            if number == 0 and kind == "wrong":
                figures[kind][0] = figures["right"][0]
                continue
            verdicts = reviewer.judge(first, number)
            with trained(case, run, verdicts, weight, split) as scores:
                figures[kind][number] = {**measured(case, read_cells(scores, case.truth), split), "slide_auc": auc(scores)}
            beside: Cells = ranked_anew(case, first, verdicts, looks) if number else first
            figures[kind][number] |= {f"beside_{name}": value for name, value in measured(case, beside, split).items()}
    return figures


@contextmanager
def trained(case: Case, run: Path, verdicts: pd.DataFrame, weight: float, split: str) -> Iterator[Path]:
    """Scores of the slides of a part by a model that was trained with verdicts."""
    own = json.loads((run / "run.json").read_text())["train"]
    config = ms.TrainConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()})
    with TemporaryDirectory() as folder:
        home, labels = Path(folder), Path(folder) / "verdicts.csv"
        verdicts.to_csv(labels, index=False)
        given = {"cell_labels": labels, "cell_weight": weight} if len(verdicts) else {}
        ms.train(case.features, run / "slides.csv", home / "train", config, **given)
        slides = pd.read_csv(run / "slides.csv", dtype=str, keep_default_na=False)
        slides[slides["split"] == split].to_csv(home / "slides.csv", index=False)
        ms.predict(case.features, home / "train", home / "predict", home / "slides.csv")
        yield home / "predict"


def auc(scores: Path) -> float:
    table = pd.read_csv(scores / "slides.csv")
    return float(roc_auc_score(table["label"], table["probability"]))


def taught_table(title: str, rows: list[Figures]) -> str:
    """One Markdown table: a model with its gain on no verdict, paired by seed, and the same verdicts in `retrieve`."""
    def values(kind: str, number: int, name: str) -> np.ndarray:
        return np.array([row[kind][number][name] for row in rows])

    lines = [f"**{title}** ({len(rows)} seeds)", "",
             "| verdicts | recall@10 | gained | with 5 % wrong | precision@10 | slide AUC | gained "
             "| recall@10 of `retrieve --labels` | with 5 % wrong |", "|---" * 9 + "|"]
    for number in rows[0]["right"]:
        recall, slides, precision, beside = (values("right", number, name) for name in TOLD)
        gains = [f"*{interval(each - values('right', 0, name), sign='+')}*" if number else ""
                 for each, name in ((recall, "recall_at_10"), (slides, "slide_auc"))]
        wrong = [interval(values("wrong", number, name), most=1.0) if "wrong" in rows[0] else ""
                 for name in ("recall_at_10", "beside_recall_at_10")]
        cells = [number, interval(recall, most=1.0), gains[0], wrong[0], f"{precision.mean():.2f}",
                 interval(slides, most=1.0), gains[1], interval(beside, most=1.0), wrong[1]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)

