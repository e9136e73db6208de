"""The run in plain sentences: what was done, what came out, what to beware of, what it cannot say."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from milscope.report._gather import Gathered, known
from milscope.types import SPLITS

FEW = 10
METRICS = {
    "auc": ("AUC", "chance that an abnormal slide scores higher than a normal one; 0.5 is guessing, 1 is perfect"),
    "average_precision": ("average precision", "mean share of truly abnormal among called slides, over all thresholds"),
    "sensitivity": ("sensitivity", "share of abnormal slides that were called abnormal, at the threshold"),
    "specificity": ("specificity", "share of normal slides that were called normal, at the threshold"),
    "sensitivity_at_specificity": ("sensitivity at specificity {specificity}",
                                   "most abnormal slides that can be found while so many normal ones are called normal; the "
                                   "threshold is chosen on these very slides"),
    "specificity_at_sensitivity": ("specificity at sensitivity {sensitivity}",
                                   "most normal slides that can be called so while so many abnormal ones are found; likewise"),
    "f1": ("F1", "balance of sensitivity and precision at the threshold"),
    "balanced_accuracy": ("balanced accuracy", "mean of sensitivity and specificity; 0.5 is guessing"),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better, 0.25 says 50 % of everything"),
    "calibration_error": ("calibration error", "how far told probabilities are from the share of slides that are abnormal, on "
                                               "average; chance alone makes it larger than 0"),
    "calibration_error_if_true": ("… if every probability were true", "what chance alone makes of it, with these slides: only "
                                                                      "above these bounds it says something"),
    "calibration_slope": ("calibration slope", "1 is right; below, the probabilities are too extreme, above, too timid"),
    "calibration_intercept": ("calibration intercept", "0 is right; above, the probabilities are too low, below, too high"),
}
CELL_METRICS = {
    "average_precision": ("average precision", "mean share of abnormal cells among those shown, over all depths"),
    "auc": ("AUC of cells", "chance that an abnormal cell ranks above a normal cell of the same slide; 0.5 is guessing"),
    "recall_at_witnesses": ("recall at the number of abnormal cells",
                            "share found when exactly as many cells are shown as are abnormal"),
}
SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test", "": "no split"}


class Naming(NamedTuple):
    """What slides that are sought and others are called, and by what the ids of a task's drawings begin."""

    yes: str = "abnormal"
    no: str = "normal"
    prefix: str = ""

    def said(self, text: str) -> str:
        """A text about abnormal and normal slides in these words.

        >>> Naming("positive", "negative").said("an abnormal slide, not a normal one")
        'a positive slide, not a negative one'
        """
        if self.yes == "abnormal":
            return text
        text = re.sub(r"\b([Aa])n (?=abnormal)", r"\1 ", text)
        for word, own in (("abnormal", self.yes), ("normal", self.no)):
            text = text.replace(word, own).replace(word.capitalize(), own.capitalize())
        return text


RANKS = {
    "evidence": "evidence: how abnormal a slide of this cell alone would be, above 0 abnormal",
    "attention": "attention: the share of the slide's decision that rests on the cell",
    "gradient": "gradient: how much of the slide's suspicion a small step of the cell towards the mean cell takes",
    "routing": "routing: the weight by which the cell counts for the expert, 0 for cells that are not sent there",
    "verdicts": "what verdicts on single cells say of it, above 0 abnormal; cells that were judged stand first or last",
}
"""What orders cells, in words."""
SOUGHT = {
    "seek": "how unlike the cells of normal slides it is, by all that was found to count here",
    "local": "how unlike those of normal slides its least usual spot is",
    "mahalanobis": "distance from the middle of the cells of normal slides",
    "neighbours": "distance from the nearest cells of normal slides",
    "svdd": "distance from where a network draws the cells of normal slides together",
    "density": "how much likelier it is on abnormal slides than on normal ones",
    "pu": "how abnormal it looks to a classifier that was told only which cells are surely normal",
    "selfpaced": "how abnormal it looks to a classifier that took its own surest cells for abnormal",
}
"""The same of rankings that learn from slide labels."""


def ranks(run: Gathered) -> dict[str, str]:
    """What orders the cells of this run, in words, by name."""
    sought = {name: f"{name}: {said}; higher is more suspicious" for name, said in SOUGHT.items()}
    if run.scored is None or "seek" not in run.manifests:
        return {**RANKS, **sought}
    first = run.scored.config["rankings"][0]
    return {**sought, "evidence": sought.get(first, first), "attention": f"attention: the cell's share of its slide by {first}",
            "verdicts": RANKS["verdicts"]}


def ordered_by(run: Gathered, task: str, rank_by: str) -> str:
    """What orders the cells of a task ("": the main one): `verdicts` if they were ranked anew, else `rank_by`."""
    retrieved = run.manifests.get("retrieve")
    judged = str(retrieved.config.get("labels_task", "")) if retrieved else ""
    anew = bool(_verdicts(run)) and task == (judged if judged != run.task else "")
    return "verdicts" if anew else rank_by


def _verdicts(run: Gathered) -> dict[str, Any]:
    """The verdicts by which cells were ranked anew, as `retrieve` counted them; {} if they were not."""
    retrieved = run.manifests.get("retrieve")
    found = (retrieved.summary.get("verdicts") or {}) if retrieved and "labels" in retrieved.inputs else {}
    return {} if found.get("kept_order") else found


class Row(NamedTuple):
    """One measure in words: its name, its value with the interval, and what it means."""

    name: str
    value: str
    interval: str
    meaning: str


def headline(run: Gathered) -> list[str]:
    """What was run and what came out, one sentence each."""
    slides = run.slides
    sentences = [looked_at(run)]
    test = judged(run)
    auc = run.slide_metrics().get("auc", {})
    if known(auc.get("value")) and len(test):
        spread = interval(auc, number)
        sentences.append(
            f"On {count(len(test), 'test slide')} of {count(test['patient'].nunique(), 'patient')} "
            f"({int((test['label'] == 1).sum())} abnormal), an abnormal slide scored above a normal one "
            f"in {percent(auc['value'])} of all pairs (AUC {number(auc['value'])}{', ' + spread if spread else ''}).")
    elif slides["probability"].notna().any():
        sentences.append("How well the probabilities separate abnormal from normal slides has not been measured in this run.")
    else:
        sentences.append("No slide has been scored yet.")
    found = first_recall(run)
    if found:
        k, recall = found
        spread = interval(recall, percent)
        shows = "showed first before verdicts" if _verdicts(run) else "shows first"
        sentences.append(f"Of the truly abnormal cells of an abnormal test slide, {percent(recall['value'])}"
                         f"{f' ({spread})' if spread else ''} are among the {k} cells that it {shows}.")
    told = run.scored.summary if run.scored else {}
    if (trust := str(told.get("trust", ""))) and not any(str(said).startswith(trust) for said in told.get("warnings") or ()):
        sentences.append(_sentence(trust))
    return sentences


def looked_at(run: Gathered, tasks: Sequence[str] = ()) -> str:
    """What was looked at, and what was known of it; `tasks` names what was asked if that was more than one thing."""
    slides, cells = run.slides, run.slides["cells"].sum()
    looked = f"milscope looked at {count(len(slides), 'slide')} of {count(slides['patient'].nunique(), 'patient')}"
    looked += f", {count(int(cells), 'cell')} in all," if cells else ""
    if tasks:
        return f"{looked} for {', '.join(tasks[:-1])} and {tasks[-1]}, knowing only which slides have them, never which cells."
    if slides["label"].notna().any():
        return looked + " knowing only which slides are abnormal, never which cells."
    return looked.rstrip(",") + "; no slide has a label."


def limits(run: Gathered) -> list[str]:
    """What the page cannot say."""
    high = "this cell is unlike those of normal slides" if "seek" in run.manifests else "the model relied on this cell"
    said = [f"A high rank means that {high}. Whether the cell is abnormal, a person decides.",
            "A low probability does not make a slide normal."]
    if run.slide_metrics():
        said.append("The intervals tell how much the result may change with other patients of the same kind; not what "
                    "happens with another scanner, stain or laboratory.")
    if not run.cell_metrics():
        said.append("There was no list of truly abnormal cells to compare with, so the ranking of cells is not measured.")
    return said


def warnings(run: Gathered) -> Iterator[str]:
    """Everything that should lower the reader's trust, one line each; what `evaluate` warns of is not said twice."""
    told = [str(said) for said in run.metrics.get("warnings") or ()]
    few = _few(run.slides[run.slides["label"].notna()], SPLITS[:2] if told else SPLITS)
    if few:
        yield f"Few abnormal patients: {few}. What rests on so few may not hold for others."
    pretrain = run.manifests.get("pretrain")
    if pretrain and pretrain.summary.get("collapsed"):
        yield ("Pretraining taught the encoder next to nothing: at its end two cells looked as alike as two views of one. "
               "Either it was too short, or the encoder collapsed; the curves on the page “How it was made” tell which.")
    if pretrain and pretrain.config.get("epochs") == 0 and "endtoend" not in run.manifests:
        yield "The encoder is untrained (0 passes): this run is a baseline."
    if run.metrics.get("transductive") and not any("ransductive" in said for said in told):
        yield "Judged on patients that the encoder or the model had seen in training (transductive): too good."
    if found := _verdicts(run):
        yield (f"Cells are in the order that {count(found['abnormal'] + found['normal'], 'verdict')} on single cells gave them "
               f"({found['abnormal']} abnormal). What is measured of cells here, and the heat maps, are of the order before.")
    auc = run.slide_metrics().get("auc", {})
    if known(auc.get("low")) and known(auc.get("high")) and auc["low"] <= 0.5 <= auc["high"]:
        yield "The interval of the slide AUC includes 0.5: the result cannot be told from guessing."
    levels = [finding["level"] for finding in run.audit.get("findings", ())]
    if "mend" in levels or "look" in levels:
        yield (f"The audit before training found {count(levels.count('mend'), 'thing')} to mend and "
               f"{count(levels.count('look'), 'thing')} to look at; they are listed under “How it was made”.")
    if len(run.failures):
        yield (f"Left out because damaged: {count(len(run.failures), 'cell or slide', 'cells or slides')}. "
               "They are listed under “How it was made”.")
    yield from told
    for stage in ("endtoend", "encode", "train", "distill", "seek", "predict"):
        if stage in run.manifests:
            yield from (_sentence(str(said)) for said in run.manifests[stage].summary.get("warnings") or ())


def judged(run: Gathered) -> pd.DataFrame:
    """The labelled, scored test slides; all that are labelled and scored in a run without parts."""
    slides = run.slides[run.slides["label"].notna() & run.slides["probability"].notna()]
    return slides[slides["split"] == "test"] if (run.slides["split"] != "").any() else slides


def first_recall(run: Gathered) -> tuple[int, dict[str, float]] | None:
    """The recall of abnormal cells at the k a person would look through first: 20, or the nearest that was measured."""
    found = {int(name.removeprefix("recall_at_")): value for name, value in run.cell_metrics().items()
             if name.removeprefix("recall_at_").isdigit() and known(value.get("value"))}
    if not found:
        return None
    k = min(found, key=lambda each: (abs(each - 20), each))
    return k, found[k]


def slide_rows(run: Gathered) -> list[Row]:
    """The slide metrics in words."""
    return measure_rows(run.slide_metrics(), METRICS, run.metrics.get("at"))


def cell_rows(run: Gathered) -> list[Row]:
    """The cell metrics that hold for the whole order of the cells, in words."""
    return measure_rows({name: each for name, each in run.cell_metrics().items() if name in CELL_METRICS}, CELL_METRICS)


def depth_rows(run: Gathered) -> list[tuple[int, list[str]]]:
    """K → recall, precision and enrichment among the first k cells; not for k that show every cell of every slide."""
    metrics, most = run.cell_metrics(), judged(run)["cells"].max()
    rows = []
    for k in sorted(int(name.removeprefix("recall_at_")) for name in metrics if name.removeprefix("recall_at_").isdigit()):
        if not rows or not k >= most:
            parts = [metrics.get(f"{kind}_at_{k}", {}) for kind in ("recall", "precision", "enrichment")]
            writers = (percent, percent, partial(number, digits=1))
            rows.append((k, [_with_interval(part, write) for part, write in zip(parts, writers, strict=True)]))
    return rows


def measure_rows(metrics: dict[str, Any], words: dict[str, tuple[str, str]], at: dict[str, float] | None = None) -> list[Row]:
    """Measures in words, in their order; those without words come last, by their names.

    Args:
        metrics: Name → {value, low, high}.
        words: Name → title and meaning.
        at: The specificity and sensitivity at which the other of the two is told.
    """
    order = [name for name in words if name in metrics] + [name for name in metrics if name not in words]
    levels = {name: number((at or {}).get(name)) for name in ("specificity", "sensitivity")}
    rows = []
    for name in order:
        metric = metrics[name] if isinstance(metrics[name], dict) else {"value": metrics[name]}
        title, meaning = words.get(name, (name.replace("_", " "), ""))
        spread = interval(metric, number).removeprefix("interval ") or "–"
        rows.append(Row(title.format(**levels), number(metric.get("value")), spread, meaning))
    return rows


def number(value: object, digits: int = 2) -> str:
    """A number as people write it; a dash if it is missing."""
    return f"{value:.{digits}f}" if known(value) else "–"


def percent(value: object) -> str:
    """A share as a whole percentage."""
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%" if known(value) else "–"


def score(value: object, rank_by: str) -> str:
    """A cell's score: attention and routing as shares of the slide's, anything else as a number."""
    if rank_by not in ("attention", "routing") or not known(value):
        return number(value)
    share = 100 * value
    shown = "<0.01" if share < 0.01 else f"{share:.0f}" if share >= 10 else f"{share:.1f}" if share >= 1 else f"{share:.2f}"
    return shown + "\N{NO-BREAK SPACE}%"


def count(value: int, one: str, many: str = "") -> str:
    """A number of things.

    >>> count(1, "slide"), count(1200, "slide")
    ('1 slide', '1,200 slides')
    """
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def interval(metric: dict[str, Any], write: Callable[[object], str]) -> str:
    """The interval of a metric in words; "" if it has none."""
    if not (known(metric.get("low")) and known(metric.get("high"))):
        return ""
    return f"interval {write(metric['low'])}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{write(metric['high'])}"


def _few(labelled: pd.DataFrame, splits: Sequence[str]) -> str:
    """Abnormal patients of the parts that have less than `FEW`."""
    counts = {split: part.loc[part["label"] == 1, "patient"].nunique() for split, part in labelled.groupby("split")}
    return ", ".join(f"{counts[split]} in {SPLIT_WORDS[split]}" for split in splits if counts.get(split, FEW) < FEW)


def _with_interval(metric: dict[str, Any], write: Callable[[object], str]) -> str:
    spread = interval(metric, write).removeprefix("interval ")
    return write(metric.get("value")) + (f" ({spread})" if spread else "")


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith(".") else ".")
