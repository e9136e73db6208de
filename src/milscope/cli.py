"""The command line: one command a stage; heavy libraries are imported only inside a command."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from milscope.benchmark_cli import benchmark
from milscope.configs import CELL_WEIGHT, STAGES, CompareConfig, CrossvalidateConfig, ExtendConfig, SynthConfig
from milscope.flags import PATH, assign, configured, read_toml, tell
from milscope.progress import speaks
from milscope.results_cli import RESULTS
from milscope.types import InputError, refuse


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="milscope", prog_name="milscope")
def cli() -> None:
    """Finds abnormal slides, and the few abnormal cells in them, from slide labels alone.

    `milscope run` does everything; its stages, in the order of the flow: tile, check, pretrain, encode, train, predict,
    retrieve, evaluate, report. `endtoend` trains encoder and slide model together; `distill` trains a model on all slides with
    one of balanced slides for a teacher, `extend` teaches a finished one a further task. `crossvalidate` and `compare` judge
    slide models; `info` and `export` take a finished one.
    """


@cli.command()
@click.argument("out", type=PATH)
@configured(SynthConfig)
def synth(out: Path, config: SynthConfig) -> None:
    """Render example slides into OUT: images, slide labels, cell places, and the truth apart."""
    from milscope.synth import synth as verb

    tell("synth", verb(out, config))


@cli.command()
@click.argument("slides", type=PATH)
@click.option("--out", type=PATH, required=True, help="CSV to write: the table with its `split` column.")
@configured(STAGES["split"])
def split(slides: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Divide the patients of SLIDES into train, validation and test."""
    from milscope.slides import read_slides, write_slides
    from milscope.split import split as verb

    table = verb(read_slides(slides), config)
    write_slides(table, out)
    counts = table.groupby("split")["patient"].nunique()
    click.echo(f"{'split':>9}  " + ", ".join(f"{count} {name} patients" for name, count in counts.items()))


@cli.command()
@click.argument("slides", type=PATH)
@click.option("--cells", type=PATH, help="Folder of cell crops per slide, or table `slide,x,y` (slide pixels).")
@click.option("--images", type=PATH, help="Folder of slide images, if SLIDES has no `file` column.")
@click.option("--out", type=PATH, required=True, help="Directory of the cells.")
@configured(STAGES["tile"])
def tile(slides: Path, cells: Path | None, images: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Turn slides into cells: crops kept, places cut out, or whole slides in grid tiles."""
    from milscope.tile import tile as verb

    tell("tile", verb(slides, out, cells=cells, images=images, config=config))


@cli.command()
@click.argument("slides", type=PATH)
@click.option("--cells", type=PATH, help="What `tile` made of these slides: then cells are looked at, too.")
@click.option("--images", type=PATH, help="Folder of slide images, if SLIDES has no `file` column.")
@click.option("--out", type=PATH, help="Directory of the audit; without it nothing is written.")
@configured(STAGES["check"])
def check(slides: Path, cells: Path | None, images: Path | None, out: Path | None, config: Any) -> None:  # noqa: ANN401
    """Look for what would spoil training: in the table SLIDES, its files, its cells and its labels."""
    from milscope.check import check as verb

    click.echo(verb(slides, out, cells=cells, images=images, config=config).text, nl=False)


@cli.command()
@click.argument("cells", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the encoder.")
@click.option("--init", type=PATH, help="Encoder to go on from; its patients count as seen.")
@configured(STAGES["pretrain"])
def pretrain(cells: Path, slides: Path, out: Path, init: Path | None, config: Any) -> None:  # noqa: ANN401
    """Train an encoder on the training slides of SLIDES (SLAM-AGS).

    Several processes: torchrun --nproc-per-node N -m milscope pretrain …
    """
    from milscope.pretrain import pretrain as verb

    tell("pretrain", verb(cells, slides, out, config, init=init))


@cli.command()
@click.argument("cells", type=PATH)
@click.argument("encoder", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the features.")
@configured(STAGES["encode"])
def encode(cells: Path, encoder: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Encode all CELLS with an ENCODER."""
    from milscope.encode import encode as verb

    tell("encode", verb(cells, encoder, out, config))


@cli.command()
@click.argument("features", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--cell-labels", type=PATH, help="Verdicts on cells (`milscope verdicts`); those of training slides are learned.")
@click.option("--cell-weight", type=float, default=CELL_WEIGHT, show_default=True, help="Their weight beside the slides.")
@click.option("--out", type=PATH, required=True, help="Directory of the model.")
@configured(STAGES["train"])
def train(features: Path, slides: Path, out: Path, config: Any, **said: Any) -> None:  # noqa: ANN401
    """Train slide models on FEATURES and keep the best on validation patients."""
    from milscope.train import train as verb

    tell("train", verb(features, slides, out, config, **said))


@cli.command()
@click.argument("features", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--teacher", type=PATH, required=True, help="Model of the same tasks and encoder, as a rule of balanced slides.")
@click.option("--out", type=PATH, required=True, help="Directory of the student, a model.")
@configured(STAGES["distill"])
def distill(features: Path, slides: Path, teacher: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Train a student on all slides, with what a teacher says of them beside their labels (MECDS)."""
    from milscope.distill import distill as verb

    tell("distill", verb(features, slides, out, config, teacher=teacher))


@cli.command()
@click.argument("model", type=PATH)
@click.argument("features", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the model that knows the new task, too.")
@configured(ExtendConfig)
def extend(model: Path, features: Path, slides: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Teach a MODEL (`mecds`) a further `--task`; what it learned before stays as it is."""
    from milscope.extend import extend as verb

    tell("extend", verb(model, features, slides, out, config))


@cli.command()
@click.argument("cells", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the result: an encoder and a model.")
@click.option("--init", type=PATH, help="Encoder to start from; its patients count as seen.")
@configured(STAGES["endtoend"])
def endtoend(cells: Path, slides: Path, out: Path, init: Path | None, config: Any) -> None:  # noqa: ANN401
    """Train an encoder and a slide model together on the training slides of SLIDES (ABMILX), within a memory budget.

    Several processes: torchrun --nproc-per-node N -m milscope endtoend …
    """
    from milscope.endtoend import endtoend as verb

    tell("endtoend", verb(cells, slides, out, config, init=init))


@cli.command()
@click.argument("first", metavar="MODEL|FEATURES", type=PATH)
@click.argument("second", metavar="SLIDES|MODEL", type=PATH)
@click.option("--cells", type=PATH, help="With MODEL SLIDES: folder of cell crops per slide, or table `slide,x,y`.")
@click.option("--images", type=PATH, help="With MODEL SLIDES: folder of slide images, if SLIDES has no `file` column.")
@click.option("--encoder", type=PATH, help="With MODEL SLIDES: its encoder.  [default: `encoder` or `pretrain` beside it]")
@click.option("--slides", type=PATH, help="With FEATURES MODEL: slide table; only its slides are scored.")
@click.option("--out", type=PATH, required=True, help="Directory of the scores.")
@configured(STAGES["predict"])
def predict(first: Path, second: Path, slides: Path | None, out: Path, config: Any, **new: Path | None) -> None:  # noqa: ANN401
    """Score slides and cells: new slides with `MODEL SLIDES`, or features with `FEATURES MODEL`."""
    from milscope.store import artifact_kind

    direct = artifact_kind(first) == "model"
    unused = {name: value for name, value in ({"slides": slides} if direct else new).items() if value is not None}
    for name, value in unused.items():
        raise refuse(f"--{name}", f"left out with {'MODEL SLIDES' if direct else 'FEATURES MODEL'}", value,
                     "The table goes in the place of SLIDES." if direct else "The features are made. Or give MODEL SLIDES.")
    if direct:
        from milscope.recipes import apply

        done = apply(first, second, out, config=config, **new)
        tell("predict", done)
        click.echo(f"{'':>9}  {done.directory / 'slides.csv'}")
    else:
        from milscope.predict import predict as verb

        tell("predict", verb(first, second, out, slides, config))


@cli.command()
@click.argument("features", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--splits", type=PATH, help="Folder or file of folds as CLAM or STAMP wrote them, instead of new ones.")
@click.option("--out", type=PATH, required=True, help="Directory of the scores.")
@configured(CrossvalidateConfig)
def crossvalidate(features: Path, slides: Path, splits: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Score every slide of SLIDES with a model that has not seen its patient: train and predict, fold by fold."""
    from milscope.crossvalidate import crossvalidate as verb

    tell("validate", verb(features, slides, out, config, splits=splits))


@cli.command()
@click.argument("features", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the comparison.")
@configured(CompareConfig)
def compare(features: Path, slides: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Train several slide models on the same divisions of SLIDES, and tell which can be told apart."""
    from milscope.compare import compare as verb

    tell("compare", verb(features, slides, out, config))


@cli.command("import")
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the features; the files stay where they are.")
@click.option("--encoder", default="", help="Name of the encoder, where neither files nor folder say it.")
@click.option("--mpp", type=float, help="Microns per pixel of the slides, for places in microns (STAMP).")
@click.option("--patch-size", type=float, help="Side of a cell, slide pixels, where the files do not say it (CLAM, torchmil).")
def import_(source: Path, out: Path, **named: Any) -> None:  # noqa: ANN401
    """Make features of the folder SOURCE that TRIDENT, CLAM, STAMP or torchmil wrote."""
    from milscope.store import import_features

    tell("import", import_features(source, out, **named))


@cli.command()
@click.argument("artifact", type=PATH)
@click.option("--card", is_flag=True, help="A model's card, as Markdown.")
def info(artifact: Path, card: bool) -> None:
    """Say what an ARTIFACT is: its kind, settings, inputs and results."""
    from milscope.card import card as written
    from milscope.card import describe

    click.echo(written(artifact) if card else describe(artifact))


@cli.command()
@click.argument("cells", type=PATH)
@click.argument("slides", type=PATH)
@click.option("--features", type=PATH, help="Features of CELLS (`encode`), for rankings that look at them.")
@click.option("--out", type=PATH, required=True, help="Directory of the scores.")
@configured(STAGES["seek"])
def seek(cells: Path, slides: Path, features: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Rank CELLS by what learns from the labels of SLIDES, and slides by their highest cells; no slide model is needed."""
    from milscope.seek import seek as verb

    tell("seek", verb(cells, slides, out, config, features=features))


@cli.command()
@click.argument("scores", type=PATH)
@click.argument("cells", type=PATH)
@click.option("--labels", type=PATH, help="Verdicts on some cells (`milscope verdicts`): all are ranked anew by them.")
@click.option("--features", type=PATH, help="With --labels: features of CELLS to learn on.  [default: their pixels' measures]")
@click.option("--out", type=PATH, required=True, help="Directory of the ranked cells.")
@configured(STAGES["retrieve"])
def retrieve(scores: Path, cells: Path, out: Path, config: Any, **given: Path | None) -> None:  # noqa: ANN401
    """Put the most suspicious cells of each slide in order, with their pictures."""
    from milscope.retrieve import retrieve as verb

    tell("retrieve", verb(scores, cells, out, config, **given))


@cli.command()
@click.argument("scores", type=PATH)
@click.option("--ranked", type=PATH, help="Ranked cells (`retrieve`), to judge their order.")
@click.option("--truth", type=PATH, help="Cell table with labels, read here and nowhere else.")
@click.option("--slides", type=PATH, help="Slide table; its test slides without a score are warned of.")
@click.option("--out", type=PATH, required=True, help="Directory of the measurements.")
@configured(STAGES["evaluate"])
def evaluate(scores: Path, ranked: Path | None, truth: Path | None, slides: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Measure SCORES on test patients, with intervals."""
    from milscope.evaluate import evaluate as verb

    tell("evaluate", verb(scores, out, ranked=ranked, truth=truth, slides=slides, config=config))


@cli.command("run")
@click.argument("slides", type=PATH)
@click.option("--cells", type=PATH, help="Folder of cell crops per slide, or table `slide,x,y` (slide pixels).")
@click.option("--images", type=PATH, help="Folder of slide images, if SLIDES has no `file` column.")
@click.option("--truth", type=PATH, help="Cell table with labels, read by `evaluate` only.")
@click.option("--recipe", default="slam-ags", show_default=True,
              help="slam-ags, slam-ags-faithful, slam-ags-endtoend, abmilx, mecds, seek, untrained, mean or demo.")
@click.option("--out", type=PATH, default=Path("runs/run"), show_default=True, help="Directory of the run.")
@click.option("--config", type=PATH, help="TOML file with a section per stage.")
@click.option("--set", "assignments", multiple=True, metavar="STAGE.KEY=VALUE", help="One setting, over the TOML file's.")
@click.option("--seed", type=int, help="Seed of all stages.  [default: 0]")
@click.option("--task", help="What to learn, as in `train`; a single column guides `pretrain`, too.  [default: the only one]")
def run_all(slides: Path, config: Path | None, assignments: tuple[str, ...], seed: int | None, task: str | None,
            **named: Any) -> None:  # noqa: ANN401
    """Run the whole flow on SLIDES, from images and slide labels to the report."""
    settings = read_toml(config) if config else {}
    for key, value in (("seed", seed), ("task", task)):
        for stage, config_class in STAGES.items():
            column = stage in ("pretrain", "check", "seek") and key == "task"
            takes = not (column and set(":,") & set(str(value)))
            if value is not None and takes and any(field.name == key for field in dataclasses.fields(config_class)):
                settings.setdefault(stage, {})[key] = value
    for assignment in assignments:
        assign(settings, assignment)
    from milscope.recipes import run

    ran = run(slides, settings=settings, tell=tell, **named)
    click.echo(f"Slides told apart with AUC {ran.auc:.3f} on test patients. Open {ran.page}")


for command in (benchmark, *RESULTS):
    cli.add_command(command)


def main() -> None:
    """Runs the command line; a user's mistake ends with one line and exit status 2."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except InputError as error:
        if speaks():
            click.echo(f"error: {error}", err=True)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
    except click.Abort:
        sys.exit(130)
    sys.exit(2)
