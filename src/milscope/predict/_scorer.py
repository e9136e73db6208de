"""What a model says of one slide: its logits, and the scores of its cells."""

import math
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from milscope.aggregators import Aggregator, Ensemble
from milscope.devices import mixed_precision
from milscope.models import Model
from milscope.store import Bags, read_cells, read_features
from milscope.tasks import Task
from milscope.types import InputError

CPU = torch.device("cpu")
PLACES = ("x", "y", "width", "height")


class Scored(NamedTuple):
    """A slide's logits, and its rows of cells.parquet."""

    logits: Float[Tensor, " logit"]
    cells: pa.Table


def scorer_of(model: Model, precision: torch.dtype, *, gradient: bool) -> "Scorer":
    """The scorer of a model; whether it sends cells to experts, a slide of one cell tells.

    Args:
        model: The model.
        precision: Arithmetic of the answers.
        gradient: Whether to tell the gradients of cells, too.
    """
    one = Bags(model.aggregator.mean.new_zeros(1, len(model.aggregator.mean)), torch.tensor([0, 1]))
    with torch.inference_mode():
        routes = model.aggregator(one).routing is not None
    return Scorer(model, precision, gradient, routes)


def read(features: Path, slide: str) -> Bags | str:
    """The slide's features, or why they cannot be used."""
    try:
        bags = read_features(features, [slide])
    except InputError as error:
        return str(error)
    if len(bags.features) == 0:
        return "no cells"
    if not (bags.features.sum().isfinite() or torch.isfinite(bags.features).all()):  # the sum is quick
        return "features that are not finite"
    return bags


class Scorer(NamedTuple):
    """What a model says of one slide after the other; see `scorer_of`."""

    model: Model
    precision: torch.dtype
    gradient: bool
    routing: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns of cells.parquet."""
        scores = [name for place, task in enumerate(self.model.questions.tasks) for name in self._columns(place, task)]
        return pa.schema([("slide", pa.string()), ("cell", pa.string()), *((name, pa.float64()) for name in PLACES),
                          *((name, pa.float32()) for name in scores)])

    def slide(self, features: Path, slide: str, bags: Bags, mpp: float = math.nan) -> Scored | str:
        """What the model says of a slide, or why its cells cannot be told; a cell encoded several times is told once.

        Args:
            features: A `features` artifact, or another tool's folder.
            slide: The slide's name.
            bags: Its features.
            mpp: Microns per pixel of the slide, for places in microns; NaN if unknown.
        """
        try:
            cells = read_cells(features, slide, mpp=mpp)
        except InputError as error:
            return str(error)
        logits, columns = self._score(bags)
        frame = _once(cells.assign(**columns)).assign(slide=slide)
        return Scored(logits, pa.Table.from_pandas(frame[self.schema.names], self.schema, preserve_index=False))

    def _score(self, bags: Bags) -> tuple[Float[Tensor, " logit"], dict[str, Float[np.ndarray, " cell"]]]:
        """The slide's logits, and the columns of its cells."""
        model, questions = self.model.aggregator, self.model.questions
        with torch.inference_mode(), mixed_precision(CPU, self.precision):
            found, alone = model.with_cells_alone(bags)
        columns: dict[str, Float[np.ndarray, " cell"]] = {}
        routing = found.attention if found.routing is None else found.routing
        shares = (questions.logits(each.float()) for each in (found.attention, alone, routing))
        for place, (task, attention, logits, routed) in enumerate(zip(questions.tasks, *shares, strict=True)):
            scores = [task.attention(attention), task.suspicion(logits)]
            scores += [self._gradient(bags, place)] if self.gradient else []
            scores += [task.attention(routed)] if self.routing else []
            columns |= {name: score.numpy() for name, score in zip(self._columns(place, task), scores, strict=True)}
        return found.logits[0].float(), columns

    def _columns(self, place: int, task: Task) -> list[str]:
        """Those of the main task have the plain names."""
        names = ["attention", "evidence", *(["gradient"] if self.gradient else []), *(["routing"] if self.routing else [])]
        return names if place == 0 else [f"{name}:{task.name}" for name in names]

    def _gradient(self, bags: Bags, place: int) -> Float[Tensor, " cell"]:
        """The gradient of the slide's suspicion times the cell's standardised features, summed over them."""
        model, questions = self.model.aggregator, self.model.questions
        with torch.enable_grad(), mixed_precision(CPU, self.precision):
            features = bags.features.clone().requires_grad_()
            logits = model(Bags(features, bags.offsets)).logits.float()
            suspicion = questions.tasks[place].suspicion(list(questions.logits(logits))[place])
            slope, = torch.autograd.grad(suspicion.sum(), features)
        one = cast(Aggregator, model.members[0]) if isinstance(model, Ensemble) else model  # members have the same mean
        return (slope * (bags.features - one.mean)).sum(1)


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells of a slide that were encoded through several windows, all cells through one after the other, each told once.

    Attention and routing are shares of the slide: a cell has the sum of what its windows have, so that they still add up to 1.
    Evidence and gradient say how suspicious a part looks: a cell is as suspicious as its most suspicious part, whose score
    a mean would thin out by the parts that show nothing of what is sought. The place is that of the largest window.

    Args:
        rows: cell, x, y, width, height (slide pixels) and scores, one row for each cell and window.
    """
    names = rows["cell"].to_numpy()
    times = int(np.count_nonzero(names == names[:1]))
    if times < 2 or len(names) % times:
        return rows
    by_window = names.reshape(times, -1)
    if not (by_window == by_window[0]).all():  # names that another tool gave to different cells
        return rows
    cells = np.arange(by_window.shape[1])
    largest = rows["width"].fillna(-1).to_numpy().reshape(times, -1).argmax(0)
    merged = rows.iloc[largest * len(cells) + cells].reset_index(drop=True)
    for name in rows.columns.difference(["cell", *PLACES]):
        scores = rows[name].to_numpy().reshape(times, -1)
        merged[name] = scores.sum(0) if name.startswith(("attention", "routing")) else scores.max(0)
    return merged
