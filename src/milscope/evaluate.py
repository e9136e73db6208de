"""Measure: how well slides are told apart and cells ordered, on patients nothing was learned from."""

import json
import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from milscope.configs import EvaluateConfig, RetrieveConfig
from milscope.curves import depth_curve, slide_curves
from milscope.metrics import DEPTHS, Bootstrap, Interval, SlideScores, cell_metrics, found, mean_over_slides, slide_metrics
from milscope.progress import progress
from milscope.ranking import find_ranking, rank_slides
from milscope.slides import read_slides
from milscope.store import Manifest, Stage, fingerprint, fingerprint_files, read_manifest, write_text
from milscope.truth import Truth, match_truth, nothing_matches, read_truth
from milscope.types import refuse

FEW_PATIENTS = 10
WIDE_INTERVAL = 0.3


class Evaluated(NamedTuple):
    """Where the figures are, the slide AUC (NaN if undefined), and what speaks against trusting them."""

    directory: Path
    auc: float
    warnings: list[str]


def evaluate(
    scores: str | Path,
    out: str | Path,
    config: EvaluateConfig | None = None,
    *,
    ranked: str | Path | None = None,
    truth: str | Path | None = None,
    slides: str | Path | pd.DataFrame | None = None,
) -> Evaluated:
    """Measures slide scores, and with a truth the order of cells, on the test patients; writes metrics and curves.

    The test slides are those of split `test` that have a label; if no slide has a split (a new cohort), all that
    have a label. With `transductive`, and splits but no test split, also all that have a label.

    Args:
        scores: A `scores` artifact (`predict`).
        out: Directory of the figures: metrics.json, curves.json, test_slides.csv.
        config: Settings; the defaults of `EvaluateConfig` if None.
        ranked: A `ranked` artifact (`retrieve`): its ranking is measured, over all cells. None: attention.
        truth: A table of cells and their truth, see `milscope.truth.read_truth`.
        slides: The slide table; test slides in it that have no score are warned of.

    Raises:
        InputError: If there is nothing to measure, a test patient was learned from (and not `transductive`), or the
            truth does not fit the scores.
    """
    config = _checked(config or EvaluateConfig())
    origin = read_manifest(Path(scores), "scores")
    task, rank = str(origin.summary["task"]), _rank(ranked, origin)
    scored = _read_scored(Path(scores))
    test = _test_slides(scored, transductive=config.transductive)
    seen = _seen_patients(test, origin, transductive=config.transductive)
    missing = _missing_slides(slides, task, scored)
    told = read_truth(truth, task, config.truth_column, config.truth_normal) if truth is not None else None
    inputs = {"scores": origin.fingerprint, "rank": rank, "missing": fingerprint(missing)}
    if truth is not None:
        inputs["truth"] = fingerprint_files([Path(truth)])
    with Stage(Path(out), "metrics", config, inputs) as stage:
        if not stage.done:
            about = _About(task, rank, config, origin, seen, missing, _unlabelled(scored))
            document = _measure(Path(scores), test, told, about, stage.work)
            stage.summary.update(task=task, auc=document["slides"][task]["auc"]["value"], warnings=document["warnings"])
    summary = stage.manifest.summary
    return Evaluated(Path(out), math.nan if summary["auc"] is None else summary["auc"], summary["warnings"])


class _About(NamedTuple):
    task: str
    rank: str
    config: EvaluateConfig
    origin: Manifest
    seen: list[str]
    missing: list[str]
    unlabelled: int

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.config.draws, self.config.confidence, self.config.seed)


class _Cells(NamedTuple):
    """What was found on the cells of the test slides, one row a slide."""

    table: pd.DataFrame
    reached: Float[np.ndarray, "slide depth"]
    told: int
    untold: int
    unmatched: int
    elsewhere: int


def _measure(scores: Path, test: pd.DataFrame, truth: Truth | None, about: _About, work: Path) -> dict[str, Any]:
    """Writes metrics.json, curves.json and test_slides.csv; gives the content of the first."""
    labels = test["label"].to_numpy() == 1
    slides = SlideScores(labels, test["probability"].to_numpy(), test["called"].to_numpy(), test["patient"].tolist())
    figures, curves = slide_metrics(slides, about.bootstrap), slide_curves(slides, about.bootstrap)
    document = {
        "task": about.task, "slides": {about.task: _intervals(figures)}, "cells": {},
        "patients": {"test": test["patient"].nunique(), "positive": test.loc[labels, "patient"].nunique(),
                     "learned_from": len(about.origin.patients), "seen": len(about.seen)},
        "test": {"slides": len(test), "positive": int(labels.sum()), "negative": int((~labels).sum()),
                 "unlabelled": about.unlabelled, "missing": len(about.missing)},
        "threshold": about.origin.summary.get("threshold"), "rank": about.rank,
        "bootstrap": about.bootstrap._asdict(), "transductive": about.config.transductive,
    }
    warnings = [*_slide_warnings(slides, figures, about)]
    if truth is not None:
        cells = _measure_cells(scores, test, truth, about.rank)
        test = test.merge(cells.table, on="slide", how="left")
        warnings += _cell_warnings(test, truth, cells)
        document["truth"] = {"column": truth.column, "rows": len(truth.rows), "rows_without_value": truth.missing,
                             "rows_repeated": truth.repeated, "rows_of_other_slides": cells.elsewhere,
                             "rows_unmatched": cells.unmatched, "cells_matched": cells.told, "cells_unmatched": cells.untold}
        document["cells"], curves_of_cells = _cell_figures(test, cells, about)
        curves |= curves_of_cells
    document["warnings"] = warnings
    document = _plain(document)
    write_text(work / "metrics.json", json.dumps(document, indent=1, allow_nan=False))
    write_text(work / "curves.json", json.dumps(_plain({about.task: curves}), allow_nan=False))
    test.astype({"label": int, "called": int}).to_csv(work / "test_slides.csv", index=False)
    return document


def _measure_cells(scores: Path, test: pd.DataFrame, truth: Truth, rank: str) -> _Cells:
    """Compares the order of the cells of each test slide with the truth; cells it does not tell are left out."""
    told = dict(iter(truth.rows.groupby("slide")))
    wanted = set(test["slide"])
    rows, curves, unmatched, first = [], [], 0, None
    with progress("evaluate", len(test), "slides") as advance:
        for slide, cells in rank_slides(scores, find_ranking(rank)):
            if slide not in wanted:
                continue
            first = cells if first is None else first
            match = match_truth(told.get(slide, truth.rows.iloc[:0]), cells)
            known = np.isfinite(match.witness)
            order, witness = cells["score"].to_numpy()[known], match.witness[known] == 1
            unmatched += match.unmatched
            rows.append({"slide": slide, "cells_told": int(known.sum()), "cells_untold": int((~known).sum()),
                         "witnesses": int(witness.sum()), **cell_metrics(order, witness)})
            depths = np.arange(1, max(DEPTHS) + 1)
            curves.append(found(order, witness, depths) / witness.sum() if witness.any() else np.full(len(depths), np.nan))
            advance(1)
    table = pd.DataFrame(rows)
    if first is None or not table["cells_told"].any():
        raise nothing_matches(truth, first if first is not None else truth.rows.iloc[:0])
    counts = table[["cells_told", "cells_untold"]].sum()
    elsewhere = int((~truth.rows["slide"].isin(wanted)).sum())
    return _Cells(table, np.stack(curves), int(counts["cells_told"]), int(counts["cells_untold"]), unmatched, elsewhere)


def _cell_figures(test: pd.DataFrame, cells: _Cells, about: _About) -> tuple[dict[str, Any], dict[str, Any]]:
    """The means over positive slides of which the truth tells cells, and the curve of recall against k."""
    judged = test[(test["label"] == 1) & (test["cells_told"] > 0)]
    if judged.empty:
        return {}, {}
    names = [name for name in cells.table if name not in ("slide", "cells_told", "cells_untold", "witnesses")]
    patients = judged["patient"].tolist()
    figures = mean_over_slides({name: judged[name].to_numpy() for name in names}, patients, about.bootstrap)
    reached = cells.reached[pd.Index(cells.table["slide"]).get_indexer(judged["slide"])]
    return {about.task: _intervals(figures)}, {"recall_at": depth_curve(reached, patients, about.bootstrap)}


def _read_scored(scores: Path) -> pd.DataFrame:
    """slide, patient, split, label (NaN if none), probability, logit, called."""
    text: dict[Hashable, type] = {"slide": str, "patient": str, "split": str, "called": str}
    missing: dict[Hashable, list[str]] = {name: ["", "nan", "NaN"] for name in ("label", "probability", "logit")}
    table = pd.read_csv(scores / "slides.csv", dtype=text, keep_default_na=False, na_values=missing)
    wrong = ~table["probability"].between(0, 1)
    if wrong.any():
        raise refuse("scores", "probabilities between 0 and 1", f"{table.loc[wrong, 'probability'].iloc[0]} for slide "
                     f"{table.loc[wrong, 'slide'].iloc[0]}", "Train the model again with a lower learning rate.")
    return table.assign(called=table["called"].str.lower().isin(("true", "1", "1.0")), label=table["label"].astype(float))


def _test_slides(scored: pd.DataFrame, *, transductive: bool) -> pd.DataFrame:
    test = scored["split"] == "test"
    if not test.any() and (transductive or (scored["split"] == "").all()):
        test[:] = True
    if not test.any():
        splits = ", ".join(sorted(set(scored["split"])))
        raise refuse("scores", "of slides of which some are of split `test`", f"{len(scored)} slides of {splits}",
                     "Predict on test slides, or judge all slides with `transductive`.")
    chosen = scored[test & scored["label"].notna()].reset_index(drop=True)
    if chosen.empty:
        raise refuse("scores", "of test slides with a label", f"{test.sum()} test slides without one",
                     "Add labels to the slide table and predict again.")
    return chosen


def _unlabelled(scored: pd.DataFrame) -> int:
    return int(((scored["split"] == "test") & scored["label"].isna()).sum())


def _seen_patients(test: pd.DataFrame, origin: Manifest, *, transductive: bool) -> list[str]:
    seen = sorted(set(test["patient"]) & set(origin.patients))
    if seen and not transductive:
        raise refuse("scores", "of patients that neither encoder nor model was trained on",
                     f"{len(seen)} of {test['patient'].nunique()} test patients that were ({_few(seen)})",
                     "Train without them, or judge them nevertheless with `transductive`, which the report will say.")
    return seen


def _missing_slides(slides: str | Path | pd.DataFrame | None, task: str, scored: pd.DataFrame) -> list[str]:
    """The labelled test slides of the slide table that have no score."""
    if slides is None:
        return []
    table = read_slides(slides)
    wanted = table[(table["split"] == "test") & (table[task].notna() if task in table else True)]
    return sorted(set(wanted["slide"]) - set(scored["slide"]))


def _rank(ranked: str | Path | None, origin: Manifest) -> str:
    if ranked is None:
        return RetrieveConfig().rank
    manifest = read_manifest(Path(ranked), "ranked")
    if manifest.inputs.get("scores") != origin.fingerprint:
        raise refuse("ranked", "made from these scores", "cells ranked by other scores", "Run `retrieve` again.")
    return str(manifest.config["rank"])


def _checked(config: EvaluateConfig) -> EvaluateConfig:
    if config.draws < 1:
        raise refuse("draws", "at least 1", config.draws, "The default is 1000.")
    if not 0 < config.confidence < 1:
        raise refuse("confidence", "between 0 and 1", config.confidence, "The default is 0.95.")
    return config


def _slide_warnings(slides: SlideScores, figures: dict[str, Interval], about: _About) -> Iterator[str]:
    labels, called = slides.labels, slides.called
    kinds = {name: len({*np.asarray(slides.patients)[labels == kind]}) for name, kind in
             (("positive", True), ("negative", False))}
    if about.config.transductive:
        yield (f"Transductive: {len(about.seen)} of the {len(set(slides.patients))} test patients were also learned from, "
               "so the figures are too good.")
    if about.missing:
        yield f"Left out: {_n(len(about.missing), 'test slide', 'test slides')} without a score ({_few(about.missing)})."
    if about.unlabelled:
        yield f"Left out: {_n(about.unlabelled, 'test slide', 'test slides')} without a label."
    for name, other in (("positive", "negative"), ("negative", "positive")):
        if not kinds[name]:
            yield f"All test slides are {other}: AUC and what else compares the two classes is undefined."
        elif kinds[name] < FEW_PATIENTS:
            yield f"Only {_n(kinds[name], 'test patient is', 'test patients are')} {name}: read the intervals, not the values."
    value, low, high = figures["auc"]
    if high - low > WIDE_INTERVAL:
        yield f"The interval of the slide AUC is wide ({low:.2f} to {high:.2f}): more test patients are needed."
    if high == low:
        yield (f"The interval of the slide AUC has no width (every draw gives {value:.2f}): it cannot show what these "
               "patients do not contain.")
    if len(labels) > 1 and called.all() != (~called).all():
        said = "positive" if called.all() else "negative"
        yield f"The threshold {about.origin.summary.get('threshold')} calls every test slide {said}: choose another."


def _cell_warnings(test: pd.DataFrame, truth: Truth, cells: _Cells) -> Iterator[str]:
    positive = test["label"] == 1
    if cells.unmatched:
        yield f"{_n(cells.unmatched, 'row', 'rows')} of the truth about test slides match no scored cell and are left out."
    if cells.untold:
        yield f"{_n(cells.untold, 'cell', 'cells')} of test slides are not in the truth and are left out of the cell figures."
    if truth.missing or truth.repeated:
        yield f"The truth has {truth.missing} rows without a value and {truth.repeated} repeated rows; they are left out."
    without = int((positive & ~(test["cells_told"] > 0)).sum())
    if without:
        yield f"{_n(without, 'positive test slide has', 'positive test slides have')} no told cell: not in cell figures."
    empty = int((positive & (test["cells_told"] > 0) & (test["witnesses"] == 0)).sum())
    if empty:
        yield f"{_n(empty, 'positive test slide has', 'positive test slides have')} no witness in the truth: not in recall."
    odd = int((~positive & (test["witnesses"] > 0)).sum())
    if odd:
        yield f"{_n(odd, 'negative test slide has', 'negative test slides have')} witnesses: their label or the truth is wrong."


def _n(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _intervals(figures: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval._asdict() for name, interval in figures.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401
    """The value as strict JSON has it: None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
