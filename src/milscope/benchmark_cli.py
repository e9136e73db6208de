"""The commands of `milscope benchmark`; heavy libraries are imported only inside a command."""

from pathlib import Path
from typing import Any

import click

from milscope.configs import WitnessConfig
from milscope.flags import PATH, configured, tell


@click.group()
def benchmark() -> None:
    """Compare methods on slides that are drawn for it."""


@benchmark.command()
@click.argument("cells", type=PATH)
@click.argument("truth", type=PATH, required=False)
@click.option("--patients", type=PATH, help="Slide table of CELLS that tells the patients.  [default: each slide is another's]")
@click.option("--out", type=PATH, required=True, help="Directory of the grid; the same command goes on where it was stopped.")
@configured(WitnessConfig)
def witness(cells: Path, truth: Path | None, patients: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Draw slides of exact witness rates from CELLS, and compare methods on them.

    CELLS: a directory of `tile`, or a folder of crops for each slide, with TRUTH, a table of all cells; or without TRUTH a
    folder of crops for each class, or an npz of images and labels.
    """
    from milscope.benchmark import witness as verb

    done = verb(cells, truth, out, config, patients=patients)
    tell("benchmark", done)
    if done.page is not None:
        click.echo(f"{'':>9}  {done.page}")


@benchmark.command()
@click.argument("grids", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="The HTML file.")
def page(grids: tuple[Path, ...], out: Path) -> None:
    """Write the page of one or several GRIDS that `witness` made; of several it tells the worst first."""
    from milscope.benchmark import write_page

    click.echo(f"{'page':>9}  {write_page(grids, out)}")
