"""Whole runs: named settings, and the one function that takes slides all the way to the page."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from milscope.check import check
from milscope.cohorts import strata
from milscope.configs import STAGES, PredictConfig, TileConfig, configure
from milscope.distill import distill
from milscope.encode import encode
from milscope.endtoend import endtoend
from milscope.evaluate import evaluate
from milscope.models import load_model
from milscope.predict import Predicted, predict
from milscope.pretrain import guide, pretrain
from milscope.ranking import ON_FEATURES
from milscope.report import report
from milscope.retrieve import retrieve
from milscope.seek import seek
from milscope.slides import read_slides, tasks, write_slides
from milscope.split import split
from milscope.store import artifact_kind, read_manifest, unwritable, write_text
from milscope.tasks import parse_tasks
from milscope.tile import tile
from milscope.train import train
from milscope.types import refuse

Settings = Mapping[str, Mapping[str, Any]]

RECIPES: dict[str, Settings] = {
    "slam-ags": {},
    "slam-ags-faithful": {
        "pretrain": {"surgery": "ags", "statistics": "per-view", "size": 224, "margin": 250 / 224, "epochs": 150,
                     "warmup": 10 / 150, "optimizer": "sgd", "learning_rate": 1e-3},
        "train": {"aggregators": ("pamil",), "learning_rate": 1e-3},
        "retrieve": {"rank": "attention"},
    },
    "untrained": {"pretrain": {"epochs": 0}},
    "mean": {"train": {"aggregators": ("mean",)}},
    "abmilx": {"pretrain": {"epochs": 0}, "endtoend": {}},
    "slam-ags-endtoend": {"endtoend": {}},
    "mecds": {"pretrain": {"method": "simclr"}, "train": {"aggregators": ("mecds",), "balance": "sampling"},
              "distill": {"balance": "none"}},
    "seek": {"pretrain": {"method": "simclr"}, "seek": {}},
    "demo": {
        "tile": {"size": 96},
        "pretrain": {"encoder_options": {"channels": [32, 64, 128, 256]}, "size": 48, "epochs": 8},
    },
}
"""Recipe → stage → settings that differ from the defaults. With a section `endtoend` encoder and slide model learn together,
from the encoder of `pretrain` (unless that has 0 epochs), and there is no `train`. With a section `distill` the model of
`train` teaches one more, from which all later stages go on; what its own settings do not say, those of `train` do. With a
section `seek` that stage takes the place of all from `pretrain` to `predict`, but for rankings that need an encoder."""
TEACHER = "-teacher"
"""The end of the names of the directories that hold what the teacher says, and how it does."""


class Ran(NamedTuple):
    """A finished run: its directory, its page, and the slide AUC on test patients (NaN if there is none)."""

    directory: Path
    page: Path
    auc: float


def run(slides: Path | str | pd.DataFrame, out: Path | str, *, cells: Path | str | None = None,
        images: Path | str | None = None, truth: Path | str | None = None, recipe: str = "slam-ags",
        settings: Settings | None = None, tell: Callable[[str, object, bool], None] = lambda *_: None) -> Ran:
    """Everything, from slides and their labels to the page of the cells that matter.

    Each stage writes a directory of its own name into `out`. A stage that is done with the same settings and inputs is
    skipped, so that a run goes on wherever it was interrupted.

    Args:
        slides: The slide table: `slide`, a column of labels, optionally `file`, `patient`, `split`, `mpp`. With several columns
            of labels the settings say which to learn; a recipe with a teacher learns all of yes and no.
        out: The run's directory.
        cells: A folder of cell crops per slide, or a table `slide,x,y` of cell places (slide pixels).
        images: A folder of slide images, if the table has no `file` column.
        truth: A cell table with labels; read by `evaluate` only.
        recipe: A name in `RECIPES`.
        settings: Stage → settings, over those of the recipe.
        tell: Called after each stage with its name, its result, and whether it had been done before.

    Raises:
        InputError: If an input or setting is wrong.
    """
    out, configs = Path(out), resolve(recipe, settings or {})
    frame = read_slides(slides)
    configs = _asking(frame, recipe, configs)
    task = configs[_learning(recipe)].task
    _check_ahead(frame, task, configs, guided=_pretrains(recipe, configs), truth=truth)
    table = split(frame, configs["split"], task=_asked(frame, task))
    if not configs["check"].task:
        configs["check"] = replace(configs["check"], task=_asked(table, task))
    _write_head(out, table, recipe, configs)

    def stage(name: str, function: Callable[..., Any], *inputs: object, **named: object) -> Path:
        before = _created(out / name)
        result = function(*inputs, out=out / name, config=configs[name.removesuffix(TEACHER)], **named)
        tell(name, result, before is not None and before == _created(out / name))
        results[name] = result
        return out / name

    results: dict[str, Any] = {}
    store = stage("tile", tile, table, cells=cells, images=images)
    stage("check", check, table, cells=store)
    encoder = stage("pretrain", pretrain, store, table) if _pretrains(recipe, configs) else None
    scores = _scored(recipe, stage, store, table, encoder)
    ranked = stage("retrieve", retrieve, scores, store)
    stage("evaluate", evaluate, scores, ranked=ranked, truth=truth, slides=table)
    stage("report", report, out)
    return Ran(out, results["report"].page, results["evaluate"].auc)


def _scored(recipe: str, stage: Callable[..., Path], store: Path, table: pd.DataFrame, encoder: Path | None) -> Path:
    """The scores, by whatever learns from the slides' labels."""
    if _seeks(recipe):
        features = None if encoder is None else stage("encode", encode, store, encoder)
        return stage("seek", seek, store, table, features=features)
    if encoder is None or _together(recipe):
        joint = stage("endtoend", endtoend, store, table, init=encoder)
        features, model = stage("encode", encode, store, joint / "encoder"), joint / "model"
    else:
        features = stage("encode", encode, store, encoder)
        model = stage("train", train, features, table)
    if _distils(recipe):
        taught = stage("predict" + TEACHER, predict, features, model, slides=table)
        stage("evaluate" + TEACHER, evaluate, taught, slides=table)
        model = stage("distill", distill, features, table, teacher=model)
    return stage("predict", predict, features, model, slides=table)


def resolve(recipe: str, settings: Settings) -> dict[str, Any]:
    """The config of every stage: defaults, then the recipe, then the settings.

    Raises:
        InputError: If the recipe, a stage or a key is unknown, or a value is of the wrong type.
    """
    if recipe not in RECIPES:
        raise refuse("recipe", "one of " + ", ".join(RECIPES), f"`{recipe}`", "Choose one.")
    for stage in settings:
        if stage not in STAGES:
            raise refuse("config", "made of sections named after stages", f"[{stage}]", "Sections: " + ", ".join(STAGES) + ".")
    found = {stage: {**RECIPES[recipe].get(stage, {}), **settings.get(stage, {})} for stage in STAGES}
    if _distils(recipe):
        found["distill"] = {**found["train"], **found["distill"]}
    return {stage: configure(config, found[stage], source=stage) for stage, config in STAGES.items()}


def apply(model: Path | str, slides: Path | str | pd.DataFrame, out: Path | str, *, cells: Path | str | None = None,
          images: Path | str | None = None, encoder: Path | str | None = None,
          config: PredictConfig | None = None) -> Predicted:
    """Scores slides never seen with a trained model: cut, encoded and scored as those that it was trained on.

    Args:
        model: A `model` artifact.
        slides: The slide table; it needs no labels.
        out: Directory with a directory for each stage: `tile`, `encode` and `predict`.
        cells: As in `run`.
        images: As in `run`.
        encoder: The encoder of the model's features; None: `encoder` or `pretrain` beside the model, where `endtoend` and
            `run` leave it.
        config: Settings of `predict`.

    Raises:
        InputError: If the encoder is missing or another one, or as the three stages.
    """
    out, record = Path(out), load_model(model).record
    network = _encoder(Path(model), encoder, record)
    if not record.get("cells"):
        raise refuse("model", "trained on features that milscope encoded", "one that does not say how cells were cut",
                     "Encode the slides as before, and give the features to `predict`.")
    cut = configure(TileConfig, record["cells"], source="model")
    store = tile(slides, out / "tile", cells=cells, images=images, config=cut)
    features = encode(store.directory, network, out / "encode")
    return predict(features.directory, model, out / "predict", slides, config)


def _encoder(model: Path, given: Path | str | None, record: Mapping[str, Any]) -> Path:
    """The encoder that the model's features came from."""
    beside = model.resolve().parent
    places = [beside / "encoder", beside / "pretrain"] if given is None else [Path(given)]
    found = {place: read_manifest(place, "encoder").fingerprint for place in places if artifact_kind(place) == "encoder"}
    if not found:
        raise refuse("encoder", "the one that the model's features came from",
                     f"none at {' or '.join(map(str, places))}", "Give it with `--encoder`.")
    for place, own in found.items():
        if own == record["encoder"]:
            return place
    raise refuse("encoder", f"{record['encoder']}, with which the model was trained",
                 " and ".join(f"{own} at {place}" for place, own in found.items()), "Give the right one with `--encoder`.")


def _together(recipe: str) -> bool:
    """Whether encoder and slide model learn together."""
    return "endtoend" in RECIPES[recipe]


def _seeks(recipe: str) -> bool:
    """Whether cells are ranked without a slide model."""
    return "seek" in RECIPES[recipe]


def _learning(recipe: str) -> str:
    """The stage whose task is the run's."""
    return "seek" if _seeks(recipe) else "endtoend" if _together(recipe) else "train"


def _distils(recipe: str) -> bool:
    """Whether the model of `train` teaches another."""
    return "distill" in RECIPES[recipe]


def _asking(table: pd.DataFrame, recipe: str, configs: dict[str, Any]) -> dict[str, Any]:
    """The configs with the tasks that a recipe with a teacher stands for: those of `train`, else all of yes and no."""
    if not _distils(recipe):
        return configs
    task = configs["train"].task or configs["distill"].task or ",".join(tasks(table))
    return {**configs, "train": replace(configs["train"], task=task), "distill": replace(configs["distill"], task=task)}


def _pretrains(recipe: str, configs: Mapping[str, Any]) -> bool:
    """Whether there is an encoder before all else; without epochs it is of no use to `endtoend`, which makes its own."""
    if _seeks(recipe):
        return any(name in ON_FEATURES for name in configs["seek"].rankings)
    return not _together(recipe) or configs["pretrain"].epochs > 0


def _asked(table: pd.DataFrame, task: str) -> str:
    """The columns of classes or events that are to be learned, with commas."""
    return ",".join(strata(parse_tasks(task, table)))


def _check_ahead(table: pd.DataFrame, task: str, configs: Mapping[str, Any], *, guided: bool, truth: Path | str | None) -> None:
    """What a late stage would refuse is refused before the first one works for hours; `guided`: `pretrain` needs labels."""
    if guided:
        guide(table, configs["pretrain"])
    parse_tasks(task, table)
    if configs["retrieve"].k < 1:
        raise refuse("k", "at least 1", configs["retrieve"].k, "Ask for one cell or more.")
    if truth is not None and not Path(truth).is_file():
        raise refuse("truth", "a table of cells", f"no file at {truth}", "Correct the path.")


def _write_head(out: Path, table: pd.DataFrame, recipe: str, configs: Mapping[str, Any]) -> None:
    described = {"recipe": recipe, **{stage: vars(config) for stage, config in configs.items()}}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_slides(table, out / "slides.csv")
        write_text(out / "run.json", json.dumps(described, indent=1))
    except OSError as error:
        raise unwritable(out, error) from error


def _created(directory: Path) -> str | None:
    manifest = directory / "manifest.json"
    return json.loads(manifest.read_text())["created"] + str(manifest.stat().st_ino) if manifest.exists() else None
