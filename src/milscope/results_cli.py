"""The commands that hand results to a person or to other programs; heavy libraries are imported only inside a command."""

from pathlib import Path
from typing import Any

import click

from milscope.configs import STAGES, ExportCellsConfig, HeatmapConfig, ReviewConfig, VerdictsConfig
from milscope.flags import PATH, configured, tell


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, help="Directory of the pages.  [default: RUN/report]")
@configured(STAGES["report"])
def report(run: Path, out: Path | None, config: Any) -> None:  # noqa: ANN401
    """Write the pages of a RUN."""
    from milscope.report import report as verb

    tell("report", verb(run, out, config))


@click.command()
@click.argument("run", type=PATH)
@configured(ReviewConfig)
def review(run: Path, config: Any) -> None:  # noqa: ANN401
    """Put the cells of a RUN before reviewers, in a page on this machine; verdicts are kept (needs milscope[review])."""
    from milscope.review import review as verb

    verb(run, config)


@click.command()
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="Table of cells to write, .csv or .parquet.")
@configured(VerdictsConfig)
def verdicts(run: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Write the verdicts on the cells of a RUN as a table, for `retrieve --labels` and `train --cell-labels`."""
    from milscope.review import verdicts as verb

    tell("verdicts", verb(run, out, config))


@click.command()
@click.argument("scores", type=PATH)
@click.argument("cells", type=PATH)
@click.option("--out", type=PATH, required=True, help="Directory of the heat maps.")
@configured(HeatmapConfig)
def heatmap(scores: Path, cells: Path, out: Path, config: Any) -> None:  # noqa: ANN401
    """Draw the SCORES of CELLS over their slides, as pyramidal TIFF."""
    from milscope.heatmap import heatmap as verb

    tell("heatmap", verb(scores, cells, out, config))


@click.command()
@click.argument("model", type=PATH)
@click.option("--encoder", type=PATH, help="Its encoder, to be exported with it.")
@click.option("--out", type=PATH, required=True, help="Directory of the ONNX files.")
def export(model: Path, encoder: Path | None, out: Path) -> None:
    """Write a MODEL as ONNX, checked against PyTorch (needs milscope[onnx])."""
    from milscope.export import export as verb

    tell("export", verb(model, out, encoder))


@click.command("export-cells")
@click.argument("ranked", type=PATH)
@click.option("--verdicts", type=PATH, help="Table of `milscope verdicts`; its verdicts become the classes of cells.")
@click.option("--cells", type=PATH, help="Cells of `tile`: sizes and images of slides.  [default: tile beside RANKED]")
@click.option("--out", type=PATH, required=True, help="Directory of the files.")
@configured(ExportCellsConfig)
def export_cells(ranked: Path, verdicts: Path | None, cells: Path | None, out: Path, config: Any) -> None:  # noqa: ANN401
    """Write RANKED cells (of `retrieve`, or a run) for QuPath, TissUUmaps and others."""
    from milscope.export_cells import export_cells as verb

    tell("export", verb(ranked, out, config, verdicts=verdicts, cells=cells))


RESULTS = (report, review, verdicts, heatmap, export, export_cells)
"""In the order of the flow."""
