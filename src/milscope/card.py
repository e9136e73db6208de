"""What an artifact is, in words: lines for `milscope info`, and a model's card in Markdown."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milscope.configs import (
    DistillConfig,
    EncodeConfig,
    EndToEndConfig,
    EvaluateConfig,
    ExtendConfig,
    PredictConfig,
    PretrainConfig,
    ReportConfig,
    RetrieveConfig,
    SeekConfig,
    SynthConfig,
    TileConfig,
    TrainConfig,
    identity,
)
from milscope.lineage import lineage
from milscope.store import Manifest, artifact_kind, fingerprint, read_manifest
from milscope.types import refuse

CONFIGS: Mapping[str, Sequence[type[Any]]] = {
    "slides": [SynthConfig], "cells": [TileConfig], "encoder": [PretrainConfig, EndToEndConfig], "features": [EncodeConfig],
    "model": [TrainConfig, EndToEndConfig, DistillConfig, ExtendConfig], "endtoend": [EndToEndConfig],
    "scores": [PredictConfig, SeekConfig], "ranked": [RetrieveConfig], "metrics": [EvaluateConfig], "report": [ReportConfig],
}
"""The settings of the stages that make each kind of artifact, for their defaults."""
MEASURES: Mapping[str, str] = {"binary": "AUC", "multiclass": "macro AUC", "ordinal": "concordance", "cox": "C-index",
                               "hazards": "C-index"}
SHOWN = 8
"""Most items of a list that are shown."""
TOLD = {"task", "tasks", "validation", "validation_intervals", "operating", "members", "encoder", "warnings",
        "teacher", "learned"}
"""Of a model's summary, what its record says better."""
MODELS: Mapping[str, str] = {"model": ".", "endtoend": "model"}
"""Where in an artifact of these kinds the model lies."""

Lines = list[tuple[str, str]]
Record = Mapping[str, Any]


def describe(directory: Path | str) -> str:
    """What any artifact is, one aligned line a fact: kind, versions, settings unlike the defaults, inputs, results.

    Raises:
        InputError: If it is no artifact, damaged, or of a newer format.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, _kind(directory))
    made = [("made by", f"milscope {manifest.milscope}, {_moment(manifest.created)}, format {manifest.format_version}")]
    seen = [("learned from", _patients(manifest))] if manifest.patients else []
    lines: Lines = [(manifest.kind, str(directory)), *made,
                    *(("from", f"{name} {value}") for name, value in manifest.inputs.items()), *seen,
                    *(("settings" if first == 0 else "", each) for first, each in enumerate(_settings(manifest)))]
    summary = dict(manifest.summary)
    if manifest.kind in MODELS:
        lines += _of_model(_record(directory / MODELS[manifest.kind]), manifest)
        summary = {name: value for name, value in summary.items() if name not in TOLD}
    lines += [(name.replace("_", " "), _told(value)) for name, value in summary.items() if name != "warnings"]
    lines += [("warning", each) for each in manifest.summary.get("warnings", [])]
    return _aligned(lines)


def card(model_directory: Path | str) -> str:
    """The card of a `model` artifact, or of the model in an `endtoend` artifact, in Markdown.

    Raises:
        InputError: If there is no model, it is damaged, or it is of a newer format.
    """
    directory = Path(model_directory)
    if artifact_kind(directory) == "endtoend":
        directory /= MODELS["endtoend"]
    manifest = read_manifest(directory, "model")
    return card_of(_record(directory), manifest)


def card_of(record: Record, manifest: Manifest) -> str:
    """The card of a model from its record (model.json) and its manifest; what an older format does not say is left out."""
    tasks = _tasks(record)
    names = ", ".join(str(task.get("name", "")) for task in tasks)
    parts = [
        f"# Model card: {names or 'slide model'}",
        f"A slide model of milscope (`{record.get('aggregator', 'unknown')}`{_members(record)}): from the features of a "
        "slide's cells to the tasks below, and to what each cell contributes.",
        _section("What it predicts", _predicts(record, tasks)),
        _section("How it came to them", "\n".join(f"- {line}." for line in lineage(record, manifest))),
        _section("Data", _data(record, manifest)),
        _section("Operating point", _operating_text(record)),
        _section("Validation", _validation_text(record)),
        _section("Intended use", _INTENDED),
        _section("What it does not know", _unknown(record, manifest)),
        _section("Versions", _bullets(_versions(record, manifest))),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def operating_lines(operating: Record) -> list[str]:
    """An operating point in words: the decision, the promise, and the patients it was chosen on."""
    lower, upper = operating.get("threshold"), operating.get("upper")
    if lower is None:
        return []
    if upper is not None and upper > lower:
        lines = [f"negative below {_score(lower)}, positive from {_score(upper)} on, review between"]
    else:
        lines = [f"positive from {_score(lower)} on" + ("" if upper is None else "; nothing is left to review")]
    guarantee, confidence = operating.get("guarantee"), operating.get("confidence")
    sure = f"with confidence {confidence:g} ({guarantee})" if confidence is not None else f"on average ({guarantee})"
    for name, kind, verb in (("sensitivity", "positive", "not called negative"),
                             ("specificity", "negative", "not called positive")):
        if operating.get(name) is not None:
            lines.append(f"{name}: at least {operating[name]:g} of {kind} patients are {verb}, {sure}")
    if "positives" in operating:
        lines.append(f"chosen on {operating['positives']:,} positive patients, {operating.get('missed', 0):,} of them below, "
                     f"and {operating.get('negatives', 0):,} negative ones, {operating.get('cleared', 0):,} below")
    return lines


def _kind(directory: Path) -> str:
    """What the manifest says it is; "" if it cannot be read, which is told by whoever reads it next."""
    path = directory / "manifest.json"
    if not path.exists():
        raise refuse(str(directory), "a milscope artifact", "no manifest.json there", "Give the directory that a stage wrote.")
    try:
        return str(json.loads(path.read_text())["kind"])
    except (ValueError, KeyError, TypeError):
        return ""


def _record(directory: Path) -> Record:
    try:
        record = json.loads((directory / "model.json").read_text())
    except (OSError, ValueError) as error:
        raise refuse(str(directory / "model.json"), "a model's record", f"{type(error).__name__}: {error}",
                     "Copy the model whole, or train it again.") from error
    if not isinstance(record, dict):
        raise refuse(str(directory / "model.json"), "a model's record", type(record).__name__, "Train the model again.")
    return record


def _of_model(record: Record, manifest: Manifest) -> Lines:
    lines: Lines = []
    for task in _tasks(record):
        name = str(task.get("name", ""))
        lines.append(("task", _task_line(task)))
        if (temperature := _temperature(record, task)) != 1:
            lines.append(("", f"temperature {temperature:.4g}"))
        lines += [("", line) for line in operating_lines(_mapping(_mapping(record, "operating"), name))]
        if figure := _figure(record, name):
            lines.append(("", f"validation {_measure(task)} {figure}"))
    if _members(record):
        lines.append(("members", _members(record).removeprefix(", ")))
    lines += [(f"{split} data", _told(counts)) for split, counts in _mapping(record, "data").items()]
    lines += [("learned" if first == 0 else "", line) for first, line in enumerate(lineage(record, manifest))]
    if fits := _encoder(record):
        lines.append(("encoder", fits))
    if cells := _mapping(record, "cells"):
        lines.append(("cells", _told(cells)))
    return lines


def _predicts(record: Record, tasks: Iterable[Record]) -> str:
    rows = ["| task | kind | classes | temperature |", "|---|---|---|---|"]
    for task in tasks:
        temperature = _temperature(record, task)
        rows.append(_row(task.get("name", ""), task.get("kind", ""), _answers(task),
                         "not fitted" if temperature == 1 else f"{temperature:.4g}"))
    facts = {"Encoder": _encoder(record), "Cells": _told(_mapping(record, "cells"))}
    return "\n".join(rows) + "\n\n" + _bullets({name: value for name, value in facts.items() if value})


def _data(record: Record, manifest: Manifest) -> str:
    data = _mapping(record, "data") or {
        split: {"slides": count} for split, count in _mapping(manifest.summary, "slides").items()}
    rows = ["| split | slides | patients | classes (slides) |", "|---|---|---|---|"] if data else []
    for split, counts in data.items():
        classes = "; ".join(f"{task}: {_told(found)}" for task, found in _mapping(counts, "classes").items())
        rows.append(_row(split, *(_told(counts[name]) if name in counts else "" for name in ("slides", "patients")), classes))
    told = f"- Patients that encoder or model learned from or were chosen on: {_patients(manifest)}."
    own = record.get("patients_fingerprint")
    return "\n".join(rows) + "\n\n" + told + (f"\n- Fingerprint of the slide table's patients: `{own}`." if own else "")


def _operating_text(record: Record) -> str:
    points = {task: operating_lines(values) for task, values in _mapping(record, "operating").items()}
    text = "\n\n".join(f"**{task}**\n\n" + "\n".join(f"- {line}." for line in lines) for task, lines in points.items() if lines)
    if not text:
        return ("None was chosen. 0.5 on the probability is no operating point; train with a sensitivity to get one.")
    return text + ("\n\nThe unit is the patient, who scores as the highest slide. The promise is for patients like those the "
                   "threshold was chosen on; another laboratory, stain, scanner or mix of positive patients breaks it, another "
                   "prevalence does not.")


def _validation_text(record: Record) -> str:
    named = ((task, _figure(record, str(task.get("name", "")))) for task in _tasks(record))
    figures = {f"{task['name']}, {_measure(task)}": figure for task, figure in named if figure}
    if not figures and record.get("validation_auc") is not None:
        figures = {"AUC": _told(record["validation_auc"])}
    if record.get("validation_loss") is not None:
        figures["loss"] = _told(record["validation_loss"])
    if not figures:
        return ""
    return _bullets(figures) + ("\n\nThese patients chose epoch and model: the figures are too good as an estimate, and the "
                                "intervals, which say how they vary with the patients, do not make up for it.")


_INTENDED = (
    "To put slides, and the cells of each, in the order in which a qualified person looks at them; on slides prepared, "
    "stained, scanned and cut into cells like those it learned from. For research; it is no medical device, and no slide "
    "should be signed out on its word alone.")


def _unknown(record: Record, manifest: Manifest) -> str:
    told = [
        "Any other laboratory, stain, scanner, or way of finding cells: nothing here says how it does there. Evaluate it on "
        "labelled slides from there first.",
        "Any finding but the tasks above. What the labels do not tell apart, it does not.",
        "Slides without cells, and cells that were not found: they have no score and need a person.",
        "Which cells are abnormal, as a matter of fact: it learned from slides. Attention and evidence order cells, they do "
        "not diagnose them.",
    ]
    if all(_temperature(record, task) == 1 for task in _tasks(record)):
        told.append("How likely: its probabilities are not calibrated.")
    if manifest.config.get("balance", "weights") != "none":
        told.append("How common: classes were made to count alike in training, so that its probabilities are those of a cohort "
                    "with equally many of each.")
    return "\n".join(f"- {line}" for line in told)


def _versions(record: Record, manifest: Manifest) -> Record:
    found = {"milscope": manifest.milscope, "format": manifest.format_version, "made": _moment(manifest.created),
             "model": f"`{manifest.fingerprint}`", **{name: f"`{value}`" for name, value in manifest.inputs.items()}}
    return {**found, **_mapping(record, "versions"), "settings": "; ".join(_settings(manifest))}


def _tasks(record: Record) -> list[Record]:
    """The tasks' descriptions; of the first format, made from its single task."""
    if isinstance(record.get("tasks"), list):
        return [task for task in record["tasks"] if isinstance(task, Mapping)]
    return [{"kind": "binary", "name": record["task"], "classes": record.get("classes", [])}] if "task" in record else []


def _task_line(task: Record) -> str:
    answers = _answers(task)
    return f"{task.get('name', '')}: {task.get('kind', '')}" + (f" ({answers})" if answers else "")


def _answers(task: Record) -> str:
    """Its classes, or the columns of a survival task."""
    return ", ".join([*map(str, task.get("classes") or ()), *(str(task[name]) for name in ("time", "event") if name in task)])


def _measure(task: Record) -> str:
    return MEASURES.get(str(task.get("kind")), "measure")


def _figure(record: Record, task: str) -> str:
    """The validation figure of a task with its interval; "" if there is none on record."""
    figure, bounds = _mapping(record, "validation").get(task), _mapping(_mapping(record, "validation_intervals"), task)
    if figure is None:
        return ""
    if not all(isinstance(bounds.get(name), float) and math.isfinite(bounds[name]) for name in ("low", "high")):
        return _told(figure)
    return f"{_told(figure)} (95 % interval over patients: {_told(bounds['low'])} to {_told(bounds['high'])})"


def _temperature(record: Record, task: Record) -> float:
    """1 where none was fitted."""
    found = task.get("temperature", _mapping(record, "temperature").get(task.get("name", "")))
    return float(found) if isinstance(found, int | float) else 1.0


def _encoder(record: Record) -> str:
    name, own = record.get("encoder_name"), record.get("encoder")
    return " ".join([*([str(name)] if name else []), *([f"({own})" if name else str(own)] if own else [])])


def _members(record: Record) -> str:
    members = record.get("members") or []
    return f", the mean of {len(members)}: {_told(members)}" if len(members) > 1 else ""


def _patients(manifest: Manifest) -> str:
    return f"{len(manifest.patients):,} patients ({fingerprint(manifest.patients)})"


def _settings(manifest: Manifest) -> list[str]:
    """The settings that are not the defaults of this milscope."""
    usual = max((identity(config()) for config in CONFIGS.get(manifest.kind, ())),
                key=lambda settings: len(settings.keys() & manifest.config.keys()), default={})
    odd = {name: value for name, value in manifest.config.items() if name not in usual or usual[name] != value}
    return [f"{name.replace('_', ' ')} {_told(value)}" for name, value in odd.items()] or ["as the defaults"]


def _mapping(record: Record, name: str) -> Record:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def _told(value: Any) -> str:  # noqa: ANN401
    """A JSON value in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_inner(found)}" for name, found in value.items())
    if isinstance(value, list | tuple):
        more = f", … ({len(value):,} in all)" if len(value) > SHOWN else ""
        return (", ".join(map(_inner, value[:SHOWN])) + more) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "undefined"
    return str(value) or "none"


def _inner(value: Any) -> str:  # noqa: ANN401
    """The same within another: in brackets if it is of several parts."""
    return f"({_told(value)})" if isinstance(value, Mapping | list | tuple) and len(value) > 1 else _told(value)


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _score(logit: float) -> str:
    return f"suspicion {logit:.4g} (probability {(1 + math.tanh(logit / 2)) / 2:.3g})"


def _moment(created: str) -> str:
    return created.replace("T", " ").removesuffix("+00:00") + " UTC"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text.strip()}" if text.strip() else ""


def _bullets(facts: Record) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _aligned(lines: Lines) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
