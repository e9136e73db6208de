"""Training: slide models learn from features and slide labels; the best on validation slides is kept."""

import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from milscope.card import card_of
from milscope.cohorts import check_promise, read_cohort
from milscope.configs import TrainConfig
from milscope.slides import read_slides
from milscope.store import Stage, feature_slides, fingerprint, open_features, write_text
from milscope.training import Training, check_training


class Trained(NamedTuple):
    """The model's directory, which aggregator was chosen, and how it does on the validation slides."""

    directory: Path
    aggregator: str
    validation_loss: float
    validation_auc: float
    warnings: list[str]


def train(
    features: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, config: TrainConfig | None = None
) -> Trained:
    """Trains every aggregator of the settings on the training slides and keeps the best on the validation slides.

    Test slides are neither read nor counted. Slides of the table that have no features are left out and named in the
    manifest's summary. With an `ensemble` or several `seeds` the model is the mean of theirs. If a sensitivity is asked for, a
    share of the validation patients is set aside before anything is learned, and only the threshold is chosen on them.

    Args:
        features: A `features` artifact (`encode`), or a folder of features as other tools write them.
        slides: The slide table with labels and split.
        out: Directory of the model: model.json, model.safetensors, card.md, log.csv, candidates.csv.
        config: Settings; the defaults of `TrainConfig` if None.

    Raises:
        InputError: If the split is missing, training or validation slides of a class are, an aggregator is unknown,
            a feature is not finite, there are too few patients for the threshold, or the training diverges.
    """
    config = config or TrainConfig()
    check_training(config)
    origin = open_features(Path(features))
    cohort = read_cohort(feature_slides(Path(features)), read_slides(slides), config)
    check_promise(cohort, config)
    inputs = {"features": origin.fingerprint, "slides": fingerprint(cohort.used.to_dict("list"))}
    with Stage(Path(out), "model", config, inputs, [*origin.patients, *cohort.used["patient"]]) as stage:
        if not stage.done:
            training = Training(Path(features), cohort, config, stage.work)
            learned = training.run(origin)
            training.write(learned, learned.record)
            stage.summary.update(learned.summary)
            write_text(stage.work / "card.md", card_of(json.loads((stage.work / "model.json").read_text()), stage.planned))
    found = stage.manifest.summary
    return Trained(Path(out), found["aggregator"], found["validation_loss"], found["validation_auc"], found["warnings"])
