"""Trained slide models on disk: what makes an aggregator ready to predict, how it is written, and how it is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from milscope.aggregators import Aggregator, restored
from milscope.checkpoints import save_checkpoint
from milscope.cohorts import Learning, described_slides
from milscope.operating import Guarantee, Operating, operating_point, patients_highest
from milscope.store import Manifest, fingerprint, read_manifest, write_text
from milscope.tasks import Binary, Questions, described_task
from milscope.types import InputError, refuse


class Model(NamedTuple):
    """A trained slide model, ready to predict."""

    aggregator: Aggregator
    questions: Questions
    operating: dict[str, Operating]
    """The operating point of each task that has one."""
    record: dict[str, Any]
    """model.json."""


def load_model(directory: Path | str) -> Model:
    """A `model` artifact, ready to predict.

    Raises:
        InputError: If there is no model, or it is of an aggregator or task that this milscope does not know.
    """
    read_manifest(Path(directory), "model")
    return read_model(Path(directory))


def read_model(directory: Path) -> Model:
    """The same from a directory that is not an artifact yet."""
    record = json.loads((directory / "model.json").read_text())
    model = restored(record["aggregator"], record["options"], load_file(directory / "model.safetensors"))
    tasks = [described_task(each) for each in record["tasks"]] if "tasks" in record else [Binary(record["task"])]
    operating = {name: Operating(**values) for name, values in record.get("operating", {}).items()}
    return Model(model, Questions(tuple(tasks)), operating, record)


def check_encoder(features: Manifest, model: Mapping[str, Any]) -> None:
    """Refuses features of another encoder than that of a model's record."""
    own = features.inputs.get("encoder", "")
    if own != model["encoder"]:
        raise refuse("features", f"of encoder {model['encoder']}, with which the model was trained",
                     f"features of encoder {own}",
                     "Encode the cells with the model's encoder, or train a model on these features.")


def calibrated(questions: Questions, answers: Float[Tensor, "slide logit"], targets: Float[Tensor, "slide column"],
               held: Int[Tensor, " held"], config: Learning) -> Questions:
    """The tasks with what turns their logits into probabilities (see `Task.calibrated`).

    Args:
        questions: The tasks.
        answers: The logits of all slides that were learned from or validated.
        targets: What is known of them.
        held: Which of them validated: a temperature is fitted on these only.
        config: Says whether a temperature is fitted.
    """
    every, some = questions.known(answers, targets), questions.known(answers[held], targets[held])
    return Questions(tuple(task.calibrated(all_answers, held_answers, temperature=config.temperature)
                           for (task, all_answers), (_, held_answers) in zip(every, some, strict=True)))


def operating_points(questions: Questions, logits: Float[Tensor, "slide logit"], table: pd.DataFrame, config: Learning,
                     ) -> tuple[dict[str, Operating], list[str]]:
    """The operating point of each task by its name, and a warning for each other than the main task that can have none.

    Args:
        questions: The tasks, calibrated.
        logits: Of the slides set aside, as `predict` computes them.
        table: Those slides: `patient` and the columns of the tasks, in the same order.
        config: The sensitivity asked for, and how sure it has to be; without one there are no operating points.

    Raises:
        InputError: If the main task can have none.
    """
    found: dict[str, Operating] = {}
    warnings: list[str] = []
    if config.sensitivity is None:
        return found, warnings
    for task, answers in zip(questions.tasks, questions.answers(logits, questions.targets(table)), strict=True):
        scores = task.suspicion(answers.logits).double().numpy()
        labels = task.suspicious(answers.targets).double().numpy()
        try:
            _, highest, positive = patients_highest(table["patient"].tolist(), scores, labels)
            found[task.name] = operating_point(
                highest, positive, config.sensitivity, cast(Guarantee, config.guarantee), confidence=config.confidence,
                specificity=config.specificity, temperature=getattr(task, "temperature", 1.0))
        except InputError as error:
            if task is questions.tasks[0]:
                raise
            warnings.append(f"task {task.name} has no operating point: {error}")
    return found, warnings


def record_of(questions: Questions, table: pd.DataFrame, aside: pd.DataFrame, origin: Mapping[str, Any]) -> dict[str, Any]:
    """What model.json says of the data that a model learned from.

    Args:
        questions: The tasks.
        table: The slides of training and validation: `patient`, `split` and the columns of the tasks.
        aside: The slides set aside for the threshold, likewise.
        origin: How slides became features: `encoder` (its fingerprint), `encoder_name`, and `cells` (the settings of `tile`).
    """
    main = questions.tasks[0]
    patients = sorted({*table["patient"], *aside["patient"]})
    data = dict([*table.groupby("split"), ("calibration", aside)])
    return {
        "task": main.name, "classes": list(getattr(main, "classes", ())), **origin,
        "patients_fingerprint": fingerprint(patients),
        "data": {str(split): described_slides(rows, questions) for split, rows in data.items() if len(rows)},
    }


def write_model(work: Path, aggregator: Aggregator, record: Mapping[str, Any]) -> None:
    """Writes model.safetensors and model.json, from which `load_model` restores the aggregator.

    Args:
        work: The directory.
        aggregator: The slide model.
        record: What model.json says: `aggregator` (the name in the folder), `tasks` (described), `operating`, `record_of`, …
    """
    save_checkpoint(work / "model.safetensors", aggregator.state_dict(), {})
    write_text(work / "model.json", json.dumps({**record, "options": aggregator.options}, indent=1))
